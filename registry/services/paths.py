"""What a reference means: its base model and the links down to it, with all that is needed to read them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from registry.catalogue import bases as base_rows
from registry.catalogue import blobs as blob_rows
from registry.catalogue import browse, revisions
from registry.catalogue.bases import BaseRow
from registry.catalogue.blobs import BlobRow, StoredFile
from registry.catalogue.revisions import RevisionRow
from registry.errors import UsageError
from registry.reference import Reference
from registry.schemas import TargetGroup
from registry.services.deployment import Deployment
from registry.tensors.table.targets import TargetTable


@dataclass(frozen=True)
class Link:
    """One revision of a path, with its files."""

    row: RevisionRow
    files: tuple[StoredFile, ...]

    def file(self, path: str) -> StoredFile:
        """The stored file of that name."""
        return next(file for file in self.files if file.path == path)


@dataclass(frozen=True)
class LoadedPath:
    """A path as digests: nothing of it changes any more, whatever is published meanwhile."""

    reference: str  # PATH@N, or the base model's name
    base: BaseRow
    index: BlobRow
    table: BlobRow
    links: tuple[Link, ...]  # root first

    def since(self, ancestor: LoadedPath) -> tuple[Link, ...]:
        """The links after an ancestor.

        Raises:
            UsageError: it is not an ancestor of this path.
        """
        digests = [link.row.digest for link in ancestor.links]
        mine = [link.row.digest for link in self.links[: len(digests)]]
        if ancestor.base.digest != self.base.digest or digests != mine or len(digests) >= len(self.links):
            lineage = ", ".join([self.base.name, *(link.row.reference for link in self.links[:-1])])
            raise UsageError(
                f"{ancestor.reference} is not an ancestor of {self.reference}; its ancestors are {lineage}."
            )
        return self.links[len(digests) :]


def load_path(deployment: Deployment, reference: Reference) -> LoadedPath:
    """Look a reference up.

    Raises:
        NotFoundError: it names nothing.
    """
    with deployment.database.read() as session:
        base = base_rows.get(session, reference.path.base)
        found: tuple[RevisionRow, ...] = ()
        if not reference.path.is_base:
            found = revisions.lineage(session, revisions.find(session, reference).id)
        links = tuple(Link(row, revisions.files(session, row.id)) for row in found)
        index, table = blob_rows.get(session, base.index_blob), blob_rows.get(session, base.table_blob)
    return LoadedPath(links[-1].row.reference if links else base.name, base, index, table, links)


@lru_cache(maxsize=8)
def target_table(deployment: Deployment, blob: BlobRow) -> TargetTable:
    """The target table of a base model."""
    return TargetTable.from_document(deployment.read_document(blob))


def target_groups_of(deployment: Deployment, path: LoadedPath) -> list[tuple[TargetGroup, ...]]:
    """The target modules of each link, by leaf name."""
    with deployment.database.read() as session:
        return [browse.targets(session, link.row.id) for link in path.links]
