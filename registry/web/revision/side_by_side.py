"""Up to forty revisions side by side: what differs among them, the best of each metric, and two numbers in a plane."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Final

from fastapi import Response
from pydantic import Field

from registry.catalogue.tree.statistics import row_figures
from registry.figures import counted
from registry.operations import table
from registry.plots.charts import Axis
from registry.plots.scatter import Dot, Scatter
from registry.reference import Path, Reference
from registry.schemas import Schema
from registry.schemas.requests import SearchRequest
from registry.services.deltas import beside
from registry.web.columns import Chosen, Column, Row, best_first, key_of, named, offered
from registry.web.frame.rendering import as_text
from registry.web.frame.visit import Visit
from registry.web.search import later_of, name_below, ordered, shared_by, sorted_by

MOST: Final = 40
"""Revisions side by side."""
_COLUMNS: Final = 32  # that are shown; what follows is left to two at a time
_STATISTICS: Final = ("relative_frobenius", "relative_spectral", "effective_rank", "stable_rank", "rank95")
_SPARE: Final = 4  # that are looked for beside them: the parent, and some that are retracted
_BAR: Final = 60  # pixels
_TOLD: Final = {"r", "target_modules"}  # of a configuration, that have columns of their own
_Name = Annotated[str, Field(max_length=512)]


class SideBySide(Schema):
    """What the page's query requests.

    Args:
        ref: references, or what follows ``below`` in them.
        below: the path that they are below.
        children: instead of references: the best children of this path.
        sort: the order of the rows, as of a search; without, they are as given.
        x, y: the columns of the plane.
    """

    ref: tuple[_Name, ...] = Field(default=(), max_length=1000)
    below: _Name | None = None
    children: _Name | None = None
    sort: _Name | None = None
    x: _Name | None = None
    y: _Name | None = None

    @property
    def references(self) -> tuple[str, ...]:
        """Whole references, each once."""
        below = (self.below or "").strip().rstrip("/")
        told = (one.strip() for one in self.ref)
        whole = (one if not below else f"{below}{one}" if one.startswith("@") else f"{below}/{one}" for one in told)
        return tuple(dict.fromkeys(whole))


@dataclass(frozen=True)
class Side:
    """The page's table.

    Args:
        rows: the revisions.
        columns: what differs among them, and all metrics.
        same: what all have alike, as text.
        best: the best value of each column that has one.
        lengths: of the bars of a column, by row, in pixels.
        left_out: how many columns more differ.
    """

    rows: tuple[Row, ...]
    columns: tuple[Column, ...]
    same: tuple[tuple[str, str], ...]
    best: Mapping[str, float]
    lengths: Mapping[str, Sequence[float | None]]
    left_out: int

    @property
    def numbers(self) -> tuple[Column, ...]:
        """The columns that a plane may have."""
        return tuple(one for one in self.columns if one.key in self.lengths)


def side_by_side(visit: Visit, asked: SideBySide) -> Response:
    """Several revisions side by side; of more than forty the first.

    Raises:
        NotFoundError: one does not exist.
        UsageError: one is the reference of a base model.
    """
    notices: list[str] = []
    references = asked.references
    if asked.children is not None:
        asked, references, notices = _children(visit, asked, asked.children)
    elif len(references) > MOST:
        notices = [f"{len(references)} revisions are chosen, and {MOST} fit side by side: these are the first {MOST}."]
    rows, above = _rows(visit, references[:MOST])
    by = sorted_by(asked.sort)
    if by:
        rows = _in_order(rows, named(by), (asked.sort or "").strip().partition(":")[0])
    told = tuple(name_below(row.one.reference, above) for row in rows)

    def link(**query: object) -> str:
        return visit.links("/compare", **{"ref": list(told), "below": above or None, **query})

    side = _side(rows, by)
    columns = tuple(
        ordered(one, asked.sort, lambda sort: link(sort=sort, x=asked.x, y=asked.y)) for one in side.columns
    )
    x, y = _axes(side, asked)
    return visit.page(
        "side_by_side.html",
        title=f"Compare {counted(len(rows), 'revision')}",
        asked=asked,
        side=side,
        columns=columns,
        told=told,
        above=above,
        notices=notices,
        x=x,
        y=y,
        drawing=None if x is None or y is None else _plane(visit, rows, x, y),
        family=asked.children or (above if "/" in above else None),
    )


def _rows(visit: Visit, references: Sequence[str]) -> tuple[list[Row], str]:
    """The revisions with their figures, and the path that all are below."""
    with visit.registry.deployment.read() as session:
        found = beside(session, [Reference.parse(one) for one in references])
        figures = row_figures(session, [one.one for one in found])
    above = shared_by([one.one.path for one in found])
    later = later_of(visit, [one.one for one in found])
    return [
        Row(
            one.one,
            figures[one.one.reference],
            name_below(one.one.reference, above),
            later.get(one.one.reference, {}),
            one.config,
        )
        for one in found
        if one.one.reference in figures
    ], above


def _children(visit: Visit, asked: SideBySide, path: str) -> tuple[SideBySide, tuple[str, ...], list[str]]:
    """The best children of a path: by the order that is given, or by the metric that most of the first ones have."""
    parent = str(Path.parse(path))
    request = SearchRequest(path=parent, depth=1, sort=asked.sort)
    part = visit.listed(table.SEARCH, request, None, MOST + _SPARE)
    found = [one for one in part.items if one.path != parent]
    if asked.sort is None and len(found) > MOST:
        names = [name for one in found for name in one.metrics]
        if names:
            common = max(dict.fromkeys(names), key=names.count)
            asked = asked.model_copy(update={"sort": f"{best_first(common)}:{common}"})
            return _children(visit, asked, path)
    ranked = [one for one in found if asked.sort is None or one.retracted is None]
    notices = []
    if len(found) > MOST:
        order = f"the best {MOST} by {(asked.sort or '').partition(':')[2]}" if asked.sort else f"the first {MOST}"
        notices = [f"{parent} has more than {MOST} children: these are {order}."]
    return asked, tuple(one.reference for one in ranked[:MOST]), notices


def _in_order(rows: Sequence[Row], column: Column, way: str) -> list[Row]:
    """By a number, those that lack it or are retracted last."""

    def place(row: Row) -> tuple[bool, bool, float]:
        value = column.value(row)
        if not isinstance(value, float):
            return row.one.retracted is not None, True, 0.0
        return row.one.retracted is not None, False, -value if way == "max" else value

    return sorted(rows, key=place)


def _side(rows: Sequence[Row], by: str) -> Side:
    offer = offered(rows, Chosen(columns=("parent",)), "")
    there = {column.key: column for column in (*offer.shown, *offer.others)}
    metrics = [one for one in there.values() if one.kind == "metric"]
    figures = [there[key] for name in _STATISTICS if (key := f"stat:{name}") in there]
    plain = [there[key] for key in ("parent", "rank", "scaling", "targets", "tags", "author") if key in there]
    config = [named(key_of("config", name)) for name in sorted({name for row in rows for name in row.config} - _TOLD)]
    texts = [one for one in there.values() if one.kind == "annotation"]
    columns, same = [], []
    for column in (*metrics, *plain, *figures, *config, *texts):
        values = {as_text(column.plain(row)) if column.value(row) is not None else None for row in rows}
        if column.kind == "metric" or (len(values) > 1 and column.key != "tags"):
            columns.append(column)
        elif column.key != "tags" and (value := values.pop() if values else None):
            same.append((column.title, value))
    columns.sort(key=lambda one: one.key != by)
    shown = columns[:_COLUMNS]
    numbers = [one for one in shown if one.kind in {"metric", "stat"} or one.key == "rank"]
    best, lengths = {}, {}
    for column in numbers:
        values_of = [column.value(row) for row in rows]
        known = [float(value) for value in values_of if isinstance(value, int | float)]
        if known:
            lengths[column.key] = _lengths(values_of, known)
            if column.kind == "metric" and len(set(known)) > 1:
                best[column.key] = max(known) if best_first(column.name) == "max" else min(known)
    return Side(tuple(rows), tuple(shown), tuple(same), best, lengths, len(columns) - len(shown))


def _lengths(values: Sequence[object], known: Sequence[float]) -> list[float | None]:
    """Bars from 0, or from the least where one is below 0."""
    least = min(0.0, *known)
    span = (max(known) - least) or 1.0
    return [_BAR * (float(one) - least) / span if isinstance(one, int | float) else None for one in values]


def _axes(side: Side, asked: SideBySide) -> tuple[Column | None, Column | None]:
    """The columns of the plane: those requested, or the first two."""
    by_key = {one.key: one for one in side.numbers}
    free = [one for one in side.numbers if one.key not in {asked.x, asked.y}]
    x = by_key.get(asked.x or "") or (free.pop(0) if free else None)
    y = by_key.get(asked.y or "") or (free.pop(0) if free else None)
    return x, y


def _plane(visit: Visit, rows: Sequence[Row], x: Column, y: Column) -> Scatter:
    dots = [
        Dot(
            x=float(across),
            y=float(up),
            label=row.name,
            href=visit.links.ref(row.one.reference),
            told=f"{row.name}: {x.title} {as_text(float(across))}, {y.title} {as_text(float(up))}",
            shade=4,
        )
        for row in rows
        if isinstance(across := x.value(row), int | float) and isinstance(up := y.value(row), int | float)
    ]
    return Scatter(
        title=f"{y.title} over {x.title}",
        about="Each of the revisions by two of its numbers.",
        x=Axis(x.title),
        y=Axis(y.title),
        dots=dots,
        what="revisions",
    )
