"""Handlers of publishing, of what another registry asks, and of cards.

Tensor code is imported where it is needed, so that browsing starts fast.
"""

from __future__ import annotations

from collections.abc import Iterable

from sqlalchemy.orm import Session

from registry.catalogue.changes.details import set_card
from registry.catalogue.tree import bases, revisions
from registry.catalogue.tree import cards as rows
from registry.catalogue.tree.tag_moves import subtree
from registry.digest import StoredFile
from registry.errors import UsageError
from registry.folders.scan import README
from registry.operations import table
from registry.progress import Progress
from registry.reference import Path, Reference
from registry.schemas import BaseAdded, BaseMeasured, Published, Retabled
from registry.schemas.form import is_plain
from registry.schemas.labels import MAX_CARD, Card, CardState, ExportCard, SetCardRequest
from registry.schemas.parents import NarrowRequest, PathsLeft
from registry.schemas.publishing import Combined, CombineRequest, Rebased, RebaseRequest, Replayed, ReplayRequest
from registry.schemas.requests import (
    ExportCardRequest,
    MeasureBaseRequest,
    ReferenceRequest,
    RetableRequest,
    SubtreeRequest,
)
from registry.schemas.transfer import (
    BaseCommit,
    BasePlan,
    BaseRequest,
    Bundle,
    PublishCommit,
    PublishPlan,
    PublishRequest,
)
from registry.services.artifacts.readme import front_matter
from registry.services.artifacts.readme.exported import export_card
from registry.services.deployment import Deployment
from registry.services.handlers.handling import does
from registry.services.lineage import read_blob


@does(table.CARD)
def _card(deployment: Deployment, request: ReferenceRequest, _progress: Progress) -> Card:
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


@does(table.EXPORT_CARD)
def _export_card(deployment: Deployment, request: ExportCardRequest, _progress: Progress) -> ExportCard:
    return export_card(deployment, request)


@does(table.SET_CARD)
def _set_card(deployment: Deployment, request: SetCardRequest, progress: Progress) -> Card:
    path, text = Path.parse(request.path), request.text
    metadata = {} if text is None else _checked(text)

    def work(session: Session) -> None:
        set_card(session, path, text, metadata, deployment.principal, expected=request.expected)

    deployment.change(work)
    return _card(deployment, ReferenceRequest(ref=str(path)), progress)


def _checked(text: str) -> front_matter.Metadata:
    """The front matter of a new card.

    Raises:
        UsageError: the text is empty or too long, can't be kept, or its front matter is malformed.
    """
    if not is_plain(text):
        raise UsageError("The card contains a NUL or an invalid character: plain text is expected.")
    if not text.strip():
        raise UsageError("The card is empty; to go back to the published README.md, remove the card.")
    if (size := len(text.encode("utf-8"))) > MAX_CARD:
        raise UsageError(f"The card has {size} bytes: at most {MAX_CARD} are expected.")
    return front_matter.check(text)


@does(table.PLAN_PUBLISH)
def _plan_publish(deployment: Deployment, request: PublishRequest, _progress: Progress) -> PublishPlan:
    from registry.services.publishing.publish import plan_publish

    return plan_publish(deployment, request)


@does(table.COMMIT_PUBLISH)
def _commit_publish(deployment: Deployment, request: PublishCommit, progress: Progress) -> Published:
    from registry.services.publishing.publish import commit_publish

    return commit_publish(deployment, request, progress)


@does(table.NARROW)
def _narrow(deployment: Deployment, request: NarrowRequest, progress: Progress) -> PathsLeft:
    from registry.services.publishing.narrowing import narrow_paths

    return narrow_paths(deployment, request, progress)


@does(table.REBASE)
def _rebase(deployment: Deployment, request: RebaseRequest, progress: Progress) -> Rebased:
    from registry.services.publishing.rebase import rebase

    return rebase(deployment, request, progress)


@does(table.COMBINE)
def _combine(deployment: Deployment, request: CombineRequest, progress: Progress) -> Combined:
    from registry.services.combining.combine import combine

    return combine(deployment, request, progress)


@does(table.REPLAY)
def _replay(deployment: Deployment, request: ReplayRequest, progress: Progress) -> Replayed:
    from registry.services.combining.combine import replay

    return replay(deployment, request, progress)


@does(table.PLAN_BASE)
def _plan_base(deployment: Deployment, request: BaseRequest, _progress: Progress) -> BasePlan:
    from registry.services.bases.add_remote import plan_base

    return plan_base(deployment, request)


@does(table.COMMIT_BASE)
def _commit_base(deployment: Deployment, request: BaseCommit, progress: Progress) -> BaseAdded:
    from registry.services.bases.add_remote import commit_base

    return commit_base(deployment, request, progress)


@does(table.RETABLE)
def _retable(deployment: Deployment, request: RetableRequest, progress: Progress) -> Retabled:
    from registry.services.bases.retable import retable

    return retable(deployment, request.base, progress)


@does(table.MEASURE_BASE)
def _measure_base(deployment: Deployment, request: MeasureBaseRequest, progress: Progress) -> BaseMeasured:
    from registry.services.bases.norms import measure

    return measure(deployment, request.base, progress)


@does(table.BUNDLE)
def _bundle(deployment: Deployment, request: ReferenceRequest, _progress: Progress) -> Bundle:
    from registry.services.artifacts.bundles import bundle

    return bundle(deployment, request.ref)


@does(table.SUBTREE)
def _subtree(deployment: Deployment, request: SubtreeRequest, _progress: Progress) -> tuple[str, ...]:
    after = None if request.after is None else Reference.parse(request.after)
    with deployment.read() as session:
        return subtree(session, Path.parse(request.path), after=after, limit=request.limit)
