"""Tags: what marks revisions on other pages, and the page of all of them, where people look for what is deployed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import groupby
from typing import Annotated, Final, Literal

from fastapi import APIRouter, Response
from pydantic import Field
from sqlalchemy.orm import Session

from registry.catalogue.changes import tagging
from registry.catalogue.tree import adapter_tags
from registry.catalogue.tree.adapter_tags import AdapterTags, Serving, TagPlace
from registry.errors import ConflictError, UsageError
from registry.http.payloads import position_of
from registry.operations import table
from registry.operations.arguments import start_of
from registry.reference import Path
from registry.schemas import RevisionSummary
from registry.schemas.frames import csv_of
from registry.schemas.protocol import cursor_to
from registry.schemas.tags import Tags, TagsRequest, TagState
from registry.web.frame.forms import request_of
from registry.web.frame.visit import PageRoute, PageVisit, Visit

router = APIRouter(include_in_schema=False, route_class=PageRoute)
MARKS: Final = 4
"""Tags beside a revision."""
_TOLD: Final = 12  # of the others, in words
_METRICS: Final = 3  # of a tag


@dataclass(frozen=True)
class Mark:
    """A tag beside a revision: its name, with the number of the revision that it names where that is another one."""

    name: str
    number: int
    elsewhere: bool

    @property
    def text(self) -> str:
        """``prod``, or ``prod @3``."""
        return f"{self.name} @{self.number}" if self.elsewhere else self.name


@dataclass(frozen=True)
class Marks:
    """The tags beside a revision: a few, and how many its adapter has besides."""

    shown: tuple[Mark, ...] = ()
    more: int = 0
    others: tuple[Mark, ...] = ()
    """The first of those that are not shown."""

    @property
    def texts(self) -> tuple[str, ...]:
        """All that are known, in words."""
        return tuple(one.text for one in (*self.shown, *self.others))

    @property
    def told(self) -> str:
        """The others in words."""
        left = self.more - len(self.others)
        return ", ".join([*(one.text for one in self.others), *([f"and {left} more"] if left else ())])


def marks(session: Session, revisions: Iterable[RevisionSummary], *, elsewhere: bool = True) -> dict[str, Marks]:
    """The tags of some revisions, by reference; also those of their adapters that are ``elsewhere``."""
    shown = list(revisions)
    tags = adapter_tags.of_adapters(session, [one.path for one in shown]) if elsewhere else {}
    found: dict[str, Marks] = {}
    for one in shown:
        of_adapter = tags.get(one.path, AdapterTags((), len(one.tags)))
        known = [*_in_order(one, of_adapter.first)]
        if known:
            more = max(0, of_adapter.total - MARKS)
            found[one.reference] = Marks(tuple(known[:MARKS]), more, tuple(known[MARKS : MARKS + _TOLD]))
    return found


def _in_order(one: RevisionSummary, tags: Sequence[TagPlace]) -> Iterator[Mark]:
    """The protected tags of an adapter, then those of a revision, then others."""
    protected = {tag.name for tag in tags if tag.protected}
    yield from (Mark(tag.name, tag.number, tag.number != one.number) for tag in tags if tag.protected)
    yield from (Mark(name, one.number, elsewhere=False) for name in one.tags if name not in protected)
    yield from (Mark(tag.name, tag.number, True) for tag in tags if not tag.protected and tag.number != one.number)


@dataclass(frozen=True)
class Row:
    """A tag as a page tells of it.

    Args:
        state: what it names, since when, and what it named before.
        serving: the live followers that follow it; None: none does.
        goes_back: whether the visitor may let it name again what it named before.
    """

    state: TagState
    serving: Serving | None
    goes_back: bool

    @property
    def metrics(self) -> list[tuple[str, float, float | None]]:
        """The first metrics of what it names, each with how much it differs from what it named before."""
        now = self.state.metrics
        return [(name, now[name], self.state.changes.get(name)) for name in sorted(now)[:_METRICS]]

    @property
    def more_metrics(self) -> int:
        """How many others there are."""
        return max(0, len(self.state.metrics) - _METRICS)


def rows(visit: Visit, session: Session, states: Sequence[TagState]) -> tuple[Row, ...]:
    """Some tags with what followers report of them, and what the visitor may do."""
    wanted = {(one.path, one.tag): None if one.retracted else _number(one.reference) for one in states}
    serving = adapter_tags.serving(session, wanted, datetime.now(UTC))
    guarded = _guarded(visit, session, states)
    return tuple(
        Row(
            one,
            serving.get(f"{one.path}@{one.tag}"),
            one.previous is not None and visit.may("writer", one.path) and (one.path, one.tag) not in guarded,
        )
        for one in states
    )


def _number(reference: str) -> int:
    return int(reference.rpartition("@")[2])


def _guarded(visit: Visit, session: Session, states: Sequence[TagState]) -> set[tuple[str, str]]:
    """Those of the tags that the visitor could move if they were not protected."""
    if visit.principal.rights.role != "writer":
        return set()
    found: set[tuple[str, str]] = set()
    for base, same in groupby(sorted(states, key=lambda one: one.path), lambda one: Path.parse(one.path).base):
        own = list(same)
        names = tagging.protected(session, base, [one.tag for one in own])
        found |= {(one.path, one.tag) for one in own if one.tag in names}
    return found


ROWS: Final = 40
_IN_CSV: Final = 1000
_Text = Annotated[str | None, Field(max_length=512)]


class _Asked(TagsRequest):
    """What the page's query requests; a time may be said as how long ago."""

    after: _Text = None  # type: ignore[assignment]
    cursor: _Text = None
    form: Literal["csv"] | None = None


@router.get("/tags", response_model=None)
def all_tags(visit: PageVisit) -> Response:
    """Tags of all adapters, or those that meet the conditions."""
    return tags_page(visit)


@router.get("/tags/{path:path}", response_model=None)
def tags_below(visit: PageVisit, path: str) -> Response:
    """Tags of the adapters at and under a path; raises `NotFoundError`."""
    return tags_page(visit, path)


def tags_page(visit: Visit, path: str | None = None, conflict: ConflictError | None = None) -> Response:
    """Tags by adapter; after a form that was not done, all at and under a path.

    Raises:
        NotFoundError: nothing exists at the path.
        UsageError: the query names another one.
    """
    asked = _Asked() if conflict else visit.asked(_Asked)
    if path is not None and asked.path not in (None, path):
        raise UsageError(f"The address names {path}, and the query {asked.path}: give one of them.")
    given = asked.model_dump(exclude_defaults=True, exclude={"cursor", "form", "path"})
    place = path or asked.path
    since = {} if asked.after is None else {"after": start_of(asked.after)}
    request = request_of(TagsRequest, {**given, **since, **({} if place is None else {"path": place})})
    after = position_of(table.TAGS, asked.cursor)
    if asked.form == "csv":
        return _csv(visit, request, after)
    found = visit.listed(table.TAGS, request, after, ROWS)
    with visit.registry.deployment.read() as session:
        shown = rows(visit, session, found.items)
        names = adapter_tags.names(session, None if place is None else Path.parse(place))
    address = "/tags" if place is None else f"/tags/{Path.parse(place)}"
    query = {name: 1 if value is True else value for name, value in given.items()}

    def link(**changes: object) -> str:
        return visit.links(address, **{**query, **changes})

    return visit.page(
        "tags.html",
        title="Tags" if place is None else f"Tags of {place}",
        api=visit.api("/tags", **request.model_dump(mode="json", exclude_defaults=True)),
        status=200 if conflict is None else 409,
        conflict=conflict,
        asked=asked,
        place=place,
        above=[] if place is None else [*_above(place)],
        filtered=bool(given),
        names=names,
        groups=[(of, list(same)) for of, same in groupby(shown, lambda row: row.state.path)],
        orders=[*_orders(found.items)],
        link=link,
        older=found.next and link(cursor=cursor_to(found.next)),
    )


def _csv(visit: Visit, request: TagsRequest, after: object | None) -> Response:
    """The tags as a file, a thousand at most."""
    values, columns = Tags.described.values(visit.listed(table.TAGS, request, after, _IN_CSV).items)
    headers = {"Content-Disposition": 'attachment; filename="tags.csv"', "Cache-Control": "private, no-cache"}
    return Response(csv_of(values, columns), headers=headers, media_type="text/csv")


def _above(path: str) -> Iterator[str]:
    names = path.split("/")
    yield from ("/".join(names[:count]) for count in range(1, len(names)))


def _orders(states: Iterable[TagState]) -> Iterator[tuple[str, str]]:
    """Orders that people may want, each with what comes first in it."""
    yield "newest", "what moved last"
    yield "oldest", "what has not moved for long"
    for name in sorted({name for one in states for name in one.metrics})[:_METRICS]:
        yield f"max:{name}", f"the largest {name}"
        yield f"min:change:{name}", f"the largest loss of {name}"
