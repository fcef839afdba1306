"""All pages; of them here the first one, what a reference names, and the lists of the table of operations."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final, Literal, get_args

from fastapi import APIRouter, Response
from pydantic import Field, create_model

from registry.http.errors import Face
from registry.http.origins import TREE
from registry.http.payloads import position_of
from registry.operations import table
from registry.operations.arguments import start_of
from registry.operations.operation import Listing
from registry.operations.table import OPERATIONS
from registry.reference import Reference
from registry.schemas import Schema
from registry.schemas.form import Moment, Param
from registry.schemas.frames import Described, csv_of
from registry.schemas.protocol import cursor_to
from registry.schemas.requests import BasesRequest
from registry.web import activity, feed, search, tags, upkeep
from registry.web.frame import figures, sign_in, visit
from registry.web.frame.forms import request_of
from registry.web.frame.sign_in import error_page, is_for_people
from registry.web.frame.visit import PageRoute, PageVisit
from registry.web.revision import actions, card_changes, compare, edit, files_and_use, history, previews
from registry.web.revision.adapter import adapter_page
from registry.web.tree import tree_page

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


@router.get(TREE + "/{reference:path}", response_model=None)
def node(visit: PageVisit, reference: str) -> Response:
    """The page of a reference; raises `NotFoundError`, `UsageError`."""
    parsed = Reference.parse(reference)
    return tree_page(visit, parsed.path.base) if parsed.path.is_base else adapter_page(visit, reference)


_IN_CSV: Final = 1000


@dataclass(frozen=True)
class Condition:
    """A field of the form.

    Args:
        name, label, about: of it: in the query, before it, and in a sentence.
        example: what may be written in it.
        is_flag: whether it is only given or not.
        is_time: whether it is a time, which may be said as how long ago.
    """

    name: str
    label: str
    about: str
    example: str
    is_flag: bool
    is_time: bool


def conditions_of(request: type[Schema]) -> Iterator[Condition]:
    """The fields of a request as those of a form."""
    for name, info in request.model_fields.items():
        given = next((one for one in info.metadata if isinstance(one, Param)), Param())
        is_time = Moment in get_args(info.annotation)
        yield Condition(
            name,
            name.replace("_", " ").capitalize(),
            given.help or given.description or "",
            "7d or 2026-03-04" if is_time else next(iter(given.examples or ()), ""),
            info.annotation is bool,
            is_time,
        )


def _page(listing: Listing[Any, Any], described: Described[Any]) -> Callable[[PageVisit], Response]:
    conditions = list(conditions_of(listing.request))
    text = (str | None, Field(default=None, max_length=512))
    more: dict[str, Any] = {one.name: text for one in conditions if one.is_time}
    more |= {"cursor": text, "form": (Literal["csv"] | None, None)}
    schema: type[Schema] = create_model("Asked", __base__=listing.request, **more)
    columns = described.chosen(described.table)

    def page(visit: PageVisit) -> Response:
        asked = visit.asked(schema).model_dump(exclude_defaults=True)
        cursor, form = asked.pop("cursor", None), asked.pop("form", None)
        times = {one.name: start_of(asked[one.name]) for one in conditions if one.is_time and one.name in asked}
        request = request_of(listing.request, asked | times)
        after = position_of(listing, cursor)
        if form == "csv":
            rows = described.values(visit.listed(listing, request, after, _IN_CSV).items)
            headers = {"Content-Disposition": f'attachment; filename="{listing.page.lower()}.csv"'}
            headers["Cache-Control"] = "private, no-cache"
            return Response(csv_of(*rows), headers=headers, media_type="text/csv")
        found = visit.listed(listing, request, after)
        given = {name: 1 if value is True else value for name, value in asked.items()}
        return visit.page(
            "list.html",
            title=listing.page,
            api=visit.api(listing.address, **request.model_dump(mode="json", exclude_defaults=True)),
            address=listing.address,
            noun=described.noun,
            conditions=conditions,
            asked=asked,
            columns=columns,
            items=found.items,
            csv=visit.links(listing.address, **given, form="csv"),
            older=found.next and visit.links(listing.address, **given, cursor=cursor_to(found.next)),
        )

    return page


for _listing in OPERATIONS:
    if _listing is table.TAGS:
        continue  # see `registry.web.tags`
    if isinstance(_listing, Listing) and _listing.page and _listing.described is not None:
        router.add_api_route(
            _listing.address, _page(_listing, _listing.described), methods=["GET"], response_model=None
        )


_MODULES: Final = (
    *(history, card_changes, figures, tags, feed, search, files_and_use, previews, edit, actions, compare),
    *(activity, upkeep, sign_in, visit),
)
PAGES: Final = Face((router, *(module.router for module in _MODULES)), is_for_people, error_page)
"""The pages, and errors as pages."""
