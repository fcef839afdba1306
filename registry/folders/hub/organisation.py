"""The repositories of an organisation or a user of a Hub, downloaded as a heap of folders."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Final

from registry.errors import InvalidAdapterError, NotFoundError, RegistryError, UnavailableError
from registry.folders.heap.kinds import kind_of
from registry.folders.heap.walk import Found, Heap, Left
from registry.folders.hub.client import HubClient
from registry.folders.hub.repository import SCHEME, Listing, Snapshot, bring
from registry.progress import Progress
from registry.schemas import LeftOut

_ORGANISATION: Final = re.compile(r"hf:([A-Za-z0-9_][A-Za-z0-9_.-]{0,95})")


def organisation_of(source: str) -> str | None:
    """The name in ``hf:ORG``; None: another text, such as a folder."""
    found = _ORGANISATION.fullmatch(source)
    return None if found is None else found[1]


def hub_heap(organisation: str, progress: Progress) -> Heap:
    """Download what the repositories of an organisation hold that an import is about.

    Raises:
        NotFoundError: it has no repositories of models that the token sees.
        UnavailableError: the Hub can't be reached, or its client is not installed.
    """
    repositories = HubClient(organisation, f"{SCHEME}{organisation}").repositories()
    if not repositories:
        raise NotFoundError(f"{SCHEME}{organisation} has no repositories of models that HF_TOKEN gives access to.")
    heap = Heap(None)
    for repo in repositories:
        _bring(heap, repo, progress)
    return heap


def _bring(heap: Heap, repo: str, progress: Progress) -> None:
    found: list[tuple[str, ...]] = []

    def choose(listing: Listing) -> tuple[Iterable[str], Iterable[LeftOut]]:
        found.append(listing.names)
        kind = kind_of(listing.names)
        if kind is None or kind.taken is None:
            raise InvalidAdapterError(f"{SCHEME}{repo} holds neither an adapter nor a model.", code="missing_file")
        return tuple(_wanted(listing.names)), ()

    try:
        snapshot = bring(f"{SCHEME}{repo}", choose, InvalidAdapterError, progress)
    except UnavailableError:
        raise
    except RegistryError as problem:
        heap.left.append(Left(f"{SCHEME}{repo}", "repository", str(problem)))
        return
    kind = kind_of([name for name in found[0] if "/" not in name])
    if kind is None:
        heap.left.append(Left(place_of(snapshot), "repository", "neither an adapter nor a model lies at its top"))
        return
    heap.found.append(Found(snapshot.folder, place_of(snapshot), kind, repo=repo))


def _wanted(names: tuple[str, ...]) -> Iterator[str]:
    """What lies at the top of a repository: further folders are formats of other programs."""
    yield from (name for name in names if "/" not in name) if any("/" not in name for name in names) else names


def place_of(snapshot: Snapshot) -> str:
    """How plans call a repository: by its commit."""
    return snapshot.source.partition(" ")[0]
