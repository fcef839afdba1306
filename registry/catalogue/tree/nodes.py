"""The adapters as a tree: all of them, down to a depth, or a page of them in the order of the tree.

Which adapters were trained on a revision, or directly on a base model.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Select, bindparam, func, select
from sqlalchemy.orm import Session, aliased
from sqlalchemy.sql.elements import ColumnElement

from registry.catalogue.database.prepared import Prepared, reading
from registry.catalogue.database.tables import HAS_REVISIONS, Adapter, BaseModelRecord, Revision
from registry.catalogue.database.transactions import finds, plan_for_values
from registry.catalogue.database.visibility import rights_of
from registry.catalogue.store.blobs import parts
from registry.catalogue.tree import browse, old_names, order
from registry.catalogue.tree.order import PLACE
from registry.errors import UsageError
from registry.reference import Path
from registry.schemas import RevisionSummary, Tree, TreeNode
from registry.schemas.tags import ChildAdapter, Children

LISTED: Final = 20
# SQLite may neither group by an index of all revisions, nor begin at the adapters: both are many more.
_ADAPTER: Final = (Revision.adapter_id + 0).label("adapter_id")


def of_revision(session: Session, revision_id: int) -> Children:
    """The adapters with revisions that are pinned to a revision, as far as the session sees them."""
    return _children(reading(session).rows(_OF_REVISION, {"id": revision_id}))


def of_base(session: Session, name: str) -> Children:
    """The adapters with revisions that were trained on the base model itself, as far as the session sees them."""
    base_id = select(BaseModelRecord.id).where(BaseModelRecord.name == name).scalar_subquery()
    chosen = _of_each().join(Adapter, Adapter.id == Revision.adapter_id)
    pinned = Revision.parent_id.is_(None) & (Adapter.base_id == base_id)
    return _children(session.execute(_query(chosen.where(pinned))).all())


def _of_each() -> Select[*tuple[Any, ...]]:
    return select(_ADAPTER, func.count().label("revisions"), func.max(Revision.number).label("newest"))


def _query(chosen: Select[*tuple[Any, ...]]) -> Select[*tuple[Any, ...]]:
    each = chosen.group_by(_ADAPTER).subquery()
    return (
        select(Adapter.path, each.c.revisions, each.c.newest, func.count(Adapter.path).over().label("total"))
        .outerjoin_from(each, Adapter, Adapter.id == each.c.adapter_id)
        .order_by(Adapter.path.is_(None), Adapter.path)
        .limit(LISTED)
    )


_OF_REVISION: Final = Prepared(lambda _: _query(_of_each().where(Revision.parent_id == bindparam("id"))))


def _children(rows: Sequence[Any]) -> Children:
    seen = [row for row in rows if row.path is not None]
    adapters = [ChildAdapter(path=row.path, revisions=row.revisions, newest=f"{row.path}@{row.newest}") for row in seen]
    return Children(total=rows[0].total if rows else 0, adapters=tuple(adapters))


@dataclass(frozen=True)
class Section:
    """Which part of a tree is requested; by default, all of it."""

    path: Path | None = None  # what is at and under it
    depth: int | None = None  # so many levels below it, or below the base models
    after: Path | None = None  # what comes after it in the order of the tree
    limit: int | None = None  # so many adapters

    def check(self) -> None:
        """Raise `UsageError` if a number is out of its range."""
        if self.depth is not None and self.depth < 0:
            raise UsageError(f"The depth of a tree is {self.depth}: 0 or more is expected.")
        if self.limit is not None and self.limit < 1:
            raise UsageError(f"The limit of a tree is {self.limit}: 1 or more is expected.")

    @property
    def deepest(self) -> int | None:
        """How many "/" a path has at most."""
        if self.depth is None:
            return None
        return self.depth + (0 if self.path is None else str(self.path).count("/"))


def tree(session: Session, section: Section = Section(), *, with_old_names: bool = False) -> Tree:
    """Adapters with their newest revisions as a tree.

    A page also has what is above its first adapter, so that it is a tree by itself. Without old names, unless the path
    of the section is one.

    Raises:
        NotFoundError: nothing exists at the path; offers the nearest.
        UsageError: the depth is negative or the limit not positive.
    """
    section.check()
    plan_for_values(session)
    if section.path is not None:
        browse.check_there(session, section.path)
        with_old_names = with_old_names or old_names.new_name(session, section.path) is not None
    listed = [] if with_old_names else [old_names.adapter_is_listed(session)]
    keys = list(session.scalars(_page(section, order.around(rights_of(session).scopes), listed)))
    more = section.limit is not None and len(keys) > section.limit
    shown = _summaries(session, keys[: section.limit])
    following = max(shown, key=order.place_of) if more else None
    above = _above(session, section, min(shown, key=order.place_of, default=None), listed) if section.after else {}
    roots = [str(section.path)] if section.path else _bases(session, section, [*shown], following, with_old_names)
    cut = _cut(session, section, [*roots, *shown], listed)
    return _built(roots, above | shown, cut, following)


def names(session: Session, path: Path, *, from_place: str = "", limit: int) -> list[str]:
    """Paths of the adapters at and under a path, in the order of the tree: those from a place on, at most ``limit``."""
    bounds = [max(order.place_of(path), from_place) <= PLACE, order.within(path)]
    listed = [] if old_names.new_name(session, path) is not None else [old_names.adapter_is_listed(session)]
    query = select(Adapter.path).where(*bounds, HAS_REVISIONS, *listed).order_by(PLACE).limit(limit)
    return list(session.scalars(query))


def newest(session: Session, paths: Sequence[str]) -> dict[str, RevisionSummary]:
    """The newest revisions of some adapters, as far as these exist, by path."""
    found = (_summaries(session, session.scalars(_newest(Adapter.path.in_(part))).all()) for part in parts(paths))
    return {path: one for some in found for path, one in some.items()}


def _page(section: Section, seen: Sequence[ColumnElement[bool]], listed: Sequence[ColumnElement[bool]]) -> Select[int]:
    """Keys of the newest revisions in order, with one more than the limit."""
    bounds = [] if section.after is None else [order.after(section.after)]
    if section.path is not None:
        bounds.append(order.within(section.path))
    query = _newest(*[*bounds, *seen] or [PLACE >= ""]).where(*listed)
    if section.deepest is not None:
        query = query.where(order.level(Adapter.path) <= section.deepest)
    if section.limit is None:
        return query
    return query.order_by(PLACE).limit(section.limit + 1)


def _newest(*bounds: ColumnElement[bool]) -> Select[int]:
    """Keys of the newest revisions of adapters within bounds, of which SQLite begins with the first."""
    own = select(Revision.id).where(Revision.adapter_id == Adapter.id).correlate(Adapter)
    return select(own.order_by(Revision.number.desc()).limit(1).scalar_subquery()).where(*bounds, HAS_REVISIONS)


def _summaries(session: Session, keys: Sequence[int]) -> dict[str, RevisionSummary]:
    return {one.path: one for part in parts(keys) for one in browse.summaries(session, part).values()}


def _above(
    session: Session, section: Section, first: str | None, listed: Sequence[ColumnElement[bool]]
) -> dict[str, RevisionSummary]:
    """Adapters above the first one of a page, down from the path of the section."""
    top = "" if section.path is None else str(section.path)
    names = (f"{top}/" if first is None else first).split("/")
    over = ["/".join(names[:count]) for count in range(2, len(names))]
    over = [path for path in over if len(path) >= len(top)]
    return _summaries(session, session.scalars(_newest(Adapter.path.in_(over)).where(*listed)).all())


def _bases(
    session: Session, section: Section, shown: Sequence[str], following: str | None, with_old_names: bool
) -> list[str]:
    """Base models above the adapters of a page, and those that come between its first and its last."""
    query = select(BaseModelRecord.name)
    if not with_old_names:
        query = query.where(old_names.base_is_listed(session))
    used = {path.partition("/")[0] for path in shown}
    begun = "" if section.after is None else section.after.base
    ended = None if following is None else following.partition("/")[0]
    return sorted(
        name for name in session.scalars(query) if name in used or (name > begun and (ended is None or name < ended))
    )


def _cut(
    session: Session, section: Section, paths: Sequence[str], listed: Sequence[ColumnElement[bool]]
) -> frozenset[str]:
    """Those of the deepest level that have adapters below."""
    if section.deepest is None:
        return frozenset()
    ends = [path for path in paths if path.count("/") == section.deepest]
    found = set()
    for path in ends if section.deepest == 0 else ():
        below = select(Adapter.id).where(order.within(Path.parse(path)), HAS_REVISIONS, *listed)
        found |= {path} if session.scalar(below.limit(1)) is not None else set()
    # What is below an adapter that is seen is seen too, and a revision with others trained on it is not deleted.
    over = aliased(Adapter)
    for part in parts(ends if section.deepest else ()):
        below = select(Adapter.id).where(Adapter.parent_id == over.id, HAS_REVISIONS, *listed).correlate(over)
        found |= set(session.scalars(select(over.path).where(over.path.in_(part), finds(below))))
    return frozenset(found)


def _built(
    roots: Sequence[str], shown: dict[str, RevisionSummary], cut: Collection[str], following: str | None
) -> Tree:
    under: dict[str, list[str]] = defaultdict(list)
    for path in shown:
        under[_seen_above(path, shown)].append(path)

    def node(at: str, above: str) -> TreeNode:
        children = tuple(node(below, at) for below in sorted(under[at]))
        name = at.removeprefix(f"{above}/")
        return TreeNode(path=at, name=name, revision=shown.get(at), children=children, more=at in cut)

    return Tree(roots=tuple(node(root, root.rpartition("/")[0]) for root in roots), next=following)


def _seen_above(path: str, seen: Collection[str]) -> str:
    """The nearest visible ancestor of an adapter: hidden ones are skipped."""
    above = path.rpartition("/")[0]
    while "/" in above and above not in seen:
        above = above.rpartition("/")[0]
    return above
