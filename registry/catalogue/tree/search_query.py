"""The query of a search: how the keys of the revisions that meet all conditions are found, in order.

If few revisions meet one of the conditions, an index gives these, and they are looked at and put in order. Else
revisions are looked at in the requested order, until a page is full. For words, which take long to look at, adapters
are looked at in order: the next ones, or the next ones that the index of texts proposes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Select, and_, func, or_, select, true
from sqlalchemy.orm import Session
from sqlalchemy.sql.elements import ColumnElement

from registry.catalogue.database.tables import HAS_REVISIONS, Adapter, Revision, table_of
from registry.catalogue.tree import order
from registry.catalogue.tree.order import PLACE
from registry.catalogue.tree.search_conditions import Condition, Proposed
from registry.catalogue.tree.search_values import Sorting
from registry.reference import Path

FEW: Final = 10_000
"""Revisions that an index may give to be put in order."""
ADAPTERS: Final = 100
"""Adapters that are looked at together for words."""
MANY: Final = 300
"""Revisions of an adapter that is looked at alone: the newest ones, and those that the index of texts proposes."""
NEWEST: Final = 100
SOON_FULL: Final = 2000
"""Revisions that are looked at before the index of texts says which adapters have any."""
AT_ONCE: Final = 1000
"""Values of a metric or a statistic that are looked at first."""

_REVISIONS: Final = table_of(Revision)


@dataclass(frozen=True)
class SearchPosition:
    """Where a search goes on: after this revision; the number and the value where the order is by them."""

    path: Path
    number: int | None = None
    value: float | None = None


@dataclass(frozen=True)
class Query:
    """A search for the keys of revisions, in order."""

    conditions: Sequence[Condition]
    sorting: Sorting | None
    all_revisions: bool
    after: SearchPosition | None
    limit: int | None

    def keys(self, session: Session) -> list[int]:
        """The keys, found by the way that reads least."""
        few = _fewest(session, self.conditions)
        if self.limit is None:
            return list(session.scalars(self._collected(few)))
        words = next((one for one in self.conditions if one.words is not None), None)
        if words is not None and words.words is not None and words.keys is not None and self.sorting is None:
            return self._by_words(session, words.words, few, self.limit)
        if few is not None:
            return list(session.scalars(self._collected(few)))
        if self.sorting is None:
            return list(session.scalars(self._walked(self.limit)))
        return self._by_value(session, self.sorting, self.limit)

    def _by_words(self, session: Session, words: Proposed, few: Condition | None, limit: int) -> list[int]:
        """Adapters in order, some at a time, as their texts take long to look at.

        Where few revisions meet a condition, or where those of the first adapters seldom have the words, only adapters
        are looked at that have a revision by the index.
        """
        found: list[int] = []
        place, looked, size, proposed = None, 0, ADAPTERS, False
        while True:
            held = [] if few is None and not proposed else [words.adapters if few is None else _adapters_of(few)]
            adapters = session.execute(self._following(place, held).limit(size)).all()
            for run in _runs(adapters, SOON_FULL // 2 if few is None else None):
                found += self._of_adapters(session, run, words, few, limit - len(found))
                place, looked = run[-1].place, looked + sum(min(row.live, MANY) for row in run)
                if len(found) == limit:
                    return found
                if few is None and not proposed and looked > SOON_FULL:
                    break
            else:
                if len(adapters) < size:
                    return found
            proposed, size = looked > SOON_FULL, size * 2

    def _following(self, place: str | None, of: Sequence[ColumnElement[bool]]) -> Select[*tuple[Any, ...]]:
        """The adapters that come next, with how many revisions each has."""
        held = [one.holds for one in self.conditions if one.of_adapter]
        if place is not None:
            held.append(place < PLACE)
        elif self.after is not None:
            at = order.place_of(self.after.path)
            held.append(at <= PLACE if self.all_revisions else at < PLACE)
        query = select(Adapter.id, Adapter.path, PLACE.label("place"), Adapter.live_revisions.label("live"))
        return query.where(PLACE >= "", HAS_REVISIONS, *held, *of).order_by(PLACE)

    def _of_adapters(
        self, session: Session, run: Sequence[Any], words: Proposed, few: Condition | None, limit: int
    ) -> list[int]:
        """The revisions of some adapters, in order; of one that has many, first the newest."""
        among = [row.id for row in run]
        own = select(_REVISIONS.c.id).where(_REVISIONS.c.adapter_id.in_(among))
        alone = len(run) == 1 and run[0].live > MANY and (few is None or few.words is not None)
        if few is not None and few.keys is not None and not alone:
            return self._those(session, own.where(_REVISIONS.c.id.in_(few.keys)), limit)
        if alone:
            last = self.after
            if last is not None and last.number is not None and str(last.path) == run[0].path:
                own = own.where(_REVISIONS.c.number < last.number)
            own = own.order_by(_REVISIONS.c.number.desc())
            enough = limit if self.all_revisions else 1
            found = self._those(session, own.limit(NEWEST), limit)
            if len(found) < enough and (keys := words.at(Path.parse(run[0].path))) is not None:
                having = session.scalars(own.where(_REVISIONS.c.id.in_(keys)).limit(AT_ONCE)).all()
                found = self._those(session, select(_REVISIONS.c.id).where(_REVISIONS.c.id.in_(having)), limit)
                if len(having) < AT_ONCE:
                    return found
            if len(found) >= enough:
                return found
        return list(session.scalars(self._walked(limit, of=[Adapter.id.in_(among)])))

    def _those(self, session: Session, keys: Select[int], limit: int) -> list[int]:
        return list(session.scalars(self._collected(Condition(true(), keys)).limit(limit)))

    @property
    def _all(self) -> list[ColumnElement[bool]]:
        return [one.holds for one in self.conditions]

    def _collected(self, few: Condition | None) -> Select[int]:
        """All that meet the conditions, put in order; those that meet ``few`` are found by an index."""
        held = [one.holds for one in self.conditions if one is not few or one.words is not None]
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
            # At most `FEW` were counted of a condition; with a limit PostgreSQL knows that too.
            counted = any(one is few for one in self.conditions)
            query = query.where(Revision.id.in_(few.keys.limit(2 * FEW) if counted else few.keys))
        found = query.subquery()
        value = None if self.sorting is None else found.c.value
        chosen = select(found.c.id).where(*self._rest(found.c.place, found.c.number, value))
        if not self.all_revisions:
            chosen = chosen.where(found.c.age == 1)
        if self.sorting is not None:
            chosen = chosen.order_by(self.sorting.order(found.c.value))
        return chosen.order_by(found.c.place, found.c.number.desc()).limit(self.limit)

    def _walked(
        self, limit: int, tied: tuple[Sorting, float] | None = None, of: Sequence[ColumnElement[bool]] = ()
    ) -> Select[int]:
        """Adapters in order until ``limit`` have a revision that meets the conditions; then their revisions.

        ``tied``: only revisions of this value, which are in the order of adapters among themselves; ``of``: only
        adapters that meet this.
        """
        own = [*of, *(one.holds for one in self.conditions if one.of_adapter)]
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


def _adapters_of(few: Condition) -> ColumnElement[bool]:
    """The condition that an adapter has one of few revisions."""
    assert few.keys is not None
    keys = few.keys.limit(2 * FEW)
    # Once, and as a whole: else PostgreSQL looks through all keys for each adapter.
    known = select(_REVISIONS.c.adapter_id).where(_REVISIONS.c.id.in_(keys)).distinct().cte("of_few")
    return Adapter.id.in_(select(known.prefix_with("MATERIALIZED").c.adapter_id))


def _runs(adapters: Sequence[Any], most: int | None) -> Iterator[Sequence[Any]]:
    """Adapters in order: those with few revisions together, ``most`` of them at most, and one that has many alone."""
    run: list[Any] = []
    for row in adapters:
        if run and (row.live > MANY or (most is not None and sum(one.live for one in run) + row.live > most)):
            yield run
            run = []
        run.append(row)
        if row.live > MANY:
            yield run
            run = []
    if run:
        yield run
