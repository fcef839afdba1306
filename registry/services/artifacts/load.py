"""Loading the path of a reference from the catalogue: its base model and the links below it."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy.orm import Session

from registry.catalogue.changes import retraction
from registry.catalogue.tree import bases as base_rows
from registry.catalogue.tree import browse, revisions
from registry.catalogue.tree.bases import BaseRow
from registry.catalogue.tree.revisions import RevisionRow
from registry.reference import Reference
from registry.services.deployment import Deployment
from registry.services.lineage import Link, LoadedPath, PathBase


def load_path(deployment: Deployment, reference: Reference) -> LoadedPath:
    """Load the path of a reference, to compute with it or to serve it.

    Raises:
        NotFoundError: it names nothing.
        RetractedError: the revision or one of its ancestors was retracted.
    """
    with deployment.read() as session:
        return path_in(session, reference)


def path_in(session: Session, reference: Reference) -> LoadedPath:
    """Like `load_path`, in a session."""
    base = base_rows.get(session, reference.path.base)
    return path_to(session, base, None if reference.path.is_base else revisions.find(session, reference))


def path_to(session: Session, base: BaseRow, tip: RevisionRow | None, *, with_retracted: bool = False) -> LoadedPath:
    """The path from a base model to a revision of one of its adapters; None: the base model alone.

    ``with_retracted`` is for comparing weights without serving them.

    Raises:
        RetractedError: the revision or one of its ancestors was retracted.
    """
    found = () if tip is None else revisions.lineage(session, tip.id)
    if not with_retracted:
        retraction.check(found)
    digests = (base.digest, base.table_digest, base.files_digest)
    root = PathBase(base.name, *digests, base.files, base.index, base.table, base.source)
    links = _links(session, found)
    return LoadedPath(links[-1].reference if links else base.name, root, links)


def _links(session: Session, rows: Sequence[RevisionRow]) -> tuple[Link, ...]:
    keys = [row.id for row in rows]
    files = revisions.files_of(session, keys) if keys else {}
    scalings = browse.scalings(session, keys) if keys else {}
    return tuple(Link(row.path, row.number, row.digest, row.rank, scalings[row.id], files[row.id]) for row in rows)
