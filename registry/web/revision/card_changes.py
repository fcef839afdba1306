"""The texts that the card of an adapter has had, and how two of them differ.

Each README.md is stored with its revision, and of what was edited on a page the last text alone: of older edits the log
says when and by whom.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from typing import Annotated, Final

from fastapi import APIRouter, Response
from pydantic import Field

from registry.catalogue.tree.cards import CardVersion
from registry.errors import NotFoundError
from registry.operations import table
from registry.reference import Path
from registry.schemas import Schema
from registry.schemas.requests import ReferenceRequest
from registry.services.deployment import card_versions
from registry.web.frame.visit import PageRoute, PageVisit, Visit
from registry.web.revision.subject import subject_of

router = APIRouter(include_in_schema=False, route_class=PageRoute)
LISTED: Final = 50
"""Versions on the page."""
_LINES: Final = 600
"""Lines of a text that is compared: what differs between longer ones may take a page too long to find."""
_WIDE: Final = 300  # characters of a line that are shown
_MOST: Final = 20_000  # characters of differences
EDITED: Final = "edited"
"""The name of the edited text among versions; those of others are numbers of revisions."""


class _Asked(Schema):
    a: Annotated[str | None, Field(max_length=20, pattern=r"^(edited|[1-9][0-9]{0,17})$")] = None
    b: Annotated[str | None, Field(max_length=20, pattern=r"^(edited|[1-9][0-9]{0,17})$")] = None


@router.get("/card-changes/{reference:path}", response_model=None)
def card_changes(visit: PageVisit, reference: str) -> Response:
    """The versions of a card, and what differs between two: if none are named, between the last two."""
    asked, subject = visit.asked(_Asked), subject_of(visit, reference)
    path = subject.revision.path
    found = card_versions(visit.registry.deployment, Path.parse(path), LISTED)
    names = [_name(one) for one in found]
    a = asked.a or next(iter(names[1:]), None)
    b = asked.b or next(iter(names[:1]), None)
    lines = _differences(visit, path, a, b) if a is not None and b is not None else None
    return visit.page(
        "card_changes.html",
        title=f"Card of {path}",
        api=visit.api("/cards", ref=path),
        subject=subject,
        part="history",
        versions=[*zip(names, found, strict=True)],
        a=a,
        b=b,
        lines=None if lines is None else [*_shown(lines)],
        is_too_long=a is not None and b is not None and lines is None,
    )


def _name(version: CardVersion) -> str:
    return EDITED if version.number is None else str(version.number)


def _differences(visit: Visit, path: str, a: str, b: str) -> Sequence[str] | None:
    """The differences as lines, each with a sign before it; None: a text is too long for a page."""
    before, now = [_text(visit, path, name).splitlines() for name in (a, b)]
    if max(len(before), len(now)) > _LINES:
        return None
    return [*difflib.unified_diff(before, now, n=2, lineterm="")][2:]


def _text(visit: Visit, path: str, name: str) -> str:
    """The text of a version; raises `NotFoundError`."""
    card = visit.ask(table.CARD, ReferenceRequest(ref=path if name == EDITED else f"{path}@{name}"))
    if name == EDITED and (card.state is None or card.state.source != "edited"):
        raise NotFoundError(
            f"The card of {path} is not edited: it is the README.md of a revision, named by its number."
        )
    return card.text


def _shown(lines: Sequence[str]) -> Iterator[tuple[str, str]]:
    """What each line is, and its text: as many as fit a page."""
    kinds = {"+": "added", "-": "removed", "@": "place"}
    left = _MOST
    for line in lines:
        text = line[1 : _WIDE + 1] if line[:1] != "@" else line[:_WIDE]
        left -= len(text) + 1
        if left < 0:
            yield "place", "and more"
            return
        yield kinds.get(line[:1], "same"), text + ("…" if len(line) > _WIDE + 1 else "")
