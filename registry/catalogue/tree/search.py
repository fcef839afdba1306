"""Search: revisions that meet every given condition, of each adapter the newest or all, by path or by a number.

What was typed and the fields of the request are read as words and filters, which are the conditions of one query.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Final

from sqlalchemy.orm import Session

from registry.catalogue.database.transactions import plan_for_values
from registry.catalogue.database.visibility import rights_of
from registry.catalogue.store.blobs import parts
from registry.catalogue.tree import browse, search_conditions
from registry.catalogue.tree.old_names import adapter_is_listed, new_name
from registry.catalogue.tree.search_conditions import Condition, Proposed
from registry.catalogue.tree.search_index import Has, having
from registry.catalogue.tree.search_near import LEAST, NOTHING_NEAR
from registry.catalogue.tree.search_query import Query, SearchPosition
from registry.catalogue.tree.search_values import METRICS, STATISTICS, Comparison, Sorting, with_statistics
from registry.catalogue.tree.search_words import MOST_CARDS, Word, adapters_having, held, keys_having, looked_up
from registry.errors import UsageError
from registry.reference import Path
from registry.schemas import RevisionSummary
from registry.schemas.form import check_text
from registry.schemas.requests import SearchRequest
from registry.schemas.search_text import FILTERS, FLAGS, Filter, Typed, parse

BATCH: Final = 250
"""Revisions that may be behind, at a time."""
LOOKED_AT: Final = 1000
"""Revisions that are looked at for a page of those that are behind."""


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
    if all(word.near == NOTHING_NEAR for word in words):
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

    def page(self, session: Session, words: Sequence[Word], after: SearchPosition | None, limit: int | None) -> Found:
        """What comes after a position."""
        numbered = self.request.all_revisions or self.sorting is not None
        _check_position(after, numbered=numbered, valued=self.sorting is not None)
        query = Query(self._conditions(session, words), self.sorting, self.request.all_revisions, after, limit)
        if not any(one.name == "behind" for one in self.filters):
            keys = query.keys(session)
            return Found(self._summaries(session, keys), self._said(words, keys))
        return self._behind(session, query, words)

    def _behind(self, session: Session, query: Query, words: Sequence[Word]) -> Found:
        """Those that are behind, which no index knows: of so many that meet all else."""
        limit, kept, looked = query.limit, list[RevisionSummary](), 0
        while True:
            keys = replace(query, limit=None if limit is None else BATCH).keys(session)
            seen = self._summaries(session, keys)
            for place, one in enumerate(seen):
                kept += [one] if one.behind else []
                if limit is not None and len(kept) == limit:
                    rest = place + 1 < len(seen) or len(seen) == BATCH
                    return Found(tuple(kept), self._said(words, keys), self._position(one) if rest else None)
            looked += len(seen)
            if limit is None or len(keys) < BATCH:
                return Found(tuple(kept), self._said(words, keys))
            query = replace(query, after=self._position(seen[-1]))
            if looked >= LOOKED_AT:
                said = f"Of {looked:,} that meet all else, those that are behind: more may follow."
                return Found(tuple(kept), (said, *self._said(words, keys)), query.after)

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

    def _said(self, words: Sequence[Word], keys: Sequence[int]) -> tuple[str, ...]:
        said = []
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
            also = self._also(session)
            conditions.append(
                Condition(
                    held(words),
                    keys_having(session, words, also),
                    words=Proposed(
                        adapters_having(session, words, also),
                        lambda path: keys_having(session, words, [*also, Has(f"/{path}/")]),
                    ),
                )
            )
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
