"""Revisions as the rows of a table, on the pages of a tree and on that of a search over all base models.

Both are looked for by the same fields; metrics and configuration are columns to sort by, and go out as CSV.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Final, Literal

from fastapi import APIRouter, Response

from registry.catalogue.database.events import later_metrics
from registry.catalogue.tree import browse, revisions
from registry.catalogue.tree.statistics import RowFigures, row_figures
from registry.errors import NotFoundError
from registry.figures import moment, number
from registry.http.payloads import position_of
from registry.operations import table
from registry.reference import Reference
from registry.schemas import RevisionSummary
from registry.schemas.frames import csv_of
from registry.schemas.protocol import cursor_to
from registry.schemas.requests import SearchRequest
from registry.schemas.tree import REVISIONS
from registry.web.columns import Chosen, Column, Later, Offer, Row, best_first, key_of, named, offered
from registry.web.frame.visit import PageRoute, PageVisit, Visit
from registry.web.jump import EXAMPLES, additions, opened
from registry.web.tags import Marks, marks

CONDITIONS: Final = (
    "text", "tag", "metric", "rank", "target", "author", "parent_known_by", "stat", "since", "behind", "retracted",
)  # fmt: skip


class Filters(Chosen):
    """Conditions, an order, columns, and where a page begins."""

    text: str | None = None
    tag: str | None = None
    metric: str | None = None
    rank: str | None = None
    target: str | None = None
    author: str | None = None
    parent_known_by: str | None = None
    stat: str | None = None
    since: str | None = None
    behind: bool = False
    retracted: bool = False
    sort: str | None = None
    after: str | None = None

    @property
    def are_given(self) -> bool:
        """Whether any condition is set."""
        return any(getattr(self, name) for name in CONDITIONS)

    def query(self, **changes: object) -> dict[str, object]:
        """The query of a page that asks for the same, but for some changes; without the place where it begins."""
        given = self.model_dump(exclude_defaults=True, exclude={"after", "move", "panel"})
        if self.columns:
            given["columns"] = ",".join(self.keys)
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
    """A page of what is looked for; what the search says about it is in `Visit.said`."""
    part = visit.listed(table.SEARCH, request, position_of(table.SEARCH, filters.after), limit)
    return Found(part.items, None if part.next is None else cursor_to(part.next))


ROWS: Final = 50
_IN_CSV: Final = 1000
_BEST: Final = 3  # metrics whose best values stand above a table of siblings
_Row = tuple[RevisionSummary, RowFigures]


@dataclass(frozen=True)
class Best:
    """The best value of a metric among siblings, and the next.

    Args:
        column: the metric, whose address is the table in its order.
        first, second: the revisions; of one alone there is no next.
        behind: what the next lacks.
    """

    column: Column
    first: Row
    second: Row | None
    behind: float | None


@dataclass(frozen=True)
class Rows:
    """A page of a table.

    Args:
        rows: in their order.
        retracted: those of this page that have a value to be ranked by, but are retracted.
        parent: what the rows are children of.
        above: the path that all names of rows leave out.
        offer: its columns.
        best: of each of some metrics.
        tags: beside the rows, by reference.
        more: where the next page is.
    """

    rows: tuple[Row, ...]
    retracted: tuple[Row, ...]
    parent: Row | None
    above: str
    offer: Offer
    best: tuple[Best, ...]
    tags: Mapping[str, Marks]
    more: str | None

    @property
    def bodies(self) -> tuple[tuple[str, tuple[Row, ...]], ...]:
        """Groups of rows with their names, in the order of the page."""
        parent = () if self.parent is None else (self.parent,)
        return tuple(one for one in (("parent", parent), ("", self.rows), ("retracted", self.retracted)) if one[1])

    def distance(self, row: Row, column: Column) -> float | None:
        """What a row lacks of the first one, in the column that they are in the order of."""
        own, first = column.value(row), column.value(self.rows[0]) if self.rows else None
        if column.order is None or not isinstance(own, float) or not isinstance(first, float) or own == first:
            return None
        return own - first


def rows_of(
    visit: Visit, filters: Filters, request: SearchRequest, link: Callable[..., str], children_of: str | None = None
) -> Rows:
    """A page of what is looked for.

    Args:
        visit: who looks.
        filters: the conditions, the order and the columns.
        request: the search for them.
        link: this page with another query.
        children_of: the adapter whose children alone the rows are; it stands apart.
    """
    by = sorted_by(filters.sort)
    part, following = _rows(visit, filters, request, ROWS, children_of)
    above = children_of or request.path or shared_by([one.path for one, _ in part])
    parent = None if children_of is None else _parent(visit, children_of)
    later = later_of(visit, [one for one, _ in part])
    rows = [Row(one, own, name_below(one.reference, above), later.get(one.reference, {})) for one, own in part]
    offer = offered([*rows, *([parent] if parent else ())], filters, by)
    in_order = [ordered(one, filters.sort, lambda sort: link(**filters.query(sort=sort))) for one in offer.shown]
    offer = replace(offer, shown=tuple(in_order))
    out = [row for row in rows if by and row.one.retracted is not None]
    beside = [row.one for row in (*rows, *([parent] if parent else ()))]
    with visit.registry.deployment.read() as session:
        tags = marks(session, beside, elsewhere=not request.all_revisions)
    best: tuple[Best, ...] = ()
    if children_of is not None and filters.after is None and (following is None or not (by or filters.behind)):
        best = _best(visit, request, offer, rows, whole=following is None)
    return Rows(
        rows=tuple(row for row in rows if row not in out),
        retracted=tuple(out),
        parent=parent,
        above=above,
        offer=offer,
        best=best,
        tags=tags,
        more=link(**filters.query(after=following)) if following else None,
    )


def _parent(visit: Visit, path: str) -> Row | None:
    """The newest revision of an adapter; None: it is a base model, or has none that the visitor sees."""
    reference = Reference.parse(path)
    if reference.path.is_base:
        return None
    with visit.registry.deployment.read() as session:
        try:
            one = browse.summary(session, revisions.find(session, reference).id)
        except NotFoundError:
            return None
        figures = row_figures(session, [one])
    return Row(one, figures[one.reference], one.reference.rpartition("/")[2]) if figures else None


def sorted_by(sort: str | None) -> str:
    """The key of the column that rows are in the order of; empty: they are in the order of the tree."""
    full = (sort or "").strip().partition(":")[2]
    return full if full.startswith("stat:") or not full else key_of("metric", full)


def ordered(column: Column, sort: str | None, link: Callable[[str], str]) -> Column:
    """A column with the address of the page in its order, where rows can be in it."""
    if column.kind not in {"metric", "stat"}:
        return column
    full = f"stat:{column.name}" if column.kind == "stat" else column.name
    way, _, by = (sort or "").strip().partition(":")
    first = best_first(full)
    other = first if by != full else "min" if way == "max" else "max"
    order = None if by != full else "descending" if way == "max" else "ascending"
    return replace(column, order=order, href=link(f"{other}:{full}"))


def _best(visit: Visit, request: SearchRequest, offer: Offer, rows: Sequence[Row], *, whole: bool) -> tuple[Best, ...]:
    """The best of each of the first metrics: among the rows, or looked for where these are a part."""
    found = []
    for column in [one for one in offer.shown if one.kind == "metric"][: _BEST if whole else 1]:
        known, order = rows, best_first(column.name)
        if not whole:
            wanted = request.model_copy(update={"sort": f"{order}:{column.name}"})
            some, _ = _rows(visit, Filters(), wanted, 4, request.path)
            known = [Row(one, own, name_below(one.reference, request.path or "")) for one, own in some]
        valued = [(value, row) for row in known if isinstance(value := column.value(row), float)]
        ranked = sorted(
            ((value, row) for value, row in valued if row.one.retracted is None),
            key=lambda pair: -pair[0] if order == "max" else pair[0],
        )
        if ranked:
            second = ranked[1] if len(ranked) > 1 else None
            lacks = None if second is None else second[0] - ranked[0][0]
            found.append(Best(column, ranked[0][1], None if second is None else second[1], lacks))
    return tuple(found)


def shared_by(paths: Sequence[str]) -> str:
    """The path that all of some are below; empty: there is none."""
    names = [path.split("/")[:-1] for path in paths]
    shared = []
    for level in zip(*names, strict=False):
        if len(set(level)) > 1:
            break
        shared.append(level[0])
    return "/".join(shared)


def name_below(reference: str, above: str) -> str:
    """A reference without the path that it is at or below."""
    if above and reference.startswith((f"{above}/", f"{above}@")):
        return reference[len(above) :].removeprefix("/")
    return reference


_AT_ONCE: Final = timedelta(days=1)  # what its author measured so soon belongs to the publication


def later_of(visit: Visit, shown: Sequence[RevisionSummary]) -> dict[str, dict[str, Later]]:
    """The metrics of revisions that were set after these were published, by reference and name."""
    with visit.registry.deployment.read() as session:
        found = later_metrics(session, [one.reference for one in shown])
    return {
        one.reference: {
            name: Later(
                f"Set by {event.actor} on {moment(event.at)} UTC, after it was published",
                event.actor != one.author or event.at - one.created_at > _AT_ONCE,
            )
            for name, event in found[one.reference].items()
        }
        for one in shown
        if one.reference in found
    }


def csv_answer(
    visit: Visit, filters: Filters, request: SearchRequest, name: str, children_of: str | None = None
) -> Response:
    """The rows as a file, of at most a thousand revisions: with the chosen columns, or with all there is."""
    part, _ = _rows(visit, filters, request, _IN_CSV, children_of)
    rows = sorted(part, key=lambda row: bool(filters.sort) and row[0].retracted is not None)
    if filters.keys:
        columns = [named(key) for key in filters.keys]
        keys = ["reference", *(column.key for column in columns)]
        values = [
            {"reference": one.reference, **{column.key: column.plain(Row(one, own, "")) for column in columns}}
            for one, own in rows
        ]
    else:
        values, keys = _everything(rows)
    headers = {"Content-Disposition": f'attachment; filename="{name}.csv"', "Cache-Control": "private, no-cache"}
    return Response(csv_of(values, keys), headers=headers, media_type="text/csv")


def _everything(rows: Sequence[_Row]) -> tuple[list[dict[str, object]], list[str]]:
    shown = (one.model_copy(update={"statistics": dict(figures.statistics)}) for one, figures in rows)
    values, columns = REVISIONS.values(shown)
    for row, (one, own) in zip(values, rows, strict=True):
        scalings = " ".join(map(number, own.distinct))
        row.update(tags=" ".join(one.tags), targets=" ".join(own.scalings), scalings=scalings)
    at = columns.index("digest") + 1
    columns[at:at] = ["targets", "scalings"]
    return values, columns


def _rows(
    visit: Visit, filters: Filters, request: SearchRequest, limit: int, without: str | None = None
) -> tuple[tuple[_Row, ...], str | None]:
    """What is looked for, without the adapter at one path."""
    part = found(visit, filters, request, limit)
    shown = [one for one in part.items if one.path != without]
    with visit.registry.deployment.read() as session:
        figures = row_figures(session, shown)  # of what was not deleted meanwhile
    return tuple((one, figures[one.reference]) for one in shown if one.reference in figures), part.next


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

    if (settled := asked.settled()) is not None:
        return visit.go(link(**asked.query(**settled)))
    if asked == SearchAsked(text=asked.text) and (address := opened(visit, asked.text)) is not None:
        return visit.go(address)
    api = visit.api("/search", **request.model_dump(exclude_defaults=True))
    table = rows_of(visit, asked, request, link)
    more = additions(asked.text, [row.one for row in table.rows], lambda text: link(**asked.query(text=text)))
    return visit.page(
        "search.html", title="Search", api=api, asked=asked, table=table, link=link, more=more, examples=EXAMPLES
    )
