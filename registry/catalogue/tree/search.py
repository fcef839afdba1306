"""Search: revisions that meet every given condition, of each adapter the newest or all, by path or by a number.

If few revisions meet one of the conditions, an index gives these, and they are looked at and put in order. Else
revisions are looked at in the requested order, until a page is full.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Final

from sqlalchemy import Select, and_, func, literal_column, or_, select
from sqlalchemy.orm import Session
from sqlalchemy.sql.elements import ColumnElement

from registry.catalogue.database.tables import Adapter, Revision
from registry.catalogue.database.transactions import plan_for_values
from registry.catalogue.database.visibility import rights_of
from registry.catalogue.store.blobs import parts
from registry.catalogue.tree import browse, order, search_conditions
from registry.catalogue.tree.old_names import adapter_is_listed, new_name
from registry.catalogue.tree.order import PLACE
from registry.catalogue.tree.search_conditions import Condition
from registry.catalogue.tree.search_index import Has, having
from registry.catalogue.tree.search_near import LEAST, Near
from registry.catalogue.tree.search_values import METRICS, STATISTICS, Comparison, Sorting, with_statistics
from registry.catalogue.tree.search_words import MOST_CARDS, Word, held, keys_having, looked_up
from registry.errors import UsageError
from registry.reference import Path
from registry.schemas import RevisionSummary
from registry.schemas.form import check_text
from registry.schemas.requests import SearchRequest
from registry.schemas.search_text import FILTERS, FLAGS, Filter, Typed, parse

FEW: Final = 10_000
"""Revisions that an index may give to be put in order."""
MOST_FOUND: Final = 10_000
"""Revisions with the words of a search that are looked at, the newest ones; one that has fewer is complete."""
AT_ONCE: Final = 1000
"""Values of a metric or a statistic that are looked at first, and revisions that may be behind at a time."""
LOOKED_AT: Final = 1000
"""Revisions that are looked at for a page of those that are behind."""


@dataclass(frozen=True)
class SearchPosition:
    """Where a search goes on: after this revision; the number and the value where the order is by them."""

    path: Path
    number: int | None = None
    value: float | None = None


@dataclass(frozen=True)
class Found:
    """What a search found."""

    revisions: tuple[RevisionSummary, ...]
    notices: tuple[str, ...] = ()
    """What was not looked at, and what else counted as found, as sentences."""
    next: SearchPosition | None = None
    """Where it goes on, if it ended before as many were found as were asked for."""


def search(
    session: Session, request: SearchRequest, *, after: SearchPosition | None = None, limit: int | None = None
) -> tuple[RevisionSummary, ...]:
    """The revisions that `found` finds."""
    return found(session, request, after=after, limit=limit).revisions


def found(
    session: Session, request: SearchRequest, *, after: SearchPosition | None = None, limit: int | None = None
) -> Found:
    """Revisions that meet every given condition: of each adapter the newest, or all, newest first; by path.

    Where none has all the words, what is one edit away from them counts too.

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
    sought = _Sought.read(request)
    exact = sought.page(session, looked_up(session, sought.words), after, limit)
    if exact.revisions or exact.next is not None or all(len(word) < LEAST for word in sought.words):
        return exact
    if after is not None:
        first = sought.page(session, looked_up(session, sought.words), None, 1)
        if first.revisions or first.next is not None:
            return exact
    words = looked_up(session, sought.words, typos=True)
    if all(word.near == Near() for word in words):
        return exact
    by_typos = sought.page(session, words, after, limit)
    if not by_typos.revisions and after is None and by_typos.next is None:
        return exact
    said = "Nothing has all of these words as they are: what is one edit away in a name, a tag or an author was found."
    return replace(by_typos, notices=(said, *by_typos.notices))


@dataclass(frozen=True)
class _Sought:
    """What is searched for, read from a request."""

    request: SearchRequest
    words: tuple[str, ...]
    filters: tuple[Filter, ...]
    sorting: Sorting | None
    compared: tuple[Comparison, ...]

    @classmethod
    def read(cls, request: SearchRequest) -> _Sought:
        """Words and filters, from what was typed and from the fields."""
        typed = Typed() if request.text is None else parse(check_text("The text to search for", request.text))
        fields = ((name, getattr(request, name.replace("-", "_"))) for name in FILTERS)
        filters = [Filter(name, str(value)) for name, value in fields if value is not None]
        filters += [Filter(name) for name in FLAGS if getattr(request, name)]
        filters += typed.filters
        sorting = None if request.sort is None else Sorting.parse(request.sort)
        compared = [Comparison.parse(METRICS, one.value) for one in filters if one.name == "metric"]
        stats = (part for one in filters if one.name == "stat" for part in one.value.split(","))
        compared += [Comparison.parse(STATISTICS, part) for part in stats]
        compared += [] if sorting is None else [sorting.is_there]
        return cls(request, typed.words, tuple(filters), sorting, tuple(compared))

    def values(self, name: str) -> list[str]:
        """Those of a filter."""
        return [one.value for one in self.filters if one.name == name]

    def page(
        self, session: Session, words: Sequence[Word], after: SearchPosition | None, limit: int | None
    ) -> Found:
        """What comes after a position."""
        numbered = self.request.all_revisions or self.sorting is not None
        _check_position(after, numbered=numbered, valued=self.sorting is not None)
        query = _Query(self._conditions(session, words), self.sorting, self.request.all_revisions, after, limit)
        if not any(one.name == "behind" for one in self.filters):
            keys, cut = query.keys(session)
            return Found(self._summaries(session, keys), self._said(words, keys, cut=cut))
        return self._behind(session, query, words)

    def _behind(self, session: Session, query: _Query, words: Sequence[Word]) -> Found:
        """Those that are behind, which no index knows: of so many that meet all else."""
        limit, kept, looked = query.limit, list[RevisionSummary](), 0
        while True:
            keys, cut = replace(query, limit=None if limit is None else AT_ONCE).keys(session)
            seen = self._summaries(session, keys)
            for place, one in enumerate(seen):
                kept += [one] if one.behind else []
                if limit is not None and len(kept) == limit:
                    rest = place + 1 < len(seen) or len(seen) == AT_ONCE
                    return Found(tuple(kept), self._said(words, keys, cut=cut), self._position(one) if rest else None)
            looked += len(seen)
            if limit is None or len(keys) < AT_ONCE:
                return Found(tuple(kept), self._said(words, keys, cut=cut))
            query = replace(query, after=self._position(seen[-1]))
            if looked >= LOOKED_AT:
                said = f"Of {looked:,} that meet all else, those that are behind: more may follow."
                return Found(tuple(kept), (said, *self._said(words, keys, cut=cut)), query.after)

    def _position(self, one: RevisionSummary) -> SearchPosition:
        numbered = self.request.all_revisions or self.sorting is not None
        value = None if self.sorting is None else self.sorting.of(one)
        return SearchPosition(Path.parse(one.path), one.number if numbered else None, value)

    def _summaries(self, session: Session, keys: Sequence[int]) -> tuple[RevisionSummary, ...]:
        figures = [one.name for one in self.compared if one.values is STATISTICS]
        found: dict[int, RevisionSummary] = {}
        for part in parts(keys):
            found |= with_statistics(session, browse.summaries(session, part), figures)
        return tuple(found[key] for key in keys)

    def _said(self, words: Sequence[Word], keys: Sequence[int], *, cut: bool) -> tuple[str, ...]:
        said = []
        if cut:
            said.append(
                f"More than {MOST_FOUND:,} revisions have these words: the newest {MOST_FOUND:,} of them were looked "
                "at. Add a word or a filter."
            )
        if not keys and (short := [word.text for word in words if word.is_short]):
            said.append(f"A word of one or two letters is found as a whole name or tag only: {', '.join(short)}.")
        if any(len(word.cards) == MOST_CARDS for word in words):
            said.append(f"Of the cards that have a word, the {MOST_CARDS:,} newest adapters' were looked at.")
        return tuple(said)

    def _conditions(self, session: Session, words: Sequence[Word]) -> list[Condition]:
        bases, paths = self.values("base"), self.values("path")
        depths = [int(value) if value.isdecimal() else _no_depth(value) for value in self.values("depth")]
        now = datetime.now(UTC)
        conditions = [
            *(search_conditions.base(session, name) for name in bases),
            *(search_conditions.path(session, Path.parse(path)) for path in paths),
            *(search_conditions.depth(next(iter(paths), None), levels) for levels in depths),
            *map(search_conditions.tag, self.values("tag")),
            *map(search_conditions.author, self.values("author")),
            *map(search_conditions.parent_known_by, self.values("parent-known-by")),
            *map(search_conditions.rank, self.values("rank")),
            *map(search_conditions.number, self.compared),
            *map(search_conditions.target, self.values("target")),
            *(search_conditions.since(value, now) for value in self.values("since")),
            *(search_conditions.retracted() for _ in self.values("retracted")),
            *map(search_conditions.numbered, self.values("number")),
            *map(search_conditions.digest, self.values("digest")),
        ]
        if (scopes := search_conditions.scopes(session)) is not None:
            conditions.append(scopes)
        if words:  # last, as it takes the longest to look at
            conditions.append(Condition(held(words), keys_having(session, words, self._also(session)), is_words=True))
        renamed = (new_name(session, Path.parse(name)) is not None for name in (*bases, *paths))
        if not self.request.old_names and not any(renamed):
            conditions.insert(0, Condition(adapter_is_listed(session), None, of_adapter=True))
        return conditions

    def _also(self, session: Session) -> list[Has]:
        """What the texts have of all that meet the other conditions, so that one index knows both."""
        found = [f"/{path}/" for path in (*self.values("base"), *self.values("path"))]
        found += [f"@{tag}@" for tag in self.values("tag")]
        found += self.values("author")
        found += [one.name for one in self.compared if one.values is METRICS]
        also = [Has(part) for part in found]
        rights = rights_of(session)
        return also if rights.unlimited else [*also, Has(any_of=having(*(f"/{at}/" for at in rights.scopes)).all_of)]


def _no_depth(value: str) -> int:
    raise UsageError(f"The depth of a search is {value!r}: 0 or more is expected.")


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

    def keys(self, session: Session) -> tuple[list[int], bool]:
        """The keys, found by the way that reads least, and whether only the newest that have the words were looked at."""
        few = _fewest(session, self.conditions)
        if few is not None or self.limit is None:
            return list(session.scalars(self._collected(few))), False
        if self.sorting is not None:
            return self._by_value(session, self.sorting, self.limit), False
        words = next((one for one in self.conditions if one.is_words and one.keys is not None), None)
        if words is not None:
            return list(session.scalars(self._collected(words))), True
        return list(session.scalars(self._walked(self.limit))), False

    @property
    def _all(self) -> list[ColumnElement[bool]]:
        return [one.holds for one in self.conditions]

    def _collected(self, few: Condition | None) -> Select[int]:
        """All that meet the conditions, put in order; those that meet ``few`` are found by an index."""
        held = [one.holds for one in self.conditions if one is not few or one.is_words]
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
        if few is not None and few.keys is not None and few.is_words:
            newest = few.keys.order_by(literal_column("1").desc()).limit(MOST_FOUND)
            query = query.where(Revision.id.in_(newest))
        elif few is not None and few.keys is not None:
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
