"""Revisions as the rows of a table, on the pages of a tree and on that of a search over all base models.

Both are looked for by the same fields; metrics and configuration are columns to sort by, and go out as CSV.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Literal

from fastapi import APIRouter, Response

from registry.catalogue.tree.statistics import RowFigures, row_figures
from registry.figures import number
from registry.http.payloads import position_of
from registry.operations import table
from registry.schemas import RevisionSummary, Schema
from registry.schemas.frames import csv_of
from registry.schemas.protocol import cursor_to
from registry.schemas.requests import SearchRequest
from registry.schemas.tree import REVISIONS
from registry.web.frame.visit import PageRoute, PageVisit, Visit

CONDITIONS: Final = ("text", "tag", "metric", "rank", "target", "author", "parent_known_by", "stat")
_LOOKED_AT: Final = 1000  # revisions, for one page of those that are behind


class Filters(Schema):
    """Conditions, an order, and where a page begins."""

    text: str | None = None
    tag: str | None = None
    metric: str | None = None
    rank: str | None = None
    target: str | None = None
    author: str | None = None
    parent_known_by: str | None = None
    stat: str | None = None
    behind: bool = False
    sort: str | None = None
    after: str | None = None

    @property
    def are_given(self) -> bool:
        """Whether any condition is set."""
        return self.behind or any(getattr(self, name) for name in CONDITIONS)

    def query(self, **changes: object) -> dict[str, object]:
        """The query of a page that asks for the same, but for some changes; without the place where it begins."""
        given = {name: value for name, value in self.model_dump(exclude_defaults=True).items() if name != "after"}
        return {name: 1 if value is True else value for name, value in {**given, **changes}.items()}

    def request(self, **about: object) -> SearchRequest:
        """The search for them."""
        return SearchRequest.model_validate({name: getattr(self, name) for name in (*CONDITIONS, "sort")} | about)


@dataclass(frozen=True)
class Found:
    """A page of what was looked for."""

    items: tuple[RevisionSummary, ...]
    next: str | None
    """``after`` of the next page."""


def found(visit: Visit, filters: Filters, request: SearchRequest, limit: int) -> Found:
    """A page of what is looked for.

    Which are behind no index knows: of a thousand that meet all else, those that are. So more may exist where few
    or none were found.
    """
    after = position_of(table.SEARCH, filters.after)
    if not filters.behind:
        part = visit.listed(table.SEARCH, request, after, limit)
        return Found(part.items, _cursor(part.next))
    kept: list[RevisionSummary] = []
    looked = 0
    while True:
        part = visit.listed(table.SEARCH, request, after, limit - len(kept))
        kept += [one for one in part.items if one.behind]
        looked += len(part.items)
        if part.next is None or len(kept) == limit or looked >= _LOOKED_AT:
            return Found(tuple(kept), _cursor(part.next))
        after = table.SEARCH.key(part.next)


def _cursor(key: object | None) -> str | None:
    return None if key is None else cursor_to(key)


ROWS: Final = 50
_IN_CSV: Final = 1000
_METRICS: Final = 6  # columns
_SMALLER_IS_BETTER: Final = ("loss", "err", "perplexity", "ppl", "wer", "cer", "mae", "mse", "latency")
NOTED: Final[Mapping[str, tuple[str, ...]]] = {
    "learning rate": ("learning_rate", "lr"),
    "run": ("run_id", "run", "run_url"),
    "commit": ("git_commit", "commit", "git_sha"),
}
"""Annotations that have a column of their own, and the keys that trainers write them under."""
_STATISTICS: Final = {
    "relative_frobenius": ("Δ of base", "Norm of its own delta, relative to the base model's weights"),
    "effective_rank": ("eff. rank", "How many directions of its own delta matter"),
}


_Row = tuple[RevisionSummary, RowFigures]


@dataclass(frozen=True)
class Column:
    """A number that rows are sorted by: a metric, or a statistic.

    Args:
        name, title, about: of it: as it is called, above the column, and in words.
        order: ``ascending`` or ``descending``, if the rows are in its order.
        href: the page in its order; where it is, in the other one.
    """

    name: str
    title: str
    about: str
    order: str | None
    href: str

    def value(self, one: RevisionSummary, figures: RowFigures) -> float | None:
        """That of a row."""
        return (figures.statistics if self.name in _STATISTICS else one.metrics).get(self.name)


@dataclass(frozen=True)
class Rows:
    """A page of a table: its rows, its columns, the annotations that a row has, and where the next page is."""

    rows: tuple[_Row, ...]
    columns: tuple[Column, ...]
    noted: tuple[str, ...]
    more: str | None


def rows_of(visit: Visit, filters: Filters, request: SearchRequest, link: Callable[..., str]) -> Rows:
    """A page of what is looked for; ``link`` is this page with another query."""
    rows, following = _rows(visit, filters, request, ROWS)
    way, _, by = (filters.sort or "").strip().partition(":")

    def column(full: str, title: str, about: str) -> Column:
        first = "min" if any(part in full.lower() for part in _SMALLER_IS_BETTER) else "max"
        other = first if by != full else "min" if way == "max" else "max"
        order = None if by != full else "descending" if way == "max" else "ascending"
        return Column(full.removeprefix("stat:"), title, about, order, link(**filters.query(sort=f"{other}:{full}")))

    counts = Counter(name for one, _ in rows for name in one.metrics if name not in _STATISTICS)
    names = sorted(counts, key=lambda name: (name != by, -counts[name], name))[:_METRICS]
    kept = [name for name in _STATISTICS if any(name in figures.statistics for _, figures in rows)]
    return Rows(
        rows=rows,
        columns=(*(column(name, name, name) for name in names), *(column(f"stat:{n}", *_STATISTICS[n]) for n in kept)),
        noted=tuple(title for title in NOTED if any(note(one, title) for one, _ in rows)),
        more=link(**filters.query(after=following)) if following else None,
    )


def note(one: RevisionSummary, title: str) -> str | None:
    """An annotation of a revision that has a column of its own."""
    return next((one.annotations[key] for key in NOTED[title] if key in one.annotations), None)


def csv_answer(visit: Visit, filters: Filters, request: SearchRequest, name: str) -> Response:
    """The rows as a file, of at most a thousand revisions."""
    rows, _ = _rows(visit, filters, request, _IN_CSV)
    shown = (one.model_copy(update={"statistics": dict(figures.statistics)}) for one, figures in rows)
    values, columns = REVISIONS.values(shown)
    for row, (one, own) in zip(values, rows, strict=True):
        scalings = " ".join(map(number, own.distinct))
        row.update(tags=" ".join(one.tags), targets=" ".join(own.scalings), scalings=scalings)
    at = columns.index("digest") + 1
    columns[at:at] = ["targets", "scalings"]
    headers = {"Content-Disposition": f'attachment; filename="{name}.csv"', "Cache-Control": "private, no-cache"}
    return Response(csv_of(values, columns), headers=headers, media_type="text/csv")


def _rows(visit: Visit, filters: Filters, request: SearchRequest, limit: int) -> tuple[tuple[_Row, ...], str | None]:
    part = found(visit, filters, request, limit)
    with visit.registry.deployment.read() as session:
        figures = row_figures(session, part.items)  # of what was not deleted meanwhile
    return tuple((one, figures[one.reference]) for one in part.items if one.reference in figures), part.next


router = APIRouter(include_in_schema=False, route_class=PageRoute)


class SearchAsked(Filters):
    """What the page's query requests."""

    base: str | None = None
    all: bool = False
    form: Literal["csv"] | None = None


@router.get("/search", response_model=None)
def search_page(visit: PageVisit) -> Response:
    """What meets the conditions, as a table."""
    asked = visit.asked(SearchAsked)
    request = asked.request(base=asked.base, all_revisions=asked.all)
    if asked.form == "csv":
        return csv_answer(visit, asked, request, "search")

    def link(**query: object) -> str:
        return visit.links("/search", **query)

    api = visit.api("/search", **request.model_dump(exclude_defaults=True))
    table = rows_of(visit, asked, request, link)
    return visit.page("search.html", title="Search", api=api, asked=asked, table=table, note=note, link=link)
