"""Looking at the tree."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request

from registry.api.openapi import problems
from registry.api.pages import Cursor, Limit, Page, cursor_to, number_key, page, text_key
from registry.catalogue import bases as base_rows
from registry.catalogue import browse
from registry.catalogue import events as event_rows
from registry.catalogue import search as searching
from registry.http.acting import Acting, address_of
from registry.reference import Path
from registry.schemas import BaseSummary, Event, Identity, Resolved, RevisionSummary, Schema, Shown, Tree
from registry.version import __version__
from registry.wire import API, PROTOCOL

router = APIRouter(prefix=API, tags=["browse"])

Ref = Annotated[
    str, Query(min_length=1, max_length=512, description="A reference: PATH, PATH@3, PATH@tag or PATH@sha256:...",
               examples=["llama/support@3"])
]  # fmt: skip
TreePath = Annotated[
    str, Query(min_length=1, max_length=512, description="BASE/name/name...", examples=["llama/support"])
]
Text = Annotated[str | None, Query(min_length=1, max_length=512)]


class About(Schema):
    """What answers here."""

    name: str
    version: str
    protocol: int


@router.get("", responses=problems())
def about(registry: Acting) -> About:
    """What answers here, in which version."""
    del registry  # asked for, so that only those who may use the registry are told
    return About(name="adapter-registry", version=__version__, protocol=PROTOCOL)


@router.get("/whoami", responses=problems())
def whoami(registry: Acting, request: Request) -> Identity:
    """Who asks, with which rights."""
    return registry.whoami().model_copy(update={"url": address_of(request), "service_version": __version__})


@router.get("/bases", responses=problems(400))
def list_bases(registry: Acting, cursor: Cursor = None, limit: Limit = 100) -> Page[BaseSummary]:
    """Base models, by name."""
    with registry.deployment.read() as session:
        found = base_rows.summaries(session, after=text_key(cursor), limit=limit + 1)
    return page(found, limit, lambda one: one.name)


@router.get("/tree", responses=problems(400, 404))
def tree(registry: Acting, path: Annotated[TreePath | None, Query()] = None) -> Tree:
    """Adapters as a tree, each with its newest revision."""
    return registry.tree(path)


@router.get("/log", responses=problems(400, 404))
def log(registry: Acting, path: TreePath, cursor: Cursor = None, limit: Limit = 100) -> Page[RevisionSummary]:
    """Revisions of an adapter, newest first."""
    with registry.deployment.read() as session:
        found = browse.log(session, Path.parse(path), before=number_key(cursor), limit=limit + 1)
    return page(found.revisions, limit, lambda one: one.number)


@router.get("/revisions", responses=problems(400, 404))
def show(registry: Acting, ref: Ref) -> Shown:
    """Everything about a revision."""
    return registry.show(ref)


@router.get("/resolve", responses=problems(400, 404))
def resolve(registry: Acting, ref: Ref) -> Resolved:
    """Which revision a reference means now, and what its path is made of."""
    return registry.resolve(ref)


@router.get("/search", responses=problems(400, 404))
def search(
    registry: Acting,
    text: Text = None,
    base: Text = None,
    tag: Text = None,
    rank: Annotated[str | None, Query(max_length=64, examples=["<=16"])] = None,
    metric: Annotated[str | None, Query(max_length=512, examples=["acc>0.8"])] = None,
    target: Text = None,
    cursor: Cursor = None,
    limit: Limit = 100,
) -> Page[RevisionSummary]:
    """The newest matching revision of each adapter, by path."""
    after = text_key(cursor)
    with registry.deployment.read() as session:
        found = searching.search(
            session,
            text,
            base=base,
            tag=tag,
            rank=rank,
            metric=metric,
            target=target,
            after=None if after is None else Path.parse(after),
            limit=limit + 1,
        )
    return page(found, limit, lambda one: one.path)


@router.get("/events", responses=problems(400))
def events(registry: Acting, cursor: Cursor = None, limit: Limit = 100) -> Page[Event]:
    """What was changed, newest first."""
    with registry.deployment.read() as session:
        found = event_rows.page(session, limit, number_key(cursor))
    return Page(items=found.events, next=None if found.next is None else cursor_to(found.next))
