"""Handlers of what keeps a registry in order: deletion, retention, collecting, checking, tokens, materialisations.

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
from registry.operations import table
from registry.operations.operation import Part, part
from registry.progress import Progress
from registry.reference import Path, Reference
from registry.schemas import (
    Checked,
    Collected,
    Deleted,
    DeletedTree,
    Identity,
    Materialisation,
    Materialised,
    Retention,
    RetentionRule,
    Retracted,
    Token,
    TokenCreated,
)
from registry.schemas.jobs import Health, JobsRequest, JobSummary
from registry.schemas.requests import (
    DeleteBaseRequest,
    DeleteRequest,
    DeleteTreeRequest,
    DropRequest,
    FsckRequest,
    GcRequest,
    MaterialisationsRequest,
    MaterialiseRequest,
    NoRequest,
    RetentionRequest,
    RetractRequest,
    RevokeRequest,
    RunRetentionRequest,
    SetRetentionRequest,
    TokenRequest,
    UndeleteRequest,
)
from registry.services.deployment import Deployment
from registry.services.handlers.handling import does, lists, one_more
from registry.services.upkeep import deletion, health, retention


@does(table.DELETE)
def _delete(deployment: Deployment, request: DeleteRequest, _progress: Progress) -> Deleted:
    return deletion.delete(deployment, request.ref, with_tags=request.with_tags, dry_run=request.dry_run)


@does(table.UNDELETE)
def _undelete(deployment: Deployment, request: UndeleteRequest, _progress: Progress) -> Deleted:
    return deletion.undelete(deployment, request.ref)


@does(table.DELETE_TREE)
def _delete_tree(deployment: Deployment, request: DeleteTreeRequest, _progress: Progress) -> DeletedTree:
    return deletion.delete_tree(deployment, request.path, with_tags=request.with_tags, dry_run=request.dry_run)


@does(table.UNDELETE_TREE)
def _undelete_tree(deployment: Deployment, request: UndeleteRequest, _progress: Progress) -> DeletedTree:
    return deletion.undelete_tree(deployment, request.ref)


@does(table.DELETE_BASE)
def _delete_base(deployment: Deployment, request: DeleteBaseRequest, _progress: Progress) -> DeletedTree:
    return deletion.delete_base(deployment, request.name, recursive=request.recursive, dry_run=request.dry_run)


@does(table.UNDELETE_BASE)
def _undelete_base(deployment: Deployment, request: UndeleteRequest, _progress: Progress) -> DeletedTree:
    return deletion.undelete_base(deployment, request.ref)


@does(table.RETENTION)
def _retention(deployment: Deployment, request: RetentionRequest, _progress: Progress) -> Retention:
    return retention.show(deployment, Path.parse(request.path))


@does(table.SET_RETENTION)
def _set_retention(deployment: Deployment, request: SetRetentionRequest, _progress: Progress) -> Retention:
    return retention.set_rule(deployment, request)


@does(table.CLEAR_RETENTION)
def _clear_retention(deployment: Deployment, request: RetentionRequest, _progress: Progress) -> RetentionRule:
    return retention.clear(deployment, Path.parse(request.path))


@does(table.RUN_RETENTION)
def _run_retention(deployment: Deployment, request: RunRetentionRequest, progress: Progress) -> Retention:
    return retention.run(deployment, request, progress)


@does(table.RETRACT)
def _retract(deployment: Deployment, request: RetractRequest, _progress: Progress) -> Retracted:
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


@does(table.WHOAMI)
def _whoami(deployment: Deployment, _request: NoRequest, _progress: Progress) -> Identity:
    return health.whoami(deployment)


@lists(table.TOKENS)
def _tokens(deployment: Deployment, _request: NoRequest, after: str | None, limit: int | None) -> Part[Token]:
    with deployment.read() as session:
        return part(tokens.listing(session, after=after, limit=one_more(limit)), limit, lambda one: one.id)


@does(table.CREATE_TOKEN)
def _create_token(deployment: Deployment, request: TokenRequest, _progress: Progress) -> TokenCreated:
    return health.create_token(deployment, request)


@does(table.REVOKE_TOKEN)
def _revoke_token(deployment: Deployment, request: RevokeRequest, _progress: Progress) -> Token:
    return deployment.change(lambda session: tokens.revoke(session, request.id, deployment.principal))


@lists(table.MATERIALISATIONS)
def _materialisations(
    deployment: Deployment, request: MaterialisationsRequest, after: Any, limit: int | None
) -> Part[Materialisation]:
    from registry.services import materialise

    last = None if after is None else ListPosition(*after)
    found = materialise.listed(deployment, request.ref, limit=one_more(limit), after=last)
    return part(found, limit, lambda one: (one.reference, one.created_at.isoformat(), one.id))


@does(table.MATERIALISE)
def _materialise(deployment: Deployment, request: MaterialiseRequest, progress: Progress) -> Materialised:
    from registry.services import materialise

    return materialise.materialise(deployment, request, progress)


@does(table.DROP_MATERIALISATION)
def _drop(deployment: Deployment, request: DropRequest, _progress: Progress) -> tuple[Materialisation, ...]:
    from registry.services import materialise

    return materialise.drop(deployment, request.which, request.kind)


@does(table.GC)
def _gc(deployment: Deployment, request: GcRequest, progress: Progress) -> Collected:
    from registry.services.upkeep.collect import collect

    return collect(deployment, dry_run=request.dry_run, progress=progress, grace=deployment.gc_grace)


@does(table.FSCK)
def _fsck(deployment: Deployment, request: FsckRequest, progress: Progress) -> Checked:
    from registry.services.upkeep.health import check

    return check(deployment, deep=request.deep, progress=progress)


@does(table.HEALTH)
def _health(deployment: Deployment, _request: NoRequest, _progress: Progress) -> Health:
    from registry.services.upkeep.health import health

    return health(deployment)


@lists(table.LIST_JOBS)
def _jobs(
    deployment: Deployment, request: JobsRequest, after: tuple[datetime, str] | None, limit: int | None
) -> Part[JobSummary]:
    last = None if after is None else JobPosition(*after)
    with deployment.read() as session:
        found = jobs.listing(session, deployment.principal, request, after=last, limit=one_more(limit))
    return part(found, limit, lambda one: [one.created_at.isoformat(), one.id])
