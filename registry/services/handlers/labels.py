"""Handlers of tags, metrics, annotations, messages and names.

Tensor code is imported where it is needed, so that browsing starts fast.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy.orm import Session

from registry.catalogue.changes import also_known_as, rename, tagging
from registry.catalogue.changes import details as labels
from registry.catalogue.tree import browse, revisions, tag_moves
from registry.catalogue.tree.tag_moves import TagOrder
from registry.errors import UsageError
from registry.operations import table
from registry.operations.operation import Part, part
from registry.progress import Progress
from registry.reference import Path, Reference, check_adapter_name, check_base_name
from registry.schemas import ProtectedTag, RevisionSummary, Tagged
from registry.schemas.labels import AlsoKnownAs, AlsoKnownAsRequest, RenameBaseRequest, Renamed, RenameRequest
from registry.schemas.requests import (
    AnnotateRequest,
    ProtectedTagsRequest,
    ProtectRequest,
    TagRequest,
    UndoTagRequest,
    UntagRequest,
)
from registry.schemas.tags import TagsRequest, TagState
from registry.services.deployment import Deployment
from registry.services.handlers.handling import does, lists, one_more


@does(table.RENAME)
def _rename(deployment: Deployment, request: RenameRequest, _progress: Progress) -> Renamed:
    old = Path.parse(request.path)
    if old.parent is None:
        raise UsageError(f"{old} is a base model: `registry base rename {old} NAME` renames it.")
    new = _beside(old, old.parent, request.name)
    deployment.rights.require_on("writer", new, "rename an adapter")
    return deployment.change(lambda session: rename.rename(session, old, new, deployment.principal))


def _beside(old: Path, parent: Path, name: str) -> Path:
    """The new path: ``name`` is the last name alone, or a path with the same parent."""
    if "/" not in name:
        return Path.parse(f"{parent}/{check_adapter_name(name)}")
    new = Path.parse(name)
    if new.parent != parent:
        raise UsageError(
            f"{old} can't become {new}: the parent stays {parent}, because it is what {old.name} was trained on. Only "
            f"the last name can change: `registry rename {old} NAME`."
        )
    return new


@does(table.RENAME_BASE)
def _rename_base(deployment: Deployment, request: RenameBaseRequest, _progress: Progress) -> Renamed:
    if "/" in request.name:
        path = Path.parse(request.name)
        raise UsageError(f"{path} is the path of an adapter: `registry rename {path} NAME` renames it.")
    old, new = Path(check_base_name(request.name)), Path(check_base_name(request.new))
    deployment.rights.require_on("admin", new, "rename a base model")
    return deployment.change(lambda session: rename.rename_base(session, old, new, deployment.principal))


@does(table.ALSO_KNOWN_AS)
def _also_known_as(deployment: Deployment, request: AlsoKnownAsRequest, _progress: Progress) -> AlsoKnownAs:
    base = check_base_name(request.name)
    change = also_known_as.take_away if request.remove else also_known_as.give
    return deployment.change(lambda session: change(session, base, request.repo_id, deployment.principal))


@lists(table.TAGS)
def _tags(
    deployment: Deployment, request: TagsRequest, after: tuple[Any, str, str] | None, limit: int | None
) -> Part[TagState]:
    order = TagOrder.parse(request.sort)
    with deployment.read() as session:
        found = tag_moves.listed(session, request, order, after=after, limit=one_more(limit))
    return part(found, limit, order.key)


@does(table.TAG)
def _tag(deployment: Deployment, request: TagRequest, _progress: Progress) -> Tagged:
    reference = Reference.parse(request.ref)

    def work(session: Session) -> Tagged:
        found = revisions.find(session, reference).id
        return tagging.set_tag(session, found, request.tag, deployment.principal, expected=request.expected)

    return deployment.change(work)


@does(table.UNDO_TAG)
def _undo_tag(deployment: Deployment, request: UndoTagRequest, _progress: Progress) -> Tagged:
    path, principal = Path.parse(request.path), deployment.principal
    return deployment.change(
        lambda session: tagging.undo(session, path, request.tag, principal, expected=request.expected)
    )


@does(table.UNTAG)
def _untag(deployment: Deployment, request: UntagRequest, _progress: Progress) -> Tagged:
    path, principal = Path.parse(request.path), deployment.principal
    return deployment.change(
        lambda session: tagging.remove_tag(session, path, request.tag, principal, expected=request.expected)
    )


@does(table.ANNOTATE)
def _annotate(deployment: Deployment, request: AnnotateRequest, _progress: Progress) -> RevisionSummary:
    reference, principal = Reference.parse(request.ref), deployment.principal
    names = labels.check_change(request.metrics, request.annotations, request.message, request.unset)

    def work(session: Session) -> RevisionSummary:
        found = revisions.find(session, reference).id
        if request.message is not None:
            labels.set_message(session, found, request.message, principal)
        labels.annotate(session, found, metrics=request.metrics, annotations=request.annotations, principal=principal)
        labels.remove(session, found, names, principal)
        return browse.summary(session, found)

    return deployment.change(work)


@does(table.PROTECTED_TAGS)
def _protected_tags(
    deployment: Deployment, request: ProtectedTagsRequest, _progress: Progress
) -> tuple[ProtectedTag, ...]:
    with deployment.read() as session:
        return tagging.patterns(session, request.base)


@does(table.PROTECT_TAG)
def _protect_tag(deployment: Deployment, request: ProtectRequest, _progress: Progress) -> tuple[ProtectedTag, ...]:
    path = Path.parse(request.base)
    if not path.is_base:
        raise UsageError(
            f"{request.base} is the path of an adapter: tags are protected for a whole base model, {path.base}."
        )
    change = tagging.unprotect if request.remove else tagging.protect
    return deployment.change(lambda session: change(session, path.base, request.pattern, deployment.principal))
