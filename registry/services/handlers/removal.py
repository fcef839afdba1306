"""Handlers of deleting, also by retention rules, and of retracting.

Tensor code is imported where it is needed, so that browsing starts fast.
"""

from __future__ import annotations

from sqlalchemy.orm import Session

from registry.catalogue.changes import retraction
from registry.catalogue.tree import revisions
from registry.errors import UsageError
from registry.operations import table
from registry.progress import Progress
from registry.reference import Path, Reference
from registry.schemas import Deleted, DeletedTree, Retention, RetentionRule, Retracted
from registry.schemas.requests import (
    DeleteBaseRequest,
    DeleteRequest,
    DeleteTreeRequest,
    RetentionRequest,
    RetractRequest,
    RunRetentionRequest,
    SetRetentionRequest,
    UndeleteRequest,
)
from registry.services.deployment import Deployment
from registry.services.handlers.handling import does
from registry.services.upkeep import deletion, retention


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
