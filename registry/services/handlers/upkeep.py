"""Handlers of upkeep: deletion, retention, collecting, checking, tokens, materialisations.

Tensor code is imported where it is needed, so that browsing starts fast.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy.orm import Session

from registry.catalogue.changes import retraction
from registry.catalogue.store.materialisations import ListPosition
from registry.catalogue.team import jobs, tokens
from registry.catalogue.team.jobs import JobPosition
from registry.catalogue.tree import revisions
from registry.errors import UsageError
from registry.operations.operation import Part, one_more, part
from registry.progress import Progress
from registry.reference import Reference
from registry.schemas import (
    Checked,
    Collected,
    Materialisation,
    Retracted,
    Token,
)
from registry.schemas.jobs import JobsRequest, JobSummary
from registry.schemas.requests import (
    FsckRequest,
    GcRequest,
    MaterialisationsRequest,
    NoRequest,
    RetractRequest,
    RevokeRequest,
)
from registry.services.deployment import Deployment


def retract(deployment: Deployment, request: RetractRequest) -> Retracted:
    reference, principal = Reference.parse(request.ref), deployment.principal
    if reference.path.is_base:
        raise UsageError(
            f"{request.ref} is a base model; only revisions of adapters can be retracted: {request.ref}/NAME@N."
        )
    if request.undo and (request.reason or request.dry_run):
        what = "A reason" if request.reason else "A dry run"
        raise UsageError(f"{what} is only for a retraction; leave it out to undo one.")
    if request.dry_run:
        with deployment.read() as session:
            return retraction.listing(session, revisions.find(session, reference).id, request.reason)

    def work(session: Session) -> Retracted:
        row = revisions.find(session, reference)
        if request.undo:
            return retraction.undo(session, row.id, principal)
        return retraction.retract(session, row.id, request.reason, principal)

    return deployment.change(work)


def list_tokens(deployment: Deployment, _request: NoRequest, after: str | None, limit: int | None) -> Part[Token]:
    with deployment.read() as session:
        return part(tokens.listing(session, after=after, limit=one_more(limit)), limit, lambda one: one.id)


def revoke_token(deployment: Deployment, request: RevokeRequest) -> Token:
    return deployment.change(lambda session: tokens.revoke(session, request.id, deployment.principal))


def list_materialisations(
    deployment: Deployment, request: MaterialisationsRequest, after: Any, limit: int | None
) -> Part[Materialisation]:
    from registry.services import materialise

    last = None if after is None else ListPosition(*after)
    found = materialise.listed(deployment, request.ref, limit=one_more(limit), after=last)
    return part(found, limit, lambda one: (one.reference, one.created_at.isoformat(), one.id))


def gc(deployment: Deployment, request: GcRequest, progress: Progress) -> Collected:
    from registry.services.upkeep.collect import collect

    return collect(deployment, dry_run=request.dry_run, progress=progress, grace=deployment.gc_grace)


def fsck(deployment: Deployment, request: FsckRequest, progress: Progress) -> Checked:
    from registry.services.upkeep.health import check

    return check(deployment, deep=request.deep, progress=progress)


def list_jobs(
    deployment: Deployment, request: JobsRequest, after: tuple[datetime, str] | None, limit: int | None
) -> Part[JobSummary]:
    last = None if after is None else JobPosition(*after)
    with deployment.read() as session:
        found = jobs.listing(session, deployment.principal, request, after=last, limit=one_more(limit))
    return part(found, limit, lambda one: [one.created_at.isoformat(), one.id])
