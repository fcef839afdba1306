"""Search: revisions that meet every given condition, of each adapter the newest or all, by path or by a number.

If few revisions meet one of the conditions, an index gives these, and they are looked at and put in order. Else
revisions are looked at in the requested order, until a page is full.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Select, and_, func, or_, select
from sqlalchemy.orm import Session
from sqlalchemy.sql.elements import ColumnElement

from registry.catalogue.database.tables import Adapter, Revision
from registry.catalogue.database.transactions import plan_for_values
from registry.catalogue.store.blobs import parts
from registry.catalogue.tree import browse, order, search_conditions
from registry.catalogue.tree.old_names import adapter_is_listed, new_name
from registry.catalogue.tree.order import PLACE
from registry.catalogue.tree.search_conditions import Condition
from registry.catalogue.tree.search_values import METRICS, STATISTICS, Comparison, Sorting, with_statistics
from registry.errors import UsageError
from registry.reference import Path
from registry.schemas import RevisionSummary
from registry.schemas.requests import SearchRequest

FEW: Final = 10_000
"""Revisions that an index may give to be put in order."""
AT_ONCE: Final = 1000
"""Values of a metric or a statistic that are looked at first."""


@dataclass(frozen=True)
class SearchPosition:
    """Where a search goes on: after this revision; the number and the value where the order is by them."""

    path: Path
    number: int | None = None
    value: float | None = None


def search(
    session: Session, request: SearchRequest, *, after: SearchPosition | None = None, limit: int | None = None
) -> tuple[RevisionSummary, ...]:
    """Revisions that meet every given condition: of each adapter the newest, or all, newest first; by path.

    Args:
        session: an open transaction.
        request: the conditions; of a ``base`` that was renamed, adapters are found under their old names, too.
        after: only what comes after this one; one of a search with the same conditions.
        limit: at most so many.

    Raises:
        UsageError: a condition is malformed, the statistic is unknown, or ``after`` is of another order; says the
            form, or the names.
        NotFoundError: the base model does not exist, or nothing exists at ``path``; offers the nearest.
    """
    plan_for_values(session)
    sorting = None if request.sort is None else Sorting.parse(request.sort)
    compared = [] if request.metric is None else [Comparison.parse(METRICS, request.metric)]
    compared += [] if request.stat is None else [Comparison.parse(STATISTICS, one) for one in request.stat.split(",")]
    compared += [] if sorting is None else [sorting.is_there]
    _check_position(after, numbered=request.all_revisions or sorting is not None, valued=sorting is not None)
    conditions = [
        None if request.base is None else search_conditions.base(session, request.base),
        None if request.path is None else search_conditions.path(session, Path.parse(request.path)),
        None if request.depth is None else search_conditions.depth(request.path, request.depth),
        None if request.tag is None else search_conditions.tag(request.tag),
        None if request.author is None else search_conditions.author(request.author),
        None if request.parent_known_by is None else search_conditions.parent_known_by(request.parent_known_by),
        None if request.rank is None else search_conditions.rank(request.rank),
        *map(search_conditions.number, compared),
        None if request.target is None else search_conditions.target(request.target),
        search_conditions.scopes(session),
        # Last, as it takes the longest to look at.
        search_conditions.text(session, request.text) if request.text else None,
    ]
    old_names = request.old_names
    for name in (request.base, request.path):
        old_names = old_names or (name is not None and new_name(session, Path.parse(name)) is not None)
    if not old_names:
        conditions.insert(0, Condition(adapter_is_listed(session), None, of_adapter=True))
    query = _Query([one for one in conditions if one is not None], sorting, request.all_revisions, after, limit)
    keys = query.keys(session)
    figures = [one.name for one in compared if one.values is STATISTICS]
    found: dict[int, RevisionSummary] = {}
    for part in parts(keys):
        found |= with_statistics(session, browse.summaries(session, part), figures)
    return tuple(found[key] for key in keys)


def _check_position(after: SearchPosition | None, *, numbered: bool, valued: bool) -> None:
    if after is not None and ((after.number is not None) != numbered or (after.value is not None) != valued):
        raise UsageError("The position to continue from is of a search in another order; start from the beginning.")


@dataclass(frozen=True)
class _Query:
    """A search for the keys of revisions, in order."""

    conditions: Sequence[Condition]
    sorting: Sorting | None
    all_revisions: bool
    after: SearchPosition | None
    limit: int | None

    def keys(self, session: Session) -> list[int]:
        """The keys, found by the way that reads least."""
        few = _fewest(session, self.conditions)
        if few is not None or self.limit is None:
            return list(session.scalars(self._collected(few)))
        if self.sorting is None:
            return list(session.scalars(self._walked(self.limit)))
        return self._by_value(session, self.sorting, self.limit)

    @property
    def _all(self) -> list[ColumnElement[bool]]:
        return [one.holds for one in self.conditions]

    def _collected(self, few: Condition | None) -> Select[int]:
        """All that meet the conditions, put in order; those that meet ``few`` are found by an index."""
        held = [one.holds for one in self.conditions if one is not few or not one.is_exact]
        columns: list[ColumnElement[Any]] = [
            Revision.id.expression,
            Revision.number.expression,
            PLACE.label("place"),
            func.row_number().over(partition_by=Revision.adapter_id, order_by=Revision.number.desc()).label("age"),
        ]
        if self.sorting is not None:
            columns.append(self.sorting.value.label("value"))
        query = select(*columns).join(Adapter, Adapter.id == Revision.adapter_id).where(*held)
        if self.sorting is not None:
            query = query.join(self.sorting.row, self.sorting.is_that)
        if few is not None and few.keys is not None:
            # At most `FEW` were counted; with a limit PostgreSQL knows that too.
            query = query.where(Revision.id.in_(few.keys.limit(2 * FEW)))
        found = query.subquery()
        value = None if self.sorting is None else found.c.value
        chosen = select(found.c.id).where(*self._rest(found.c.place, found.c.number, value))
        if not self.all_revisions:
            chosen = chosen.where(found.c.age == 1)
        if self.sorting is not None:
            chosen = chosen.order_by(self.sorting.order(found.c.value))
        return chosen.order_by(found.c.place, found.c.number.desc()).limit(self.limit)

    def _walked(self, limit: int, tied: tuple[Sorting, float] | None = None) -> Select[int]:
        """Adapters in order until ``limit`` have a revision that meets the conditions; then their revisions.

        ``tied``: only revisions of this value, which are in the order of adapters among themselves.
        """
        own = [one.holds for one in self.conditions if one.of_adapter]
        last, held = self.after, [one.holds for one in self.conditions if not one.of_adapter]
        if tied is not None and self.all_revisions:
            held.append(tied[0].is_value(tied[1]))
        elif tied is not None:  # of the newest that meets the conditions
            of_newest = select(tied[0].value).join(Revision, tied[0].is_that).where(*held)
            of_newest = of_newest.where(Revision.adapter_id == Adapter.id).correlate(Adapter)
            own.append(of_newest.order_by(Revision.number.desc()).limit(1).scalar_subquery() == tied[1])
        if last is not None and (tied is None or last.value == tied[1]):
            own.insert(0, order.place_of(last.path) <= PLACE)  # SQLite begins with the first bound that it finds
            if tied is None or self.all_revisions:
                held += self._rest(PLACE, Revision.number.expression, None)
            else:  # an adapter's older revisions of this value are not looked for
                own.append(order.place_of(last.path) < PLACE)
        newest = select(Revision.number).where(*held, Revision.adapter_id == Adapter.id).correlate(Adapter)
        newest = newest.order_by(Revision.number.desc())
        most = newest.limit(1).scalar_subquery()
        columns: list[ColumnElement[Any]] = [Adapter.id.expression, PLACE.label("place"), most.label("most")]
        if self.all_revisions:  # of each, no more than fit on the page
            least = newest.offset(limit - 1).limit(1).scalar_subquery()
            columns.append(func.coalesce(least, 0).label("least"))
        walked = (
            select(*columns)
            .where(PLACE >= "", *own, most.is_not(None))
            .order_by(PLACE)
            .limit(limit)
            .cte("walked")
            .prefix_with("MATERIALIZED")  # else PostgreSQL reads all revisions of each
        )
        chosen = [Revision.number == walked.c.most]  # one each, which PostgreSQL has to know
        if self.all_revisions:
            chosen = [Revision.number.between(walked.c.least, walked.c.most), *held]
        return (
            select(Revision.id)
            .join(walked, walked.c.id == Revision.adapter_id)
            .join(Adapter, Adapter.id == walked.c.id + 0)  # else PostgreSQL looks for revisions by this one's key alone
            .where(*chosen)
            .order_by(walked.c.place, Revision.number.desc())
            .limit(limit)
        )

    def _by_value(self, session: Session, sorting: Sorting, limit: int) -> list[int]:
        """Revisions by the value of the number, some thousand and then more at a time, until ``limit`` meet all."""
        row, value = sorting.row, sorting.value
        rest = [row.name == sorting.name]
        if self.after is not None and self.after.value is not None:
            rest.append(sorting.from_on(value, self.after.value))
        found: list[int] = []
        at_once = AT_ONCE
        while len(found) < limit:
            values = select(value).where(*rest).order_by(sorting.order(value))
            bound = session.scalar(values.offset(at_once).limit(1))
            if bound is None:
                found += session.scalars(self._of_values(sorting, rest, at_once).limit(limit - len(found)))
                break
            some, most = [*rest, sorting.up_to(value, bound)], at_once + FEW
            counted = select(value).where(*some).limit(most + 1).subquery()
            count = session.scalar(select(func.count()).select_from(counted)) or 0
            is_common = count > most  # the last value is, as the whole number of a rank may be
            if is_common:
                some, count = [*rest, sorting.better(value, bound)], at_once
            found += session.scalars(self._of_values(sorting, some, count).limit(limit - len(found)))
            if is_common and len(found) < limit:
                found += session.scalars(self._walked(limit - len(found), (sorting, bound)))
            rest = [row.name == sorting.name, sorting.beyond(value, bound)]
            at_once *= 4
        return found

    def _of_values(self, sorting: Sorting, some: Sequence[ColumnElement[bool]], count: int) -> Select[int]:
        """Revisions that meet the conditions, in order; of ``some`` rows of the number, at most so many."""
        # With a limit: PostgreSQL estimates their number from the values of all names together.
        part = select(sorting.row.revision_id, sorting.value).where(*some).limit(count).cte("part")
        part = part.prefix_with("MATERIALIZED")
        number, value = Revision.number.expression, part.c.value
        query = (
            select(Revision.id)
            .select_from(part)
            .join(Revision, Revision.id == part.c.revision_id)
            .join(Adapter, Adapter.id == Revision.adapter_id + 0)  # else SQLite reads all revisions of a range of paths
            .where(*self._all, *self._rest(PLACE, number, value))
            .order_by(sorting.order(value), PLACE, Revision.number.desc())
        )
        if self.all_revisions:
            return query
        own = [one.holds for one in self.conditions if not one.of_adapter]
        newest = select(Revision.number).where(*own, Revision.adapter_id == Adapter.id).correlate(Adapter)
        return query.where(Revision.number == newest.order_by(Revision.number.desc()).limit(1).scalar_subquery())

    def _rest(
        self, place: ColumnElement[str], number: ColumnElement[int], value: ColumnElement[float] | None
    ) -> list[ColumnElement[bool]]:
        """The condition that a revision comes after the position."""
        last = self.after
        if last is None:
            return []
        rest = place > order.place_of(last.path)
        if last.number is not None:
            rest = or_(rest, and_(place == order.place_of(last.path), number < last.number))
        if self.sorting is None or value is None:
            return [rest]
        return [self.sorting.from_on(value, last.value or 0.0), or_(value != last.value, rest)]


def _fewest(session: Session, conditions: Sequence[Condition]) -> Condition | None:
    """The condition that the fewest revisions meet; None if each is met by more than `FEW`, or by unknown many."""
    found = [(one, one.keys.limit(FEW + 1).subquery()) for one in conditions if one.keys is not None]
    if not found:
        return None
    counts = [select(func.count()).select_from(keys).scalar_subquery() for _, keys in found]
    counted = zip(session.execute(select(*counts)).one(), found, strict=True)
    least, (condition, _) = min(counted, key=lambda pair: pair[0])
    return condition if least <= FEW else None
