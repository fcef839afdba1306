"""Retraction: history stays readable, and nothing that contains the revision is handed out any more."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from registry.catalogue.database import events
from registry.catalogue.database.tables import Adapter, Revision, Tag
from registry.catalogue.store.blobs import parts, standing_on
from registry.catalogue.tree import old_names, revisions
from registry.catalogue.tree.cards import uses
from registry.catalogue.tree.old_names import SameContent
from registry.catalogue.tree.revisions import RevisionRow
from registry.errors import RetractedError, UsageError
from registry.rights import Principal
from registry.schemas import Retracted
from registry.schemas.form import check_text


def retract(session: Session, revision_id: int, reason: str, principal: Principal) -> Retracted:
    """Retract a revision; once more replaces the reason.

    Raises:
        NotFoundError: it does not exist any more.
        UsageError: the reason is missing or can't be stored.
    """
    if not check_text("The reason", reason).strip():
        raise UsageError("A retraction needs a reason, which is shown to everyone who requests the revision.")
    values = {"retracted_at": datetime.now(UTC), "retracted_reason": reason, "retracted_by": principal.name}
    held = _locked(session, revision_id)
    for row in held:
        if row.retracted_reason != reason:
            session.execute(update(Revision).where(Revision.id == row.id).values(values))
            events.record(session, "retract", row.reference, principal, {"reason": reason})
    return _answer(session, revision_id, held, reason)


def undo(session: Session, revision_id: int, principal: Principal) -> Retracted:
    """Hand out a retracted revision again; one that is not retracted stays as it is.

    Raises:
        NotFoundError: it does not exist any more.
    """
    values = dict.fromkeys(("retracted_at", "retracted_reason", "retracted_by"))
    held = _locked(session, revision_id)
    for row in held:
        if row.retracted_reason is not None:
            session.execute(update(Revision).where(Revision.id == row.id).values(values))
            events.record(session, "retract undo", row.reference, principal, {"reason": row.retracted_reason})
    return _answer(session, revision_id, held, None)


def listing(session: Session, revision_id: int, reason: str) -> Retracted:
    """What retracting a revision would make unavailable; changes nothing.

    Raises:
        NotFoundError: it does not exist any more.
        UsageError: the reason can't be stored.
    """
    check_text("The reason", reason)
    revisions.get(session, revision_id)
    return _answer(session, revision_id, old_names.read_everywhere(session, revision_id), reason, done=False)


def check(lineage: Sequence[RevisionRow]) -> None:
    """Refuse a lineage that contains a retracted revision.

    Raises:
        RetractedError: naming the one nearest to the tip, and the reason.
    """
    for row in reversed(lineage):
        if row.retracted is not None:
            contained = "" if row is lineage[-1] else f"{lineage[-1].reference} was trained on {row.reference}: "
            if row.retracted.reference != row.reference:
                contained += f"{row.reference} is combined of {row.retracted.reference}, or of what was trained on it: "
            raise RetractedError(
                f"{contained}{row.retracted.reference} was retracted by {row.retracted.actor} on "
                f"{row.retracted.at:%Y-%m-%d}: {row.retracted.reason}"
            )


def _locked(session: Session, revision_id: int) -> list[SameContent]:
    """The revision under all names of its adapter, locked. It may be deleted while the lock is waited for.

    Visibility is that of the given one: what is retracted must not be available under another name.
    """
    revisions.get(session, revision_id)
    held = old_names.lock_everywhere(session, revision_id)
    revisions.get(session, revision_id)
    return held


def _answer(
    session: Session, revision_id: int, held: Sequence[SameContent], reason: str | None, *, done: bool = True
) -> Retracted:
    reference = next(row.reference for row in held if row.id == revision_id)
    contained = select(Revision.id, Adapter.path, Revision.number).join(Adapter, Adapter.id == Revision.adapter_id)
    named_by = select(Adapter.path, Tag.name).join(Adapter, Adapter.id == Tag.adapter_id)
    rows: list[Any] = []
    tags: list[tuple[str, str]] = []
    for part in parts(sorted(standing_on(session, [row.id for row in held], {}))):
        rows += session.execute(contained.where(Revision.id.in_(part), Revision.id != revision_id)).all()
        tags += ((path, tag) for path, tag in session.execute(named_by.where(Tag.revision_id.in_(part))))
    descendants = {row.id: f"{row.path}@{row.number}" for row in sorted(rows, key=lambda row: row.id)}
    answer = Retracted(
        reference=reference,
        reason=reason,
        descendants=tuple(descendants.values()),
        tags=tuple(f"{path}@{tag}" for path, tag in sorted(tags)),
        done=done,
    )
    if reason is None:
        return answer
    used = uses(session, [revision_id, *descendants])
    named = used.named({revision_id: reference, **descendants})
    return answer.model_copy(update={"use": used.together, "used": named})
