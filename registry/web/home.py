"""The first page: the base models, or what to do where there is none."""

from __future__ import annotations

from fastapi import APIRouter, Response

from registry.http.cursors import cursor_to, position_of
from registry.operations import table
from registry.schemas import Schema
from registry.schemas.requests import BasesRequest
from registry.web.frame.visit import PageRoute, PageVisit

router = APIRouter(include_in_schema=False, route_class=PageRoute)


class _Asked(Schema):
    cursor: str | None = None


@router.get("/", response_model=None)
def home(visit: PageVisit) -> Response:
    """Base models as cards."""
    position = position_of(table.BASES, visit.asked(_Asked).cursor)
    found = visit.listed(table.BASES, BasesRequest(figures=True), position)
    return visit.page(
        "home.html",
        title="Base models",
        api=visit.api("/bases", figures="true"),
        bases=found.items,
        more=None if found.next is None else visit.links("/", cursor=cursor_to(found.next)),
    )
