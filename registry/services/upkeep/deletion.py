"""Deleting revisions, adapters and base models, and undoing that within the grace period."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from sqlalchemy.orm import Session

from registry.catalogue.changes import deletion as deletions
from registry.catalogue.changes import new_base, undeletion
from registry.catalogue.team import jobs
from registry.catalogue.tree import revisions
from registry.errors import ConflictError, UsageError
from registry.reference import Path, Reference, check_base_name
from registry.schemas import Deleted, DeletedTree
from registry.schemas.requests import DeleteBaseRequest, DeleteRequest, DeleteTreeRequest, UndeleteRequest
from registry.services.deployment import Deployment

_NAMING: Final = ("name", "path", "ref", "base", "which")
"""Fields of requests that name what the request is about."""


def delete(deployment: Deployment, request: DeleteRequest) -> Deleted:
    """Delete one revision.

    Raises:
        UsageError: the reference names no revision by its number or digest.
        NotFoundError: the revision does not exist.
        ConflictError: ``has_children``, naming the revisions trained on it; ``tagged``.
        NotAllowedError: a protected tag names the revision.
    """
    reference, with_tags = _revision(request.ref, undo=False), request.with_tags
    if request.dry_run:
        with deployment.read() as session:
            row = revisions.find(session, reference)
            return deletions.preview(session, row.id, deployment.principal, with_tags=with_tags)

    def work(session: Session) -> Deleted:
        row = revisions.find(session, reference)
        gone = deletions.delete(session, row.id, deployment.principal, with_tags=with_tags)
        return gone.model_copy(update={"until": _until(deployment)})

    return deployment.change(work)


def undelete(deployment: Deployment, request: UndeleteRequest) -> Deleted:
    """Restore a deleted revision.

    Raises:
        UsageError: the reference names no revision by its number or digest.
        NotFoundError: the revision does not exist, or its grace period is over.
        ConflictError: ``parent_deleted``.
        NotAllowedError: a protected tag named the revision.
    """
    reference = _revision(request.ref, undo=True)
    return deployment.change(
        lambda session: undeletion.undo(session, reference, _since(deployment), deployment.principal)
    )


def delete_tree(deployment: Deployment, request: DeleteTreeRequest) -> DeletedTree:
    """Delete every revision at and under an adapter.

    Raises:
        UsageError: the path is a base model, or names one revision.
        NotFoundError: the adapter does not exist.
        ConflictError: ``tagged``.
        NotAllowedError: a protected tag names a revision.
    """
    at = _adapter(request.path, undo=False)
    if request.dry_run:
        with deployment.read() as session:
            return deletions.listing(session, at)

    def work(session: Session) -> DeletedTree:
        gone = deletions.delete_tree(session, at, deployment.principal, with_tags=request.with_tags)
        return gone.model_copy(update={"until": _until(deployment)})

    return deployment.change(work)


def undelete_tree(deployment: Deployment, request: UndeleteRequest) -> DeletedTree:
    """Restore what the last deletion at and under a path deleted; raises what `undelete` raises."""
    at = _adapter(request.ref, undo=True)
    return deployment.change(
        lambda session: undeletion.undo_tree(session, at, _since(deployment), deployment.principal)
    )


def delete_base(deployment: Deployment, request: DeleteBaseRequest) -> DeletedTree:
    """Delete a base model.

    Raises:
        UsageError: ``bad_name``.
        NotFoundError: no base model has this name.
        ConflictError: ``has_children`` or ``in_use``.
    """
    name = check_base_name(request.name)
    if request.dry_run:
        with deployment.read() as session:
            return new_base.listing(session, name)

    def work(session: Session) -> DeletedTree:
        _check_unused(session, name)
        gone = new_base.delete(session, name, deployment.principal, recursive=request.recursive)
        return gone.model_copy(update={"until": _until(deployment)})

    return deployment.change(work)


def undelete_base(deployment: Deployment, request: UndeleteRequest) -> DeletedTree:
    """Restore a base model with what was deleted together with it.

    Raises:
        UsageError: ``bad_name``.
        NotFoundError: no base model has this name, or its grace period is over.
    """
    name = check_base_name(request.ref)
    return deployment.change(lambda session: new_base.undo(session, name, _since(deployment), deployment.principal))


def _adapter(path: str, *, undo: bool) -> Path:
    if "@" in path:
        raise UsageError(
            f"{path} names one revision, but a path is expected: this applies to everything at and under it."
        )
    at = Path.parse(path)
    if at.is_base:
        command, does = (f"{path} --undo", "restores it") if undo else (f"-r {path}", "deletes it")
        raise UsageError(f"{path} is a base model: `registry base delete {command}` {does} with its adapters.")
    return at


def _revision(ref: str, *, undo: bool) -> Reference:
    reference = Reference.parse(ref)
    path = reference.path
    if path.is_base:
        raise UsageError(
            f"{ref} is a base model; a revision of an adapter is expected, such as {ref}/NAME@3. `registry base "
            f"delete{f' {ref} --undo` restores base models' if undo else '` deletes base models'}."
        )
    if reference.number is None and reference.digest_prefix is None:
        named = "names no revision" if reference.tag is None else "names a revision by a tag, which may move"
        if undo:  # deleted revisions are in the events, not in the log
            raise UsageError(
                f"{ref} {named}: give its number or digest, such as {path}@3 (`registry events` shows what was "
                f"deleted), or restore what was last deleted at and under {path} with -r."
            )
        raise UsageError(
            f"{ref} {named}: give its number or digest, such as {path}@3 (`registry log {path}` shows them), or delete "
            f"all of {path} and what is under it with -r."
        )
    return reference


def _since(deployment: Deployment) -> datetime:
    return datetime.now(UTC) - timedelta(seconds=deployment.gc_grace)


def _until(deployment: Deployment) -> datetime:
    return datetime.now(UTC) + timedelta(seconds=deployment.gc_grace)


def _check_unused(session: Session, name: str) -> None:
    """Refuse while an unfinished job is about the base model or a path below it; raises `ConflictError`."""
    for row in jobs.unfinished(session):
        if name in {re.split("[/@]", one)[0] for one in _names(row.request)}:
            raise ConflictError(
                f"The base model {name} can't be deleted now: the operation {row.id} ({row.kind}) is using it. Wait "
                "until it has ended.",
                code="in_use",
            )


def _names(request: str) -> Iterator[str]:
    """The references in a job's request, read leniently since another version may have written it."""
    document: Any = json.loads(request)
    for part in (document, document.get("request")):
        if isinstance(part, dict):
            yield from (part[field] for field in _NAMING if isinstance(part.get(field), str))
