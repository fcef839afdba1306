"""Handlers of what can change about a revision: tags, metrics, annotations, messages, cards and names.

Tensor code is imported where it is needed, so that browsing starts fast.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from sqlalchemy.orm import Session

from registry.catalogue.changes import also_known_as, rename, tagging
from registry.catalogue.changes import details as labels
from registry.catalogue.tree import bases, browse, revisions, tag_moves
from registry.catalogue.tree import cards as rows
from registry.catalogue.tree.tag_moves import TagOrder
from registry.digest import StoredFile
from registry.errors import UsageError
from registry.folders.scan import README
from registry.operations.operation import Part, one_more, part
from registry.reference import Path, Reference, check_adapter_name, check_base_name
from registry.schemas import ProtectedTag, RevisionSummary, Tagged
from registry.schemas.form import is_plain
from registry.schemas.labels import (
    MAX_CARD,
    AlsoKnownAs,
    AlsoKnownAsRequest,
    Card,
    CardState,
    RenameBaseRequest,
    Renamed,
    RenameRequest,
    SetCardRequest,
)
from registry.schemas.requests import (
    AnnotateRequest,
    ProtectedTagsRequest,
    ProtectRequest,
    ReferenceRequest,
    TagRequest,
    UndoTagRequest,
    UntagRequest,
)
from registry.schemas.tags import TagsRequest, TagState
from registry.services.artifacts.readme import front_matter
from registry.services.deployment import Deployment
from registry.tensors.lineage.paths import read_blob


def rename_adapter(deployment: Deployment, request: RenameRequest) -> Renamed:
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


def rename_base(deployment: Deployment, request: RenameBaseRequest) -> Renamed:
    if "/" in request.name:
        path = Path.parse(request.name)
        raise UsageError(f"{path} is the path of an adapter: `registry rename {path} NAME` renames it.")
    old, new = Path(check_base_name(request.name)), Path(check_base_name(request.new))
    deployment.rights.require_on("admin", new, "rename a base model")
    return deployment.change(lambda session: rename.rename_base(session, old, new, deployment.principal))


def set_also_known_as(deployment: Deployment, request: AlsoKnownAsRequest) -> AlsoKnownAs:
    base = check_base_name(request.name)
    change = also_known_as.take_away if request.remove else also_known_as.give
    return deployment.change(lambda session: change(session, base, request.repo_id, deployment.principal))


def list_tags(
    deployment: Deployment, request: TagsRequest, after: tuple[Any, str, str] | None, limit: int | None
) -> Part[TagState]:
    order = TagOrder.parse(request.sort)
    with deployment.read() as session:
        found = tag_moves.listed(session, request, order, after=after, limit=one_more(limit))
    return part(found, limit, order.key)


def tag(deployment: Deployment, request: TagRequest) -> Tagged:
    reference = Reference.parse(request.ref)

    def work(session: Session) -> Tagged:
        found = revisions.find(session, reference).id
        return tagging.set_tag(session, found, request.tag, deployment.principal, expected=request.expected)

    return deployment.change(work)


def undo_tag(deployment: Deployment, request: UndoTagRequest) -> Tagged:
    path, principal = Path.parse(request.path), deployment.principal
    return deployment.change(
        lambda session: tagging.undo(session, path, request.tag, principal, expected=request.expected)
    )


def untag(deployment: Deployment, request: UntagRequest) -> Tagged:
    path, principal = Path.parse(request.path), deployment.principal
    return deployment.change(
        lambda session: tagging.remove_tag(session, path, request.tag, principal, expected=request.expected)
    )


def annotate(deployment: Deployment, request: AnnotateRequest) -> RevisionSummary:
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


def list_protected_tags(deployment: Deployment, request: ProtectedTagsRequest) -> tuple[ProtectedTag, ...]:
    with deployment.read() as session:
        return tagging.patterns(session, request.base)


def protect_tag(deployment: Deployment, request: ProtectRequest) -> tuple[ProtectedTag, ...]:
    path = Path.parse(request.base)
    if not path.is_base:
        raise UsageError(
            f"{request.base} is the path of an adapter: tags are protected for a whole base model, {path.base}."
        )
    change = tagging.unprotect if request.remove else tagging.protect
    return deployment.change(lambda session: change(session, path.base, request.pattern, deployment.principal))


def card(deployment: Deployment, request: ReferenceRequest) -> Card:
    reference = Reference.parse(request.ref)
    path = reference.path
    with deployment.read() as session:
        if path.is_base:
            found = _readme(path.base, bases.get(session, path.base).files)
        elif reference == Reference(path):
            adapter_id = revisions.adapter(session, path)
            row = rows.edited(session, adapter_id)
            if row is not None:
                state = rows.state(session, adapter_id)
                return Card(path=str(path), text=row.text, digest=row.digest, state=state, metadata=row.front_matter)
            found = rows.published(session, adapter_id)
        else:
            revision = revisions.find(session, reference)
            found = _readme(revision.reference, revisions.files(session, revision.id))
    return _published(deployment, path, found)


def _readme(reference: str, files: Iterable[StoredFile]) -> tuple[str, StoredFile] | None:
    return next(((reference, file) for file in files if file.path == README), None)


def _published(deployment: Deployment, path: Path, found: tuple[str, StoredFile] | None) -> Card:
    """The card that is a stored README.md.

    Raises:
        UsageError: it is too long for a card.
    """
    if found is None:
        return Card(path=str(path), text="", digest=rows.NO_CARD)
    reference, file = found
    if file.size > MAX_CARD:
        raise UsageError(
            f"The README.md of {reference} has {file.size} bytes, and a card has at most {MAX_CARD}: fetch "
            f"{reference} with --as published to read it."
        )
    text = read_blob(deployment, file).decode("utf-8", errors="replace").replace("\0", "\ufffd")
    state = CardState(source="published", digest=file.digest, reference=reference)
    return Card(path=str(path), text=text, digest=file.digest, state=state, metadata=front_matter.split(text)[0])


def set_card(deployment: Deployment, request: SetCardRequest) -> Card:
    path, text = Path.parse(request.path), request.text
    metadata = {} if text is None else _checked(text)

    def work(session: Session) -> None:
        labels.set_card(session, path, text, metadata, deployment.principal, expected=request.expected)

    deployment.change(work)
    return card(deployment, ReferenceRequest(ref=str(path)))


def _checked(text: str) -> front_matter.Metadata:
    """The front matter of a new card.

    Raises:
        UsageError: the text is empty or too long, can't be stored, or its front matter is malformed.
    """
    if not is_plain(text):
        raise UsageError("The card contains a NUL or an invalid character: plain text is expected.")
    if not text.strip():
        raise UsageError("The card is empty; to go back to the published README.md, remove the card.")
    if (size := len(text.encode("utf-8"))) > MAX_CARD:
        raise UsageError(f"The card has {size} bytes: at most {MAX_CARD} are expected.")
    return front_matter.check(text)
