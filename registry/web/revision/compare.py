"""Two revisions side by side, and the children of a path."""

from __future__ import annotations

from typing import Annotated, Final

from fastapi import APIRouter, Response
from pydantic import Field

from registry.errors import UsageError
from registry.figures import short_digest, size
from registry.operations import table
from registry.reference import Path
from registry.schemas import FileEntry, Schema, TargetGroup
from registry.schemas.difference import DELTA_COLUMNS, MATRIX_COLUMNS, Difference, ValueDifference
from registry.schemas.heat_maps import children_map, modules_map
from registry.schemas.requests import DiffRequest, PathRequest, Ref
from registry.web.frame.figures import Figure, figure
from registry.web.frame.rendering import as_text
from registry.web.frame.visit import PageRoute, PageVisit, Visit
from registry.web.revision.previews import paired, previews_of
from registry.web.revision.side_by_side import SideBySide, side_by_side

router = APIRouter(include_in_schema=False, route_class=PageRoute)
_MOST: Final = 100  # rows of a table
_ELSEWHERE: Final = ("message", "tags", "size")  # on the page
_Row = tuple[str, object, object]  # a name, and the value on each side; None: that side has none
_Side = Annotated[str | None, Field(max_length=512)]


class _Asked(SideBySide):
    """Two references; one of them or none: what the form begins with. Or several, as a table has them."""

    a: _Side = None
    b: _Side = None
    deltas: bool = False


class _Against(Schema):
    against: Ref


@router.get("/compare", response_model=None)
def compare(visit: PageVisit) -> Response:
    """What differs from a to b; of their deltas only if requested, since it computes. Of more, a table."""
    asked = visit.asked(_Asked)
    several = asked.references
    if len(several) == 2 and asked.children is None:
        return visit.go(visit.links("/compare", a=several[0], b=several[1]))
    if len(several) > 2 or asked.children is not None:
        return side_by_side(visit, asked)
    if not asked.a or not asked.b:
        asked = asked.model_copy(update={"a": asked.a or next(iter(several), None)})
        return visit.page("compare.html", title="Compare", asked=asked, found=None)
    found = visit.ask(table.DIFF, DiffRequest(a=asked.a.strip(), b=asked.b.strip(), deltas=asked.deltas))
    a, b, deltas = found.a, found.b, found.deltas
    above = {Path.parse(one.path).parent for one in (a, b)}
    return visit.page(
        "compare.html",
        title=f"{a.reference} and {b.reference}",
        api=visit.api("/diff", a=a.reference, b=b.reference, deltas="true" if deltas else None),
        asked=asked,
        found=found,
        sections=_sections(found),
        pairs=paired(previews_of(visit, a), previews_of(visit, b)),
        family=above.pop() if a.path != b.path and len(above) == 1 else None,
        map=None if deltas is None else modules_map(deltas),
        pinned=[f"{one.path}@{one.digest}" for one in (a, b)],
        groups=(("all modules", deltas), *((one.name, one) for one in deltas.kinds)) if deltas else (),
        most=_MOST,
    )


@router.get("/matrix/{path:path}", response_model=None)
def matrix(visit: PageVisit, path: str) -> Response:
    """The deltas of all children of a path with each other."""
    request = PathRequest(path=str(Path.parse(path)))
    try:
        found = visit.ask(table.DIFF_CHILDREN, request)
    except UsageError as error:  # more children than are compared each with each
        return visit.page("matrix.html", title=f"Children of {path}", path=path, found=None, why=str(error))
    return visit.page(
        "matrix.html",
        title=f"Children of {path}",
        api=visit.api("/diff/children", path=path),
        path=path,
        found=found,
        map=children_map(found),
        pairs=sorted(found.rows(), key=lambda row: -abs(float(str(row["cosine"] or 0))))[:20],
    )


@figure("deltas")
def _deltas_figure(visit: Visit, reference: str) -> Figure | None:
    """How the deltas of two revisions agree."""
    against = visit.asked(_Against).against
    found = visit.ask(table.DIFF, DiffRequest(a=reference, b=against, deltas=True)).deltas
    return None if found is None else Figure(modules_map(found), DELTA_COLUMNS, found.rows())


@figure("children")
def _children_figure(visit: Visit, reference: str) -> Figure:
    """How the deltas of the children of a path agree."""
    found = visit.ask(table.DIFF_CHILDREN, PathRequest(path=reference))
    return Figure(children_map(found), MATRIX_COLUMNS, found.rows())


def _sections(found: Difference) -> dict[str, list[_Row]]:
    """Tables by their titles: of metrics all, of the rest what differs."""
    a, b = found.a.metrics, found.b.metrics
    about = (one for one in found.about if one.name not in _ELSEWHERE)
    return {
        "Metrics": [(name, a.get(name), b.get(name)) for name in sorted(a.keys() | b.keys())],
        "Configuration": [
            *map(_value, (*about, *found.config)),
            *((f"targets {one.name}", _target_text(one.a), _target_text(one.b)) for one in found.targets),
        ],
        "Annotations": list(map(_value, found.annotations)),
        "Files": [(one.path, _file(one.a), _file(one.b)) for one in found.files],
    }


def _value(one: ValueDifference) -> _Row:
    return one.name, as_text(one.a) if one.in_a else None, as_text(one.b) if one.in_b else None


def _target_text(group: TargetGroup | None) -> str | None:
    if group is None:
        return None
    return f"{group.modules} modules, rank {as_text(group.ranks)}, scaling {as_text(group.scalings)}"


def _file(file: FileEntry | None) -> str | None:
    return None if file is None else f"{size(file.size)}, {short_digest(file.digest)}"
