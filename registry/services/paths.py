"""What a reference means: its base model and the links down to it, as the catalogue has them now."""

from __future__ import annotations

from sqlalchemy.orm import Session

from registry.catalogue import bases as base_rows
from registry.catalogue import blobs as blob_rows
from registry.catalogue import browse, retraction, revisions
from registry.catalogue.revisions import RevisionRow
from registry.reference import Reference
from registry.services.deployment import Deployment, path_files, place_of
from registry.services.lineage import Link, LoadedPath, PathBase


def load_path(deployment: Deployment, reference: Reference) -> LoadedPath:
    """Look a reference up, to compute with it or to hand it out.

    Raises:
        NotFoundError: it names nothing.
        RetractedError: it was retracted, or something that it was trained on.
    """
    with deployment.read() as session:
        return path_in(session, reference)


def path_in(session: Session, reference: Reference) -> LoadedPath:
    """The same, in a session."""
    base = base_rows.get(session, reference.path.base)
    found: tuple[RevisionRow, ...] = ()
    if not reference.path.is_base:
        found = revisions.lineage(session, revisions.find(session, reference).id)
        retraction.check(found)
    files = path_files(base.files)
    index, table = (place_of(blob_rows.get(session, digest)) for digest in (base.index_blob, base.table_blob))
    links = tuple(_link(session, row) for row in found)
    root = PathBase(base.name, base.digest, base.table_digest, base.files_digest, files, index, table)
    return LoadedPath(links[-1].reference if links else base.name, root, links)


def _link(session: Session, row: RevisionRow) -> Link:
    groups = browse.targets(session, row.id)
    scalings = tuple(sorted({scale for group in groups for scale in group.scalings}))
    files = path_files(revisions.files(session, row.id))
    return Link(row.path, row.number, row.digest, row.rank, scalings, files)
