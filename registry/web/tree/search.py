"""Searching the adapters of all base models."""

from __future__ import annotations

from typing import Literal

from fastapi import APIRouter, Response

from registry.web.frame.visit import PageRoute, PageVisit
from registry.web.tree.filters import Filters
from registry.web.tree.rows import csv_answer, note, rows_of

router = APIRouter(include_in_schema=False, route_class=PageRoute)


class SearchAsked(Filters):
    """What the page is asked for."""

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
