"""The parent of an adapter in a nested folder, while the folder above it is planned but not published yet.

Nested folders are all checked before the first is published, so a parent may have a digest and no row yet.
"""

from __future__ import annotations

from dataclasses import replace

from sqlalchemy.orm import Session

from registry.catalogue.tree import bases, revisions
from registry.digest import is_digest
from registry.errors import ConflictError, NotFoundError, UsageError
from registry.reference import MAIN, Reference
from registry.reference import Path as TreePath
from registry.schemas.kinds import TRAINED_ON
from registry.schemas.parents import strongest
from registry.services.artifacts.commits import RepoNames, is_commit
from registry.services.publishing.hub_parent import Doubt, Place, Proof, candidates_for, read_view
from registry.services.publishing.parent_weights import of_planned
from registry.services.publishing.parents import NESTED, Parent, PlannedRevision, Told, check_receipt


def planned_parent(
    session: Session,
    path: TreePath,
    told: Told,
) -> Parent | None:
    """The parent of ``path``, if the revision of the folder above is only planned; None if it is published already.

    The answer must be the same as after the parent is published.

    Args:
        session: the read transaction of this publish.
        path: the adapter of the folder.
        told: the evidence of its parent, where ``told.parent`` is ``PATH@DIGEST``.

    Raises:
        NotFoundError: there is no such base model.
        ConflictError: ``parent_mismatch``: the folder was trained on something else.
    """
    above, parent, receipt, trained_on = path.parent, told.parent, told.receipt, told.trained_on
    digest = None if parent is None else Reference.parse(parent).digest_prefix
    if above is None or above.is_base or digest is None or not is_digest(digest) or _is_there(session, path, digest):
        return None
    base = bases.get(session, above.base)
    planned, reason, known_by = PlannedRevision(above, digest), NESTED, "assumed"
    if receipt is not None and receipt.shows_nothing:
        receipt = None
    if receipt is not None:
        check_receipt(base, receipt)
        if receipt.receipt.tip != digest:
            raise _mismatch(receipt.words, receipt.receipt.reference, path)
        reason, known_by = receipt.words, receipt.word
    if trained_on is not None:
        names = RepoNames.of(TRAINED_ON, above, base)
        named = trained_on.revision
        if trained_on.path == above and named is not None and is_commit(named) and names.find(named, [digest]):
            if receipt is None:
                reason, known_by = f"{trained_on.words} says so", "view"
            return _compared(Parent(base, None, reason, known_by, planned=planned), digest, told)
        shown = read_view(session, Place(path, above, base, _candidates(session, path)), trained_on)
        if isinstance(shown, Doubt) and not isinstance(shown.error, UsageError):
            raise shown.error
        if isinstance(shown, Proof) and named not in (None, MAIN):
            raise _mismatch(trained_on.words, shown.row.reference if shown.row else base.name, path)
    return _compared(Parent(base, None, reason, known_by, planned=planned), digest, told)


def _compared(parent: Parent, digest: str, told: Told) -> Parent:
    """The same parent, checked against the weights in the folder that the adapter was trained on."""
    if told.compared is None:
        return parent
    above = parent.planned.path if parent.planned else None
    word, notices = of_planned(str(above), digest, told.compared)
    if word is None:
        return replace(parent, notices=notices)
    reason = f"{parent.reason}, and its weights are those in {told.compared.words}"
    known_by = strongest([parent.known_by, word])
    return replace(parent, reason=reason, known_by=known_by, notices=notices)


def _is_there(session: Session, path: TreePath, digest: str) -> bool:
    try:
        return bool(revisions.pinnable(session, path, digest=digest))
    except NotFoundError:
        return False


def _candidates(session: Session, path: TreePath) -> tuple[revisions.RevisionRow, ...]:
    try:
        return candidates_for(session, path)
    except NotFoundError:
        return ()


def _mismatch(what: str, says: str, path: TreePath) -> ConflictError:
    return ConflictError(
        f"{what[:1].upper()}{what[1:]} says {says}, but the folder above {path} holds something else: put it below "
        "the folder of what it was trained on.",
        code="parent_mismatch",
    )
