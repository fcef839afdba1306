"""Loads the path of a reference: its base model and the links below it."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy.orm import Session

from registry.catalogue.changes import retraction
from registry.catalogue.tree import bases as base_rows
from registry.catalogue.tree import links
from registry.catalogue.tree.bases import BaseRow
from registry.catalogue.tree.links import LinkRow
from registry.catalogue.tree.revisions import RevisionRow
from registry.reference import Reference
from registry.services.deployment import Deployment
from registry.tensors.lineage.paths import Link, LoadedPath, PathBase, trained_in


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
    return path_of(base, () if reference.path.is_base else links.links(session, reference))


def path_to(session: Session, base: BaseRow, tip: RevisionRow | None, *, with_retracted: bool = False) -> LoadedPath:
    """The path from a base model to a revision of one of its adapters; None: the base model alone.

    ``with_retracted`` is for comparing weights without serving them.

    Raises:
        RetractedError: the revision or one of its ancestors was retracted.
    """
    found = () if tip is None else links.links_to(session, tip.id)
    return path_of(base, found, with_retracted=with_retracted)


def path_of(base: BaseRow, found: Sequence[LinkRow], *, with_retracted: bool = False) -> LoadedPath:
    """The path from a base model along some links, root first; the arguments and errors are those of `path_to`."""
    if not with_retracted:
        retraction.check([link.revision for link in found])
    digests = (base.digest, base.table_digest, base.files_digest)
    root = PathBase(base.name, *digests, base.files, base.index, base.table, base.source)
    own = tuple(_link(one) for one in found)
    return LoadedPath(own[-1].reference if own else base.name, root, own)


def _link(found: LinkRow) -> Link:
    row = found.revision
    how = trained_in(row.manifest)
    return Link(row.path, row.number, row.digest, row.rank, found.scalings, found.files, how)
