"""The handlers of a registry in process for the table of operations; the caller has checked the operation's right.

Tensor code is imported where it is needed, so that browsing starts fast.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from sqlalchemy.orm import Session

from registry.catalogue.changes import annotations as labels
from registry.catalogue.changes import protection, retraction, tags
from registry.catalogue.database import events
from registry.catalogue.store.materialisations import ListPosition
from registry.catalogue.store.usage import usage
from registry.catalogue.team import tokens
from registry.catalogue.tree import bases, browse, revisions
from registry.catalogue.tree.search import SearchPosition
from registry.catalogue.tree.search import search as search_rows
from registry.errors import UsageError
from registry.operations import table
from registry.operations.operation import A, Item, Listing, Operation, Part, R, part
from registry.progress import Progress
from registry.reference import Path, Reference
from registry.schemas import (
    BaseAdded,
    BaseSummary,
    Checked,
    Collected,
    Deleted,
    DeletedTree,
    Event,
    Identity,
    Materialisation,
    Materialised,
    ProtectedTag,
    Published,
    Resolved,
    Retabled,
    Retracted,
    RevisionSummary,
    Shown,
    Tagged,
    Token,
    TokenCreated,
    Tree,
)
from registry.schemas.bundles import Bundle
from registry.schemas.requests import (
    AnnotateRequest,
    DeleteBaseRequest,
    DeleteRequest,
    DeleteTreeRequest,
    DropRequest,
    FsckRequest,
    GcRequest,
    MaterialisationsRequest,
    MaterialiseRequest,
    NoRequest,
    PathRequest,
    ProtectedTagsRequest,
    ProtectRequest,
    ReferenceRequest,
    RetableRequest,
    RetractRequest,
    RevokeRequest,
    SearchRequest,
    TagRequest,
    TokenRequest,
    TreeRequest,
    UndeleteRequest,
    UntagRequest,
)
from registry.schemas.transfer import BaseCommit, BasePlan, BaseRequest, PublishCommit, PublishPlan, PublishRequest
from registry.schemas.usage import Usage, UsageRequest
from registry.services.browse import resolved, shown
from registry.services.deployment import Deployment
from registry.services.upkeep import deletion, identity

Handler = Callable[[Deployment, R, Progress], A]
Lister = Callable[[Deployment, R, Any, int | None], Part[Item]]

_HANDLERS: Final[dict[Operation[Any, Any], Handler[Any, Any]]] = {}
_LISTERS: Final[dict[Listing[Any, Any], Lister[Any, Any]]] = {}


def handler_of(operation: Operation[R, A]) -> Handler[R, A]:
    """The handler of an operation."""
    return _HANDLERS[operation]


def lister_of(listing: Listing[R, Item]) -> Lister[R, Item]:
    """The handler of a listing; it takes a request, the key to continue after, and the maximum number of items."""
    return _LISTERS[listing]


def _does(operation: Operation[R, A]) -> Callable[[Handler[R, A]], Handler[R, A]]:
    def note(handler: Handler[R, A]) -> Handler[R, A]:
        _HANDLERS[operation] = handler
        return handler

    return note


def _lists(listing: Listing[R, Item]) -> Callable[[Lister[R, Item]], Lister[R, Item]]:
    def note(lister: Lister[R, Item]) -> Lister[R, Item]:
        _LISTERS[listing] = lister
        return lister

    return note


def _one_more(limit: int | None) -> int | None:
    return None if limit is None else limit + 1


# Browsing


@_does(table.WHOAMI)
def _whoami(deployment: Deployment, _request: NoRequest, _progress: Progress) -> Identity:
    return identity.whoami(deployment)


@_lists(table.BASES)
def _bases(deployment: Deployment, _request: NoRequest, after: str | None, limit: int | None) -> Part[BaseSummary]:
    with deployment.read() as session:
        return part(bases.summaries(session, after=after, limit=_one_more(limit)), limit, lambda one: one.name)


@_does(table.TREE)
def _tree(deployment: Deployment, request: TreeRequest, _progress: Progress) -> Tree:
    with deployment.read() as session:
        return browse.tree(session, None if request.path is None else Path.parse(request.path))


@_lists(table.LOG)
def _log(deployment: Deployment, request: PathRequest, before: int | None, limit: int | None) -> Part[RevisionSummary]:
    with deployment.read() as session:
        found = browse.log(session, Path.parse(request.path), before=before, limit=_one_more(limit))
    return part(found.revisions, limit, lambda one: one.number)


@_does(table.SHOW)
def _show(deployment: Deployment, request: ReferenceRequest, _progress: Progress) -> Shown:
    with deployment.read() as session:
        return shown(session, Reference.parse(request.ref))


@_does(table.RESOLVE)
def _resolve(deployment: Deployment, request: ReferenceRequest, _progress: Progress) -> Resolved:
    with deployment.read() as session:
        return resolved(session, Reference.parse(request.ref))


@_lists(table.SEARCH)
def _search(
    deployment: Deployment,
    request: SearchRequest,
    after: tuple[str, int | None, float | None] | None,
    limit: int | None,
) -> Part[RevisionSummary]:
    last = None if after is None else SearchPosition(Path.parse(after[0]), *after[1:])
    metric = None if request.sort is None else request.sort.partition(":")[2].strip()

    def position(one: RevisionSummary) -> object:
        if metric is None and not request.all_revisions:
            return one.path
        return [one.path, one.number, None if metric is None else one.metrics[metric]]

    with deployment.read() as session:
        found = search_rows(session, **request.model_dump(), after=last, limit=_one_more(limit))
    return part(found, limit, position)


@_lists(table.EVENTS)
def _events(deployment: Deployment, _request: NoRequest, before: int | None, limit: int | None) -> Part[Event]:
    with deployment.read() as session:
        found = events.page(session, 1 << 31 if limit is None else limit, before)
    return Part(found.events, found.next)


# Labels


@_does(table.TAG)
def _tag(deployment: Deployment, request: TagRequest, _progress: Progress) -> Tagged:
    reference = Reference.parse(request.ref)

    def work(session: Session) -> Tagged:
        return tags.set_tag(session, revisions.find(session, reference).id, request.tag, deployment.principal)

    return deployment.change(work)


@_does(table.UNTAG)
def _untag(deployment: Deployment, request: UntagRequest, _progress: Progress) -> Tagged:
    path = Path.parse(request.path)
    return deployment.change(lambda session: tags.remove_tag(session, path, request.tag, deployment.principal))


@_does(table.ANNOTATE)
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


@_does(table.PROTECTED_TAGS)
def _protected_tags(
    deployment: Deployment, request: ProtectedTagsRequest, _progress: Progress
) -> tuple[ProtectedTag, ...]:
    with deployment.read() as session:
        return protection.patterns(session, request.base)


@_does(table.PROTECT_TAG)
def _protect_tag(deployment: Deployment, request: ProtectRequest, _progress: Progress) -> tuple[ProtectedTag, ...]:
    path = Path.parse(request.base)
    if not path.is_base:
        raise UsageError(
            f"{request.base} is the path of an adapter: tags are protected for a whole base model, {path.base}."
        )
    change = protection.unprotect if request.remove else protection.protect
    return deployment.change(lambda session: change(session, path.base, request.pattern, deployment.principal))


# Tokens


@_lists(table.TOKENS)
def _tokens(deployment: Deployment, _request: NoRequest, after: str | None, limit: int | None) -> Part[Token]:
    with deployment.read() as session:
        return part(tokens.listing(session, after=after, limit=_one_more(limit)), limit, lambda one: one.id)


@_does(table.CREATE_TOKEN)
def _create_token(deployment: Deployment, request: TokenRequest, _progress: Progress) -> TokenCreated:
    return identity.create_token(deployment, request)


@_does(table.REVOKE_TOKEN)
def _revoke_token(deployment: Deployment, request: RevokeRequest, _progress: Progress) -> Token:
    return deployment.change(lambda session: tokens.revoke(session, request.id, deployment.principal))


# Publishing, and transfer between registries


@_does(table.PLAN_PUBLISH)
def _plan_publish(deployment: Deployment, request: PublishRequest, _progress: Progress) -> PublishPlan:
    from registry.services.publishing.publish import plan_publish

    return plan_publish(deployment, request)


@_does(table.COMMIT_PUBLISH)
def _commit_publish(deployment: Deployment, request: PublishCommit, progress: Progress) -> Published:
    from registry.services.publishing.publish import commit_publish

    return commit_publish(deployment, request, progress)


@_does(table.PLAN_BASE)
def _plan_base(deployment: Deployment, request: BaseRequest, _progress: Progress) -> BasePlan:
    from registry.services.bases.add_remote import plan_base

    return plan_base(deployment, request)


@_does(table.COMMIT_BASE)
def _commit_base(deployment: Deployment, request: BaseCommit, progress: Progress) -> BaseAdded:
    from registry.services.bases.add_remote import commit_base

    return commit_base(deployment, request, progress)


@_does(table.RETABLE)
def _retable(deployment: Deployment, request: RetableRequest, progress: Progress) -> Retabled:
    from registry.services.bases.retable import retable

    return retable(deployment, request.base, progress)


@_does(table.BUNDLE)
def _bundle(deployment: Deployment, request: ReferenceRequest, _progress: Progress) -> Bundle:
    from registry.services.artifacts.bundles import bundle

    return bundle(deployment, request.ref)


@_does(table.SUBTREE)
def _subtree(deployment: Deployment, request: PathRequest, _progress: Progress) -> tuple[str, ...]:
    with deployment.read() as session:
        return browse.subtree(session, Path.parse(request.path))


# Materialisations


@_lists(table.MATERIALISATIONS)
def _materialisations(
    deployment: Deployment, request: MaterialisationsRequest, after: Any, limit: int | None
) -> Part[Materialisation]:
    from registry.services import materialise

    last = None if after is None else ListPosition(*after)
    found = materialise.listed(deployment, request.ref, limit=_one_more(limit), after=last)
    return part(found, limit, lambda one: (one.reference, one.created_at.isoformat(), one.id))


@_does(table.MATERIALISE)
def _materialise(deployment: Deployment, request: MaterialiseRequest, progress: Progress) -> Materialised:
    from registry.services import materialise

    return materialise.materialise(deployment, request, progress)


@_does(table.DROP_MATERIALISATION)
def _drop(deployment: Deployment, request: DropRequest, _progress: Progress) -> tuple[Materialisation, ...]:
    from registry.services import materialise

    return materialise.drop(deployment, request.which, request.kind)


# Deletion


@_does(table.DELETE)
def _delete(deployment: Deployment, request: DeleteRequest, _progress: Progress) -> Deleted:
    return deletion.delete(deployment, request.ref, with_tags=request.with_tags)


@_does(table.UNDELETE)
def _undelete(deployment: Deployment, request: UndeleteRequest, _progress: Progress) -> Deleted:
    return deletion.undelete(deployment, request.ref)


@_does(table.DELETE_TREE)
def _delete_tree(deployment: Deployment, request: DeleteTreeRequest, _progress: Progress) -> DeletedTree:
    return deletion.delete_tree(deployment, request.path, with_tags=request.with_tags, dry_run=request.dry_run)


@_does(table.UNDELETE_TREE)
def _undelete_tree(deployment: Deployment, request: UndeleteRequest, _progress: Progress) -> DeletedTree:
    return deletion.undelete_tree(deployment, request.ref)


@_does(table.DELETE_BASE)
def _delete_base(deployment: Deployment, request: DeleteBaseRequest, _progress: Progress) -> DeletedTree:
    return deletion.delete_base(deployment, request.name, recursive=request.recursive, dry_run=request.dry_run)


@_does(table.UNDELETE_BASE)
def _undelete_base(deployment: Deployment, request: UndeleteRequest, _progress: Progress) -> DeletedTree:
    return deletion.undelete_base(deployment, request.ref)


# Retraction and upkeep


@_does(table.RETRACT)
def _retract(deployment: Deployment, request: RetractRequest, _progress: Progress) -> Retracted:
    reference, principal = Reference.parse(request.ref), deployment.principal
    if reference.path.is_base:
        raise UsageError(
            f"{request.ref} is a base model; only revisions of adapters can be retracted: {request.ref}/NAME@N."
        )
    if request.undo and request.reason:
        raise UsageError("A reason is only for a retraction; leave it out to undo one.")

    def work(session: Session) -> Retracted:
        row = revisions.find(session, reference)
        if request.undo:
            return retraction.undo(session, row.id, principal)
        return retraction.retract(session, row.id, request.reason, principal)

    return deployment.change(work)


@_does(table.GC)
def _gc(deployment: Deployment, request: GcRequest, progress: Progress) -> Collected:
    from registry.services.upkeep.collect import collect

    return collect(deployment, dry_run=request.dry_run, progress=progress, grace=deployment.gc_grace)


@_does(table.FSCK)
def _fsck(deployment: Deployment, request: FsckRequest, progress: Progress) -> Checked:
    from registry.services.upkeep.check import check

    return check(deployment, deep=request.deep, progress=progress)


@_does(table.DU)
def _du(deployment: Deployment, request: UsageRequest, _progress: Progress) -> Usage:
    path = None if request.path is None else Path.parse(request.path)
    with deployment.read() as session:
        if path is not None:
            browse.check_there(session, path)
        return usage(session, path)
