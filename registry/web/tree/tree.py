"""The pages of a base model: its adapters as a list, a drawing and a table."""

from __future__ import annotations

from typing import Any, Final, Literal

from fastapi import Response

from registry.catalogue.tree import bases, browse
from registry.errors import UsageError
from registry.plots.drawing import Drawing
from registry.reference import Path
from registry.services.plane import plane
from registry.web.frame.visit import Visit
from registry.web.tree import branches
from registry.web.tree.filters import Filters
from registry.web.tree.rows import csv_answer, note, rows_of

VIEWS: Final = (("list", "List"), ("drawing", "Drawing"), ("table", "Table"), ("plane", "Plane"))
_MOST: Final = {"list": 80, "drawing": 150}  # adapters


class TreeAsked(Filters):
    """What the page is asked for.

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
        NotFoundError: there is none, or nothing at the path.
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
    if asked.form == "csv":
        return csv_answer(visit, asked, request, str(at).replace("/", "."))
    table = rows_of(visit, asked, request, shared["link"])
    api = visit.api("/search", **request.model_dump(exclude_defaults=True))
    return visit.page("tree.html", api=api, which=which, table=table, note=note, **shared)


def _tree(visit: Visit, asked: TreeAsked, at: Path, shared: dict[str, Any]) -> Response:
    tree = branches.branches(visit, at.base, str(at), asked, _MOST[asked.view])
    size, colour = tree.scale(asked.size), tree.scale(asked.colour)
    shared |= {"tree": tree, "size": size, "colour": colour}
    if asked.view == "drawing" or asked.form == "svg":
        drawn = branches.drawing(tree, visit, asked.query(form=None), size, colour)
        if asked.form == "svg":
            return _svg(drawn, at)
        shared["drawing"] = drawn
    if asked.are_given:
        api = visit.api("/search", **asked.request(path=str(at)).model_dump(exclude_defaults=True))
    else:
        api = visit.api("/tree", path=str(at))
    return visit.page("tree.html", api=api, more_link=branches.more_link, **shared)


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
