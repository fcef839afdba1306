"""Everything that happened to an adapter as one log: from publishes and moves of tags to deletions and new names."""

from __future__ import annotations

from typing import Annotated, Final

from fastapi import APIRouter, Response
from pydantic import Field

from registry.http.payloads import position_of
from registry.operations import table
from registry.reference import Path
from registry.schemas import Schema
from registry.schemas.protocol import cursor_to
from registry.services.aftermath import happened
from registry.web.activity import VERBS, told
from registry.web.frame.visit import PageRoute, PageVisit
from registry.web.revision.subject import subject_of

router = APIRouter(include_in_schema=False, route_class=PageRoute)
LISTED: Final = 50
"""Events on a page."""


class _Asked(Schema):
    cursor: Annotated[str | None, Field(max_length=512)] = None


@router.get("/log/{reference:path}", response_model=None)
def log(visit: PageVisit, reference: str) -> Response:
    """What was done to an adapter, newest first, without what is below it."""
    asked = visit.asked(_Asked)
    subject = subject_of(visit, reference)
    path = subject.revision.path
    deployment = visit.registry.deployment
    found = happened(deployment, Path.parse(path), position_of(table.EVENTS, asked.cursor), LISTED)
    return visit.page(
        "log.html",
        title=f"Log of {path}",
        api=visit.api("/events", path=path),
        subject=subject,
        part="history",
        events=told(found.items),
        verbs=VERBS,
        older=found.next and visit.links.of("log", subject.asked, cursor=cursor_to(found.next)),
    )
