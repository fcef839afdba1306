"""The pages of a base model: its adapters as a list, a drawing and a table, folded until they fit a page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Final, Literal

from fastapi import Response

from registry import figures
from registry.catalogue.tree import bases, browse, nodes, order
from registry.catalogue.tree.statistics import RowFigures, row_figures
from registry.errors import UsageError
from registry.plots.drawing import Drawing
from registry.plots.nodes import Node, Scale, ancestors, folded, labels, nested
from registry.plots.tree_drawing import TreeDrawing
from registry.reference import Path
from registry.schemas import RevisionSummary
from registry.services.plane import plane
from registry.web.frame.visit import Visit
from registry.web.search import Filters, csv_answer, found, rows_of
from registry.web.tags import Marks, marks

COUNTED: Final = 20_000
"""Adapters below a path that are counted; a page reads their names."""
FOUND: Final = 60
"""Adapters that are looked for, on a page."""
STATISTICS: Final = {"relative_frobenius": "delta norm, of the base", "effective_rank": "effective rank"}


@dataclass(frozen=True)
class Branches:
    """A tree as a page shows it.

    Args:
        root: labels are paths; ``more`` counts those that were folded away.
        revisions: by path: the newest, or the newest that was looked for.
        statistics: by reference.
        tags: by reference: those of the adapter, wherever they point.
        next: where the next ones begin that are looked for.
    """

    base: str
    root: Node
    revisions: Mapping[str, RevisionSummary]
    statistics: Mapping[str, RowFigures]
    tags: Mapping[str, Marks]
    next: str | None

    @property
    def numbers(self) -> dict[str, str]:
        """What sizes and shades may stand for, with names for people."""
        own = sorted({name for one in self.revisions.values() for name in one.metrics})
        kept = {f"stat:{name}": told for name, told in STATISTICS.items()}
        return {"rank": "rank", "age": "published", **kept, **{f"metric:{name}": name for name in own[:20]}}

    def scale(self, number: str | None) -> Scale:
        """The scale of one of `numbers`, or of a metric or statistic that none of these has; None: of nothing.

        Raises:
            UsageError: it is no such number.
        """
        kind, _, name = (number or "").partition(":")
        if kind not in {"", "rank", "age", "stat", "metric"}:
            raise UsageError(f"A tree has no size or colour by {kind[:64]!r}: rank, age, stat:NAME or metric:NAME.")
        values: dict[str, float] = {}
        for path, one in self.revisions.items():
            figure = self.statistics.get(one.reference, RowFigures())
            value = {
                "rank": float(one.rank),
                "age": one.created_at.timestamp(),
                "stat": figure.statistics.get(name),
                "metric": one.metrics.get(name),
            }.get(kind)
            if value is not None:
                values[path] = value
        word = figures.number if kind != "age" else lambda value: f"{datetime.fromtimestamp(value, UTC):%Y-%m-%d}"
        return Scale(self.numbers.get(number or "", name), values, word)


def branches(visit: Visit, base: str, at: str, filters: Filters, most: int) -> Branches:
    """The tree of a base model as far as ``most`` nodes go: what is at and below a path, and above it.

    With conditions, what meets them in this part, with all above. Without, ``after`` is the child of ``at`` after which
    others are shown.
    """
    hits: dict[str, RevisionSummary] = {}
    following = None
    if filters.are_given:
        part = found(visit, filters, filters.request(path=at), FOUND)
        hits, following = {one.path: one for one in part.items}, part.next
    with visit.registry.deployment.read() as session:
        if filters.are_given:
            names: Sequence[str] = list(hits)
        else:
            from_place = f"{order.place_of(filters.after)}!" if filters.after else ""
            names = nodes.names(session, Path.parse(at), from_place=from_place, limit=COUNTED)
        shown = nodes.newest(session, sorted(ancestors([*hits, f"{at}/"]))) | hits
        root = nested(base, sorted({*names, *shown}, key=order.place_of), at, hits)
        root = folded(root, most) if not filters.are_given else root
        shown |= nodes.newest(session, [path for path in labels(root) if path not in shown and path != base])
        seen = list(shown.values())
        return Branches(base, root, shown, row_figures(session, seen), marks(session, seen), following)


def drawing(tree: Branches, visit: Visit, query: Mapping[str, object], size: Scale, colour: Scale) -> TreeDrawing:
    """The tree as a drawing."""

    def drawn(node: Node, above: str) -> Node:
        path = node.label
        one = tree.revisions.get(path)
        told = path if one is None else f"{one.reference}, {figures.ranked(one.rank)}: {one.message}"
        told += "".join(f"; {scale.name} {scale.value_text(path)}" for scale in (size, colour) if path in scale.values)
        return replace(
            node,
            label=path.removeprefix(f"{above}/"),
            href=visit.links.ref(path if one is None or not node.found else one.reference),
            children=tuple(drawn(child, path) for child in node.children),
            told=told,
            size=size.part(path),
            shade=colour.shade(path),
            behind=one is not None and one.behind,
            retracted=one is not None and one.retracted is not None,
            tags=() if one is None else tree.tags.get(one.reference, Marks()).texts,
            more_href=more_link(visit, tree.base, node, query),
        )

    about = "Adapters, each with its newest revision, as children of what they were trained on."
    return TreeDrawing(f"The tree of {tree.base}", about, drawn(tree.root, ""), size.measure, colour.measure)


def more_link(visit: Visit, base: str, node: Node, query: Mapping[str, object]) -> str:
    """Where those are that were folded into a node: the tree at this node, after the children that are shown."""
    after = node.children[-1].label if node.children else None
    return visit.links.ref(base, **{**query, "at": node.label, "after": after})


VIEWS: Final = (("list", "List"), ("drawing", "Drawing"), ("table", "Table"), ("plane", "Plane"))
_MOST: Final = {"list": 80, "drawing": 100}  # adapters


class TreeAsked(Filters):
    """What the page's query requests.

    Args:
        at: where the tree is opened, or whose children the table has.
        which: rows of the table.
        size, colour: what those of the points stand for.
        form: a file instead of the page.
    """

    view: Literal["list", "drawing", "table", "plane"] = "list"
    at: str | None = None
    which: Literal["children", "below", "revisions"] | None = None
    size: str | None = None
    colour: str | None = None
    form: Literal["csv", "svg"] | None = None


def tree_page(visit: Visit, base: str) -> Response:
    """A base model and its adapters.

    Raises:
        NotFoundError: it does not exist, or nothing exists at the path.
        UsageError: the path is of another base model.
    """
    asked = visit.asked(TreeAsked)
    at = Path.parse(asked.at or base)
    if at.base != base:
        raise UsageError(f"{at} is no adapter of {base}.")
    with visit.registry.deployment.read() as session:
        about = bases.summary(session, base)
        browse.check_there(session, at)
    names = str(at).split("/")
    above = ["/".join(names[:count]) for count in range(1, len(names))]
    shared = {"title": str(at), "about": about, "asked": asked, "at": at, "above": above, "views": VIEWS}

    def link(**query: object) -> str:
        return visit.links.ref(base, **query)

    show = _table if asked.view == "table" or asked.form == "csv" else _plane if asked.view == "plane" else _tree
    return show(visit, asked, at, {**shared, "link": link})


def _table(visit: Visit, asked: TreeAsked, at: Path, shared: dict[str, Any]) -> Response:
    which = asked.which or ("below" if at.is_base else "children")
    depth = {"children": 1, "below": None, "revisions": None if at.is_base else 0}[which]
    request = asked.request(path=str(at), depth=depth, all_revisions=which == "revisions")
    children_of = str(at) if which == "children" else None
    if asked.form == "csv":
        return csv_answer(visit, asked, request, str(at).replace("/", "."), children_of)
    if (settled := asked.settled()) is not None:
        return visit.go(shared["link"](**asked.query(**settled)))
    table = rows_of(visit, asked, request, shared["link"], children_of)
    api = visit.api("/search", **request.model_dump(exclude_defaults=True))
    return visit.page("tree.html", api=api, which=which, table=table, **shared)


def _tree(visit: Visit, asked: TreeAsked, at: Path, shared: dict[str, Any]) -> Response:
    tree = branches(visit, at.base, str(at), asked, _MOST[asked.view])
    size, colour = tree.scale(asked.size), tree.scale(asked.colour)
    shared |= {"tree": tree, "size": size, "colour": colour}
    if asked.view == "drawing" or asked.form == "svg":
        drawn = drawing(tree, visit, asked.query(form=None), size, colour)
        if asked.form == "svg":
            return _svg(drawn, at)
        shared["drawing"] = drawn
    if asked.are_given:
        api = visit.api("/search", **asked.request(path=str(at)).model_dump(exclude_defaults=True))
    else:
        api = visit.api("/tree", path=str(at))
    return visit.page("tree.html", api=api, more_link=more_link, **shared)


def _plane(visit: Visit, asked: TreeAsked, at: Path, shared: dict[str, Any]) -> Response:
    found = plane(visit.registry.deployment, at.base)
    drawn = found.scatter(str(at), visit.links.ref)
    if asked.form == "svg":
        return _svg(drawn, at)
    api = visit.api("/search", path=at.base, stat="effective_rank")
    return visit.page("tree.html", api=api, plane=found, drawing=drawn, **shared)


def _svg(drawn: Drawing, at: Path) -> Response:
    headers = {"Content-Disposition": f'attachment; filename="{at.base}.svg"', "Cache-Control": "private, no-cache"}
    return Response(drawn.svg(), headers=headers, media_type="image/svg+xml")
