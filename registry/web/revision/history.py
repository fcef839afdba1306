"""What became of an adapter: its revisions as a time line, with its metrics, and everything that happened as one log.

And the revision that a commit of a Hub view is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Final

from fastapi import APIRouter, Response
from pydantic import Field

from registry.errors import NotFoundError
from registry.figures import number
from registry.http.payloads import position_of
from registry.operations import table
from registry.plots.charts import Axis, LineChart, Point, Sparkline
from registry.reference import Path
from registry.schemas import DeletedRevision, RevisionSummary, Schema
from registry.schemas.protocol import VIEWS, cursor_to
from registry.schemas.requests import PathRequest
from registry.services import hub_repos
from registry.services.deployment import deleted_between, happened, recent_metrics
from registry.web.activity import VERBS, told
from registry.web.frame.figures import Figure, figure
from registry.web.frame.visit import PageRoute, PageVisit, Visit
from registry.web.revision.subject import subject_of

router = APIRouter(include_in_schema=False, route_class=PageRoute)


@router.get("/commit/{view}/{commit}/{path:path}", response_model=None)
def commit_page(visit: PageVisit, view: str, commit: str, path: str) -> Response:
    """The page of the revision that has this commit in a view; raises `NotFoundError`."""
    if view not in VIEWS:
        raise NotFoundError(f"There is no view {view[:64]!r}: there are {', '.join(VIEWS)}.")
    with visit.registry.deployment.read() as session:
        repo = hub_repos.find_repo(session, VIEWS[view], Path.parse(path).repo_id)
        found = hub_repos.reference_of(session, repo, commit)
    return visit.go(visit.links.ref(str(found)))


LISTED: Final = 30
"""Revisions on a page."""
CHARTS: Final = 12


class Asked(Schema):
    """Where the page begins: below this number."""

    before: Annotated[int | None, Field(ge=1, le=1 << 62)] = None


@router.get("/history/{reference:path}", response_model=None)
def history(visit: PageVisit, reference: str) -> Response:
    """Revisions, newest first, with the numbers of deleted ones."""
    before = visit.asked(Asked).before
    subject = subject_of(visit, reference)
    path = subject.revision.path
    found = visit.listed(table.LOG, PathRequest(path=path), before, LISTED + 1).items
    listed, older = found[:LISTED], found[LISTED:]
    deleted = deleted_between(
        visit.registry.deployment,
        Path.parse(path),
        above=listed[-1].number if older else 0,
        before=before,
        limit=LISTED,
    )
    series = recent_metrics(visit.registry.deployment, Path.parse(path))
    return visit.page(
        "history.html",
        title=f"Revisions of {path}",
        api=visit.api("/log", path=path, limit=LISTED),
        subject=subject,
        part="history",
        rows=[*_rows(found, listed, deleted)],
        charts=[_chart(path, name, values) for name, values in [*series.items()][:CHARTS] if len(values) > 1],
        newest=before is None,
        older_than=listed[-1].number if older else None,
    )


def _rows(
    found: Sequence[RevisionSummary], listed: Sequence[RevisionSummary], deleted: Sequence[DeletedRevision]
) -> Iterator[tuple[int, RevisionSummary | DeletedRevision, RevisionSummary | None, Sequence[tuple[str, str, str]]]]:
    """What the page has, by falling numbers: revisions with the one before and their metrics beside its."""
    before = dict(zip((one.number for one in found), found[1:], strict=False))
    rows: list[RevisionSummary | DeletedRevision] = [*listed, *deleted]
    for one in sorted(rows, key=lambda row: -row.number):
        older = before.get(one.number)
        yield one.number, one, older, _metrics(one, older) if isinstance(one, RevisionSummary) else ()


def _metrics(one: RevisionSummary, older: RevisionSummary | None) -> list[tuple[str, str, str]]:
    """Each metric with its value and by how much it differs from that of the revision before."""
    before: Mapping[str, float] = {} if older is None else older.metrics
    return [
        (name, number(value), f"{value - before[name]:+.3g}" if before.get(name, value) != value else "")
        for name, value in [*one.metrics.items()][:8]
    ]


def _chart(path: str, name: str, values: Mapping[int, float]) -> tuple[str, Sparkline, int]:
    points = [Point(at, value, f"@{at}: {number(value)}") for at, value in values.items()]
    about = f"{name} over {len(values)} revisions of {path}"
    return (
        name,
        Sparkline(about, f"From {number(points[0].y or 0)} to {number(points[-1].y or 0)}.", points),
        len(values),
    )


class AskedMetric(Schema):
    """Which metric is drawn."""

    metric: Annotated[str, Field(max_length=512)]


@figure("metric")
def _metric_of(visit: Visit, reference: str) -> Figure | None:
    """A metric over the newest revisions of a path."""
    asked = visit.asked(AskedMetric)
    subject = subject_of(visit, reference)
    values = recent_metrics(visit.registry.deployment, Path.parse(subject.revision.path)).get(asked.metric)
    if values is None:
        return None
    drawing = LineChart(
        title=f"{asked.metric} of {subject.revision.path}",
        about=f"{asked.metric} by revision.",
        x=Axis("revision", whole=True),
        y=Axis(asked.metric),
        points=[Point(at, value, f"@{at}: {number(value)}") for at, value in values.items()],
    )
    rows = [{"revision": at, asked.metric: value} for at, value in values.items()]
    return Figure(drawing, ("revision", asked.metric), rows)


EVENTS: Final = 50
"""Events on a page of the log."""


class _LogAsked(Schema):
    cursor: Annotated[str | None, Field(max_length=512)] = None


@router.get("/log/{reference:path}", response_model=None)
def log(visit: PageVisit, reference: str) -> Response:
    """What was done to an adapter, newest first, without what is below it."""
    asked = visit.asked(_LogAsked)
    subject = subject_of(visit, reference)
    path = subject.revision.path
    deployment = visit.registry.deployment
    found = happened(deployment, Path.parse(path), position_of(table.EVENTS, asked.cursor), EVENTS)
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
