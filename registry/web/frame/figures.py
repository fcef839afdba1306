"""Figures of pages as files: SVG and CSV, at addresses that stay the same if the reference has a digest."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from fastapi import APIRouter, Response

from registry.errors import NotFoundError
from registry.plots.drawing import Drawing
from registry.schemas.frames import csv_of
from registry.web.frame.visit import PageRoute, PageVisit, Visit

router = APIRouter(include_in_schema=False, route_class=PageRoute)


@dataclass(frozen=True)
class Figure:
    """A drawing and the values that it is made of.

    Args:
        drawing: what a page has inline.
        columns: of the values.
        rows: by these names.
    """

    drawing: Drawing
    columns: Sequence[str]
    rows: Iterable[Mapping[str, object]]

    def csv(self) -> str:
        """The values. A spreadsheet takes no text of them for a formula."""
        return csv_of(({name: _plain(value) for name, value in row.items()} for row in self.rows), self.columns)


Maker = Callable[[Visit, str], Figure | None]
_MAKERS: Final[dict[str, Maker]] = {}


def figure(name: str) -> Callable[[Maker], Maker]:
    """Register what makes a figure of a reference; it reads the rest by `Visit.asked`. None: it has none yet.

    The macro ``figure`` of ``parts.html`` shows a drawing with the links to its files.
    """

    def register(maker: Maker) -> Maker:
        _MAKERS[name] = maker
        return maker

    return register


@router.get("/figures/{file}/{reference:path}", response_model=None)
def figure_file(visit: PageVisit, file: str, reference: str) -> Response:
    """A figure, such as ``/figures/change.svg/llama/support@3``; raises `NotFoundError`."""
    name, _, form = file.rpartition(".")
    maker = _MAKERS.get(name)
    found = maker(visit, reference) if maker is not None and form in {"svg", "csv"} else None
    if found is None:
        raise NotFoundError(f"There is no figure {file[:64]!r} of {reference[:512]!r}, or nothing is kept of it yet.")
    headers = {"Cache-Control": "private, no-cache"}
    if form == "csv":
        headers["Content-Disposition"] = f'attachment; filename="{name}.csv"'
        return Response(found.csv(), media_type="text/csv; charset=utf-8", headers=headers)
    svg = found.drawing.svg()
    return Response(svg, media_type="image/svg+xml", headers=headers | {"Content-Security-Policy": _policy(svg)})


def _policy(svg: str) -> str:
    """Nothing but the style that the drawing has."""
    style = svg.partition("<style>")[2].partition("</style>")[0]
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    return (
        f"default-src 'none'; style-src 'sha256-{digest}'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
    )


def _plain(value: object) -> object:
    return f"'{value}" if isinstance(value, str) and value[:1] in {"=", "+", "-", "@"} else value
