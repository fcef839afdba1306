"""All revisions at and under a path, in the order of the tree, in pages."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from sqlalchemy import Row, select
from sqlalchemy.orm import Session

from registry.catalogue.database.tables import HAS_REVISIONS, Adapter, Revision
from registry.catalogue.store.blobs import parts
from registry.catalogue.tree import browse, old_names, order
from registry.catalogue.tree.order import PLACE
from registry.errors import UsageError
from registry.reference import Path, Reference


def subtree(
    session: Session, path: Path, *, after: Reference | None = None, limit: int | None = None
) -> tuple[str, ...]:
    """References of all revisions at and under a path, parents before children: adapters as in the tree, by number.

    Those after a reference, at most ``limit``. Without old names, unless ``path`` is one.

    Raises:
        NotFoundError: there is nothing at ``path``; offers the nearest.
        UsageError: ``after`` names no revision by its number.
    """
    browse.check_there(session, path)
    if after is not None and after.number is None:
        raise UsageError(f"{after} names no revision by its number: give the last reference of the previous page.")
    query = select(Adapter.id, Adapter.path, Adapter.live_revisions).where(order.within(path), HAS_REVISIONS)
    if old_names.new_name(session, path) is None:
        query = query.where(old_names.adapter_is_listed(session))
    begun: list[str] = []
    if after is not None:
        own = session.execute(query.where(Adapter.path == str(after.path))).one_or_none()
        begun = [] if own is None else _of_adapter(session, own, after.number or 0, limit)
        query = query.where(order.after(after.path))
    left = None if limit is None else limit - len(begun)
    return (*begun, *_of_adapters(session, session.execute(query.order_by(PLACE).limit(left)).all(), left))


_Counted = Row[int, str, int]
"""Key and path of an adapter, and how many revisions it has."""


def _of_adapters(session: Session, adapters: Sequence[_Counted], limit: int | None) -> Iterator[str]:
    """The first references of some adapters: of as many as fit all, and then the first of one."""
    whole: list[_Counted] = []
    for adapter in adapters:
        if limit is not None and adapter.live_revisions > limit:
            yield from _of_whole(session, whole)
            yield from _of_adapter(session, adapter, 0, limit)
            return
        whole.append(adapter)
        limit = None if limit is None else limit - adapter.live_revisions
    yield from _of_whole(session, whole)


def _of_whole(session: Session, adapters: Sequence[_Counted]) -> Iterator[str]:
    for part in parts(adapters):
        keys = [adapter.id for adapter in part]
        query = select(Revision.adapter_id, Revision.number).where(Revision.adapter_id.in_(keys))
        numbers: dict[int, list[int]] = {key: [] for key in keys}
        for key, number in session.execute(query):
            numbers[key].append(number)
        yield from (f"{adapter.path}@{number}" for adapter in part for number in sorted(numbers[adapter.id]))


def _of_adapter(session: Session, adapter: _Counted, after: int, limit: int | None) -> list[str]:
    """The references of an adapter above a number, at most ``limit``."""
    if limit == 0:
        return []
    query = select(Revision.number).where(Revision.adapter_id == adapter.id, Revision.number > after)
    return [f"{adapter.path}@{number}" for number in session.scalars(query.order_by(Revision.number).limit(limit))]
