"""What was done in the whole registry, newest first; and how an event is told, here and in the log of an adapter."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Annotated, Final

from fastapi import APIRouter, Response
from pydantic import Field

from registry.figures import moment
from registry.http.payloads import position_of
from registry.operations import table
from registry.operations.arguments import start_of
from registry.schemas import Event, Schema
from registry.schemas.protocol import cursor_to
from registry.schemas.team import EVENT_KINDS, EventsRequest
from registry.web.frame.rendering import as_text
from registry.web.frame.visit import PageRoute, PageVisit

router = APIRouter(include_in_schema=False, route_class=PageRoute)

_Text = Annotated[str | None, Field(max_length=512)]
VERBS: Final = {
    "annotate": "annotated", "base add": "added the base model", "base also-known-as": "changed other repo ids of",
    "base delete": "deleted the base model",
    "base delete undo": "restored the base model", "base rename": "renamed the base model",
    "base retable": "rebuilt the target table of", "card": "edited the card of", "delete": "deleted",
    "delete undo": "restored", "fsck": "checked the store", "gc": "collected what nothing needs",
    "materialise": "materialised", "materialise drop": "dropped a materialisation of",
    "notice": "noticed something about", "protect tag": "protected tags of", "publish": "published", "purge": "purged",
    "refused": "was refused", "rename": "renamed",
    "retention clear": "removed the retention rule of", "retention set": "set the retention rule of",
    "retract": "retracted", "retract undo": "undid the retraction of",
    "tag": "moved a tag of", "token create": "made the token", "token revoke": "revoked the token",
    "unprotect tag": "ended the protection of tags of", "untag": "took a tag away from",
}  # fmt: skip
"""What somebody did, before what it was done to."""


class _ActivityAsked(Schema):
    path: _Text = None
    actor: _Text = None
    kind: _Text = None
    after: _Text = None
    cursor: _Text = None


@router.get("/activity", response_model=None)
def activity(visit: PageVisit) -> Response:
    """Events, newest first, that meet the conditions."""
    asked = visit.asked(_ActivityAsked)
    start = None if asked.after is None else start_of(asked.after)
    request = EventsRequest(path=asked.path, actor=asked.actor, kind=asked.kind, after=start)
    found = visit.listed(table.EVENTS, request, position_of(table.EVENTS, asked.cursor))
    given = asked.model_dump(exclude={"cursor"})
    return visit.page(
        "activity.html",
        title="Activity",
        api=visit.api("/events", **request.model_dump(mode="json")),
        asked=asked,
        filtered=any(given.values()),
        kinds=EVENT_KINDS,
        events=told(found.items),
        verbs=VERBS,
        older=found.next and visit.links("/activity", **given, cursor=cursor_to(found.next)),
    )


Told = list[tuple[Event, list[tuple[str, str]]]]


def told(events: Sequence[Event]) -> Told:
    """Events as pages list them: one for those that go together, with what all of them say."""
    return [(same[0], [said for one in same for said in _said(one)]) for same in _together(events)]


def _together(events: Sequence[Event]) -> Iterator[list[Event]]:
    """Events of a minute that follow each other, by the same person, of the same kind, about the same thing."""
    for _, same in groupby(events, lambda one: (one.action, one.subject, one.actor, one.token, moment(one.at))):
        yield list(same)


def _said(event: Event) -> Iterator[tuple[str, str]]:
    """What an event records besides what was done: a name and a value each."""
    detail = dict(event.detail)
    if "old" in detail:
        name = next((str(detail.pop(key)) for key in ("tag", "metric", "annotation") if key in detail), "")
        changed = [detail.pop("old"), detail.pop("new", None) or detail.pop("message", None)]
        values = [as_text(one).removeprefix(event.subject if event.action.endswith("tag") else "") for one in changed]
        yield name or "text", values[1] if changed[0] is None else " → ".join(values)
    if isinstance(seconds := detail.get("expires_in"), int):
        detail["expires_in"] = f"{seconds / 86400:.3g} days"
    yield from ((name.replace("_", " "), as_text(value)) for name, value in sorted(detail.items()) if value)
