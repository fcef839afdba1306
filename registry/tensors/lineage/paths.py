"""What a path is made of, as digests: the base model and the links below it.

It is loaded from the catalogue (`registry.services.artifacts.load`) or from a bundle that another registry sent
(`registry.tensors.lineage.received_bundles`). Composing works on either and needs no database.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, Final, Protocol

from registry.digest import BlobRef, StoredFile
from registry.errors import UsageError
from registry.files.source import read_range
from registry.folders.scan import EXACT, Form, form_of
from registry.operations.transfer import ClosableSource
from registry.reference import hub_name
from registry.schemas.artifacts import FourBits
from registry.schemas.weights import NamedLink, weights_by_digest
from registry.tensors.table.targets import TargetTable
from registry.tensors.table.ties import apart_in_files, holds_copies

TRAINED: Final = "trained_quantised"
"""The key of a manifest for how the weights were quantised that an adapter was trained on; only if known."""


class Blobs(Protocol):
    """Where the bytes of a path are read from."""

    def open_blob(self, blob: BlobRef) -> ClosableSource:
        """Open a blob for checked reads."""


def read_blob(blobs: Blobs, blob: BlobRef) -> bytes:
    """A whole blob in memory; for small ones."""
    source = blobs.open_blob(blob)
    try:
        return bytes(read_range(source, 0, source.size))
    finally:
        source.close()


def trained_in(manifest: str) -> FourBits | None:
    """How a revision's base was quantised while it was trained, by its manifest; None: not recorded."""
    if f'"{TRAINED}"' not in manifest:  # most do not, and parsing takes longer than looking
        return None
    said = json.loads(manifest).get(TRAINED)
    return None if said is None else FourBits.model_validate(said)


def read_document(blobs: Blobs, blob: BlobRef) -> Mapping[str, Any]:
    """A stored JSON document that a registry wrote."""
    document: Mapping[str, Any] = json.loads(read_blob(blobs, blob))
    return document


@dataclass(frozen=True)
class PathBase:
    """The base model of a path."""

    name: str
    digest: str  # of the weights
    table_digest: str
    files_digest: str
    files: tuple[StoredFile, ...]
    index: BlobRef
    table: BlobRef
    source: str | None  # hf:ORG/REPO@COMMIT, and " at ENDPOINT" where that is another; None: a folder

    @property
    def hub_name(self) -> str:
        """What cards call it: its repo on the Hub if it comes from there, else its repo id in the views."""
        return hub_name(self.name, self.source)


@dataclass(frozen=True)
class Link:
    """One revision of a path, with its files."""

    path: str
    number: int
    digest: str
    rank: int
    scalings: tuple[float, ...]  # the distinct ones, ascending
    files: tuple[StoredFile, ...]
    trained_quantised: FourBits | None = None  # how the base was quantised while it was trained, where that is known
    weight: float = 1.0  # what it adds is multiplied by: of a request, and in no digest of a revision

    @property
    def reference(self) -> str:
        """``PATH@N``."""
        return f"{self.path}@{self.number}"

    @property
    def form(self) -> Form:
        """Of which of its files it is made."""
        return form_of([file.path for file in self.files])

    @property
    def is_exact(self) -> bool:
        """Whether it is a full fine-tune that replaces tensors of the base model, and makes all before it history."""
        return self.form is EXACT

    def file(self, path: str) -> StoredFile:
        """The file of that name."""
        return next(file for file in self.files if file.path == path)


@dataclass(frozen=True)
class LoadedPath:
    """A path as digests; immutable, whatever is published meanwhile."""

    reference: str  # PATH@N, or the base model's name
    base: PathBase
    links: tuple[Link, ...]  # root first

    @property
    def tip(self) -> str:
        """The digest of the last revision, or of the base's weights."""
        return self.links[-1].digest if self.links else self.base.digest

    @property
    def tip_files(self) -> tuple[StoredFile, ...]:
        """The files that were published as the last revision, or added as the base model."""
        return self.links[-1].files if self.links else self.base.files

    @property
    def exact(self) -> Link | None:
        """The last exact link: the model that the links after it go on is its own, not the base model."""
        return next((link for link in reversed(self.links) if link.is_exact), None)

    @property
    def live(self) -> tuple[Link, ...]:
        """The links that add to the model that `exact` gives: all, if it is None."""
        exact = self.exact
        return self.links if exact is None else self.links[self.links.index(exact) + 1 :]

    @property
    def dead(self) -> int:
        """How many of the links are history: the number of the first live one."""
        return len(self.links) - len(self.live)

    @property
    def weights(self) -> dict[str, float]:
        """Weights other than 1 by the digest of their link."""
        return {link.digest: link.weight for link in self.links if link.weight != 1}

    def weighted(self, text: str | None, ancestor: LoadedPath | None = None) -> LoadedPath:
        """The path with the weights of a request (`registry.schemas.weights`); links without one have the weight 1.

        Raises:
            UsageError: a weight is malformed, or of no link that the request is about: one at or above ``ancestor``,
                or one that a full fine-tune after it makes history.
        """
        named = [NamedLink(link.reference, link.digest) for link in self.links]
        weights = weights_by_digest(text, named, self.reference)
        below = 0 if ancestor is None else len(ancestor.links)
        for at, link in enumerate(self.links):
            if link.digest in weights and at < below and ancestor is not None:
                raise UsageError(
                    f"--since {ancestor.reference} makes an adapter for weights that {link.reference} is in as it is: "
                    "leave its weight or --since out."
                )
            if link.digest in weights and at < self.dead and self.exact is not None:
                raise UsageError(
                    f"{link.reference} can't have a weight: {self.exact.reference} is a full fine-tune, which replaces "
                    "the weights of the model and all links before it. Leave its weight out."
                )
        return replace(self, links=tuple(replace(one, weight=weights.get(one.digest, 1.0)) for one in self.links))

    def since(self, ancestor: LoadedPath) -> tuple[Link, ...]:
        """The links after an ancestor.

        Raises:
            UsageError: it is not an ancestor of this path.
        """
        digests = [link.digest for link in ancestor.links]
        mine = [link.digest for link in self.links[: len(digests)]]
        if ancestor.base.digest != self.base.digest or digests != mine or len(digests) >= len(self.links):
            lineage = ", ".join([self.base.name, *(link.reference for link in self.links[:-1])])
            raise UsageError(
                f"{ancestor.reference} is not an ancestor of {self.reference}; its ancestors are {lineage}."
            )
        return self.links[len(digests) :]


def with_ancestors(paths: Iterable[LoadedPath]) -> tuple[LoadedPath, ...]:
    """Some paths and all of their ancestors, each once."""
    found: dict[str, LoadedPath] = {}
    for path in paths:
        for count in range(len(path.links) + 1):
            reference = path.links[count - 1].reference if count else path.base.name
            found.setdefault(reference, replace(path, reference=reference, links=path.links[:count]))
    return tuple(found.values())


@dataclass(frozen=True)
class _Table:
    """A cache key: the digests of a table and of its base's index, and how to read them."""

    digest: str
    index_digest: str
    read: Callable[[], Mapping[str, Any]] = field(compare=False)
    read_index: Callable[[], Mapping[str, Any]] = field(compare=False)


@lru_cache(maxsize=8)
def _parsed(asked: _Table) -> TargetTable:
    table = TargetTable.from_document(asked.read())
    if not holds_copies(table):
        return table
    digests = {name: tensor["digest"] for name, tensor in asked.read_index()["tensors"].items()}
    return replace(table, outdated=frozenset(apart_in_files(table, digests)))


def target_table(blobs: Blobs, base: PathBase) -> TargetTable:
    """The target table of a base model; ``outdated`` has the ties of an older version that its files contradict."""
    table, index = (lambda: read_document(blobs, base.table)), (lambda: read_document(blobs, base.index))
    return _parsed(_Table(base.table.digest, base.index.digest, table, index))
