"""Handlers of operations that browse the registry.

Imports that only one handler needs are made inside it, so that browsing starts fast.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from registry.catalogue.database import events
from registry.catalogue.database.events import EventFilter, EventPosition
from registry.catalogue.tree import bases, browse, nodes
from registry.catalogue.tree.nodes import Section
from registry.errors import NotFoundError
from registry.operations.operation import Part, one_more, part
from registry.progress import Progress
from registry.reference import Path, Reference
from registry.schemas import BaseSummary, DeletedRevision, Event, RevisionSummary, Shown, Tree
from registry.schemas.difference import Difference
from registry.schemas.jobs import Looked
from registry.schemas.requests import (
    BasesRequest,
    DiffRequest,
    PathRequest,
    ReferenceRequest,
    SearchRequest,
    SubtreeRequest,
    TreeRequest,
)
from registry.schemas.team import EventsRequest
from registry.schemas.usage import Usage, UsageRequest
from registry.services.deployment import Deployment


def list_bases(
    deployment: Deployment, request: BasesRequest, after: str | None, limit: int | None
) -> Part[BaseSummary]:
    with deployment.read() as session:
        found = bases.summaries(
            session,
            with_old_names=request.old_names,
            with_figures=request.figures,
            after=after,
            limit=one_more(limit),
        )
    return part(found, limit, lambda one: one.name)


def tree(deployment: Deployment, request: TreeRequest) -> Tree:
    with deployment.read() as session:
        path = None if request.path is None else Path.parse(request.path)
        after = None if request.after is None else Path.parse(request.after)
        section = Section(path, request.depth, after, request.limit)
        return nodes.tree(session, section, with_old_names=request.old_names)


def log(deployment: Deployment, request: PathRequest, before: int | None, limit: int | None) -> Part[RevisionSummary]:
    with deployment.read() as session:
        found = browse.log(session, Path.parse(request.path), before=before, limit=one_more(limit))
    return part(found.revisions, limit, lambda one: one.number)


def deleted_revisions(
    deployment: Deployment, request: PathRequest, before: int | None, limit: int | None
) -> Part[DeletedRevision]:
    from registry.catalogue.tree.browse import deleted

    grace = timedelta(seconds=deployment.gc_grace)
    with deployment.read() as session:
        path, now = Path.parse(request.path), datetime.now(UTC)
        found = deleted(session, path, now, grace, before=before, limit=one_more(limit))
    return part(found, limit, lambda one: one.number)


def show(deployment: Deployment, request: ReferenceRequest) -> Shown:
    from registry.services.browse import shown

    with deployment.read() as session:
        return shown(session, Reference.parse(request.ref))


def diff(deployment: Deployment, request: DiffRequest, progress: Progress) -> Difference:
    from registry.services.deltas import compared

    with deployment.read() as session:
        found = compared(session, Reference.parse(request.a), Reference.parse(request.b))
    if not request.deltas:
        return found
    from registry.services.deltas import deltas

    return found.model_copy(update={"deltas": deltas(deployment, found.a.reference, found.b.reference, progress)})


def notice(deployment: Deployment, request: ReferenceRequest, progress: Progress) -> Looked:
    from registry.services.publishing.narrowing import sample_revision
    from registry.services.statistics import looked
    from registry.services.upkeep.retention import run_if_set

    run_if_set(deployment, Reference.parse(request.ref).path, progress)  # first: looking may take long, or fail
    found = looked(deployment, request.ref, progress)
    with suppress(NotFoundError):  # deleted meanwhile
        sample_revision(deployment, found.reference)
    return found


def search(
    deployment: Deployment,
    request: SearchRequest,
    after: tuple[str, int | None, float | None] | None,
    limit: int | None,
) -> Part[RevisionSummary]:
    from registry.catalogue.tree.search import found
    from registry.catalogue.tree.search_query import SearchPosition
    from registry.catalogue.tree.search_values import Sorting

    last = None if after is None else SearchPosition(Path.parse(after[0]), *after[1:])
    sorting = None if request.sort is None else Sorting.parse(request.sort)

    def position(one: RevisionSummary) -> object:
        if sorting is None and not request.all_revisions:
            return one.path
        return [one.path, one.number, None if sorting is None else sorting.of(one)]

    with deployment.read() as session:
        page = found(session, request, after=last, limit=one_more(limit))
    listed = part(page.revisions, limit, position)
    if listed.next is None and (on := page.next) is not None:
        following = str(on.path) if on.number is None else [str(on.path), on.number, on.value]
        listed = replace(listed, next=following)
    return replace(listed, notices=page.notices)


def list_events(
    deployment: Deployment, request: EventsRequest, before: tuple[datetime, int] | None, limit: int | None
) -> Part[Event]:
    path = None if request.path is None else Path.parse(request.path)
    conditions = EventFilter(path, request.after, request.actor, request.kind)
    last = None if before is None else EventPosition(*before)
    with deployment.read() as session:
        found = events.page(session, 1 << 31 if limit is None else limit, last, conditions)
        if path is not None and not found.events and not events.recent(session, 1, EventFilter(path)):
            browse.check_there(session, path)
    return Part(found.events, None if found.next is None else [found.next.at.isoformat(), found.next.place])


def du(deployment: Deployment, request: UsageRequest) -> Usage:
    from registry.catalogue.store.usage import usage

    path = None if request.path is None else Path.parse(request.path)
    with deployment.read() as session:
        if path is not None:
            browse.check_there(session, path)
        return usage(session, path)


def list_subtree(deployment: Deployment, request: SubtreeRequest) -> tuple[str, ...]:
    from registry.catalogue.tree.tag_moves import subtree

    after = None if request.after is None else Reference.parse(request.after)
    with deployment.read() as session:
        return subtree(session, Path.parse(request.path), after=after, limit=request.limit)
