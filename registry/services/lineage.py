"""What a path is made of, as digests: the base model and the links down to it.

It comes from the catalogue (`registry.services.paths`), or from a bundle that another registry sent
(`registry.services.bundles`); composing works on it in either case, and needs no database.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Protocol

from registry.errors import UsageError
from registry.services.transfer import ClosableSource
from registry.storage.place import BlobPlace
from registry.tensors.files.source import read_range
from registry.tensors.table.targets import TargetTable


class Blobs(Protocol):
    """Where the bytes of a path are read from."""

    def open_blob(self, place: BlobPlace) -> ClosableSource:
        """Open a blob for checked reads."""


def read_blob(blobs: Blobs, place: BlobPlace) -> bytes:
    """A whole blob in memory; for small ones."""
    source = blobs.open_blob(place)
    try:
        return bytes(read_range(source, 0, source.size))
    finally:
        source.close()


def read_document(blobs: Blobs, place: BlobPlace) -> Mapping[str, Any]:
    """A stored JSON document that a registry wrote."""
    document: Mapping[str, Any] = json.loads(read_blob(blobs, place))
    return document


@dataclass(frozen=True)
class PathFile:
    """A file of a base model or a revision: its name and its bytes."""

    path: str
    place: BlobPlace


@dataclass(frozen=True)
class PathBase:
    """The base model of a path."""

    name: str
    digest: str  # of the weights
    table_digest: str
    files_digest: str
    files: tuple[PathFile, ...]
    index: BlobPlace
    table: BlobPlace


@dataclass(frozen=True)
class Link:
    """One revision of a path, with its files."""

    path: str
    number: int
    digest: str
    rank: int
    scalings: tuple[float, ...]  # the distinct ones, ascending
    files: tuple[PathFile, ...]

    @property
    def reference(self) -> str:
        """``PATH@N``."""
        return f"{self.path}@{self.number}"

    def file(self, path: str) -> BlobPlace:
        """The bytes of the file of that name."""
        return next(file.place for file in self.files if file.path == path)


@dataclass(frozen=True)
class LoadedPath:
    """A path as digests: nothing of it changes any more, whatever is published meanwhile."""

    reference: str  # PATH@N, or the base model's name
    base: PathBase
    links: tuple[Link, ...]  # root first

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


@dataclass(frozen=True)
class _Table:
    """A table by its digest alone, whoever reads it."""

    digest: str
    read: Callable[[], Mapping[str, Any]] = field(compare=False)


@lru_cache(maxsize=8)
def _parsed(table: _Table) -> TargetTable:
    return TargetTable.from_document(table.read())


def target_table(blobs: Blobs, base: PathBase) -> TargetTable:
    """The target table of a base model."""
    return _parsed(_Table(base.table.digest, lambda: read_document(blobs, base.table)))
