"""All revisions at and under a path, in the order of publishing, in pages."""

from __future__ import annotations

from typing import Final

from sqlalchemy import ColumnElement, Select, func, select
from sqlalchemy.orm import Session

from registry.catalogue.database.probes import finds
from registry.catalogue.database.tables import Adapter, Revision
from registry.catalogue.database.visibility import in_subtree
from registry.catalogue.tree import browse, old_names, revisions
from registry.errors import UsageError
from registry.reference import Path, Reference

FEW: Final = 10_000
"""Revisions that an index may give to be put in order."""


def subtree(
    session: Session, path: Path, *, after: Reference | None = None, limit: int | None = None
) -> tuple[str, ...]:
    """References of all revisions at and under a path, parents before children: in the order of publishing.

    Those after a revision, at most ``limit``. Without old names, unless ``path`` is one.

    Raises:
        NotFoundError: there is nothing at ``path``, or no revision ``after``; offers the nearest.
        UsageError: ``after`` is no revision by its number.
    """
    browse.check_there(session, path)
    inside = [in_subtree(path)]
    if old_names.new_name(session, path) is None:
        inside.append(old_names.adapter_is_listed(session))
    if after is not None and after.number is None:
        raise UsageError(f"{after} names no revision by its number: give the last reference of the previous page.")
    rest = [] if after is None else [Revision.id > revisions.find(session, after).id]
    query = select(Adapter.path, Revision.number).join(Adapter, Adapter.id == Revision.adapter_id)
    if limit is None:
        found = query.where(*inside, *rest)
    else:
        page = _page(session, inside).where(*rest).order_by(Revision.id).limit(limit)
        found = query.where(Revision.id.in_(session.scalars(page).all()))
    return tuple(f"{at}@{number}" for at, number in session.execute(found.order_by(Revision.id)))


def _page(session: Session, inside: list[ColumnElement[bool]]) -> Select[int]:
    """The keys of the revisions of some adapters: of few by their index, of many by walking over all keys."""
    few = select(Revision.id).join(Adapter, Adapter.id == Revision.adapter_id).where(*inside).limit(FEW + 1)
    if (session.scalar(select(func.count()).select_from(few.subquery())) or 0) <= FEW:
        return select(Revision.id).where(Revision.id.in_(few))
    own = select(Adapter.id).where(Adapter.id == Revision.adapter_id, *inside).correlate(Revision)
    return select(Revision.id).where(finds(own))
