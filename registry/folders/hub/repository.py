"""Downloads what the registry takes of a Hub repository at one commit, or of all those of an organisation or a user.

The Hub's own client does it, with its cache, endpoint and token (``HF_ENDPOINT``, ``HF_TOKEN``, ``HF_HOME``,
``HF_HUB_OFFLINE``). Cached files are not downloaded again, so an interrupted run is resumed.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from registry.digest import PREFIX
from registry.errors import (
    IntegrityError,
    InvalidAdapterError,
    NotFoundError,
    RegistryError,
    UnavailableError,
    UsageError,
)
from registry.folders.heaps import Found, Heap, Left, kind_of
from registry.folders.hub.client import DEFAULT_ENDPOINT, HubClient, HubFile
from registry.folders.scan import sort_names
from registry.progress import Progress
from registry.schemas import LeftOut

SCHEME: Final = "hf:"
FORM: Final = "hf:ORG/REPO or hf:ORG/REPO@REVISION"
MAX_SOURCE: Final = 1024

_PART: Final = r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,94}[A-Za-z0-9_])?"
_REFERENCE: Final = re.compile(rf"hf:({_PART}(?:/{_PART})?)(?:@(\S+))?")
_ID: Final = re.compile(rf"(?:https?://[^/]+/)?({_PART}/{_PART}(?:@\S+)?)/?")
_REPO_ID: Final = re.compile(rf"{_PART}/{_PART}")
_SOURCE: Final = re.compile(rf"hf:{_PART}(?:/{_PART})?@[0-9a-f]{{7,64}}(?: at https?://[!-~]+)?")


@dataclass(frozen=True)
class Listing:
    """The files of a repository, classified by the rules of `registry.folders.scan`."""

    where: str
    names: tuple[str, ...]  # taken
    left_out: tuple[LeftOut, ...]
    read: Callable[[str], bytes]  # downloads a document by name


Choose = Callable[[Listing], tuple[Iterable[str], Iterable[LeftOut]]]
"""Selects the names to download, and what else is left out; raises if the repository is not of the wanted kind."""


@dataclass(frozen=True)
class HubReference:
    """A repository and a revision name; None: the Hub's default revision."""

    repo_id: str
    revision: str | None

    @classmethod
    def parse(cls, text: str) -> HubReference:
        """Parse ``hf:ORG/REPO`` or ``hf:ORG/REPO@REVISION``.

        Raises:
            UsageError: it has another form.
        """
        found = _REFERENCE.fullmatch(text)
        if found is None or "--" in found[1] or ".." in found[1] or ".." in (found[2] or ""):
            raise UsageError(f"{text!r} is not a Hub repository: {FORM} is expected, such as hf:BAAI/bge-m3@main.")
        return cls(found[1], found[2])

    def __str__(self) -> str:
        return f"{SCHEME}{self.repo_id}" + ("" if self.revision is None else f"@{self.revision}")


@dataclass(frozen=True)
class Snapshot:
    """What was downloaded: a folder in the Hub's cache, and its source."""

    folder: Path
    source: str  # hf:ORG/REPO@COMMIT, and the endpoint if it is not the default
    left_out: tuple[LeftOut, ...]  # not downloaded
    digests: Mapping[str, str]  # by name, where the Hub lists one

    def check(self, files: Mapping[str, tuple[str, int]]) -> None:
        """Compare files as read with the Hub's digests; ``files`` are digests and sizes by name.

        Raises:
            IntegrityError: ``corrupt``, a file of the Hub's cache is damaged.
        """
        for path, (digest, _) in files.items():
            expected = self.digests.get(path, digest)
            if digest != expected:
                raise IntegrityError(
                    f"{path} of {self.source} is {expected} on the Hub, but {self.folder / path} holds {digest}: it is "
                    "damaged; remove it from the Hub's cache and run this again."
                )


def names_a_hub(place: str | os.PathLike[str]) -> bool:
    """Whether the user's argument is a Hub repository; a folder of such a name is given as ``./hf:...``."""
    return os.fspath(place).startswith(SCHEME)


def as_repository(place: str | os.PathLike[str]) -> str | None:
    """``hf:ORG/REPO``, for what is written as a repository's id or as its page on the Hub; None: another text."""
    found = _ID.fullmatch(os.fspath(place))
    return None if found is None else f"{SCHEME}{found[1]}"


def check_repo_id(text: str) -> str:
    """Return ``ORG/REPO`` if it can be the name of a repository.

    Raises:
        UsageError: it can't.
    """
    if not is_repo_id(text):
        raise UsageError(
            f"{text[:200]!r} is no name of a repository on a Hub: ORG/REPO is expected, of letters, digits, '-', '_' "
            "and '.'."
        )
    return text


def is_repo_id(text: str) -> bool:
    """Whether ``ORG/REPO`` can be the name of a repository."""
    wrong = "--" in text or ".." in text or text.endswith(".git")
    return _REPO_ID.fullmatch(text) is not None and not wrong


def written_repo(text: str) -> str:
    """The ``ORG/REPO`` of ``hf:ORG/REPO``, which is to be written.

    Raises:
        UsageError: it has another form.
    """
    repo_id = text.removeprefix(SCHEME)
    if not is_repo_id(repo_id):
        raise UsageError(
            f"{text[:200]!r} can't be written: hf:ORG/REPO is expected, of letters, digits, '-', '_' and '.', without "
            "a revision; what is written becomes the newest commit of main."
        )
    return repo_id


def check_source(text: str | None) -> str | None:
    """Return a source if it has the form of `Snapshot.source`.

    Raises:
        UsageError: it has another form.
    """
    if text is not None and (len(text) > MAX_SOURCE or _SOURCE.fullmatch(text) is None):
        raise UsageError(f"The source {text[:200]!r} is malformed: hf:ORG/REPO@COMMIT is expected.")
    return text


def bring(text: str, choose: Choose, error: type[RegistryError], progress: Progress) -> Snapshot:
    """Download what ``choose`` selects of a repository.

    Raises:
        UsageError: the text names no repository.
        NotFoundError: the repository or revision does not exist, or is hidden from the token.
        NotAllowedError: the repository is gated, or the token is denied.
        UnavailableError: the Hub can't be reached, or the client's package is not installed.
        error: file names that can't be taken; and whatever ``choose`` raises.
    """
    reference = HubReference.parse(text)
    client = HubClient(reference.repo_id, str(reference))
    commit = client.resolve(reference.revision)
    at = "" if client.endpoint == DEFAULT_ENDPOINT else f" at {client.endpoint}"
    source = f"{SCHEME}{reference.repo_id}@{commit}{at}"
    if _SOURCE.fullmatch(source) is None:
        raise UnavailableError(
            f"{client.endpoint} gives {commit!r} as the commit of {reference}, which is not a commit id."
        )
    files = {file.path: file for file in client.files(commit)}
    names, left_out = sort_names(files, error)

    def read(path: str) -> bytes:
        return client.bring(commit, [files[path]], progress)[path].read_bytes()

    wanted, others = choose(Listing(str(reference), tuple(names), tuple(left_out), read))
    chosen = [files[path] for path in wanted]
    places = client.bring(commit, chosen, progress)
    left_out = sorted([*left_out, *others], key=lambda left: left.path)
    return Snapshot(_root(places), source, tuple(left_out), _digests(chosen))


def _root(places: Mapping[str, Path]) -> Path:
    """The folder of the snapshot, derived from the place of one of its files."""
    path, place = next(iter(places.items()))
    return place.parents[path.count("/")]


def _digests(files: Iterable[HubFile]) -> dict[str, str]:
    return {file.path: PREFIX + file.sha256 for file in files if file.sha256 is not None}


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
