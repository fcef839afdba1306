"""What is recorded and counted of revisions: metrics, annotations, messages, cards, uses.

Each change after publishing is recorded as an event; of a card by digests, so its text is not stored twice. Uses are
counted in a row a day, and old counts are forgotten.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from sqlalchemy import delete, select, tuple_, update
from sqlalchemy.orm import Session

from registry.catalogue.database import events
from registry.catalogue.database.tables import Adapter, Annotation, Metric, Revision
from registry.catalogue.database.team_tables import CardRecord, LoadRecord, UseRecord
from registry.catalogue.database.upsert import insert_new, insert_or_add
from registry.catalogue.database.visibility import IGNORE_RIGHTS, INCLUDE_DELETED
from registry.catalogue.store.blobs import parts
from registry.catalogue.tree import cards, revisions
from registry.digest import sha256_digest
from registry.errors import ConflictError, NotFoundError, UsageError
from registry.reference import Path
from registry.rights import Principal
from registry.schemas.form import check_annotations, check_metrics, check_name, check_text
from registry.schemas.usage import Counted, Load, UseKey

USES_KEPT: Final = timedelta(days=400)
LOADS_KEPT: Final = timedelta(days=40)


def count_uses(session: Session, uses: Mapping[UseKey, Counted]) -> None:
    """Add uses to what is counted already; those of revisions that do not exist any more are dropped."""
    keys = _keys(session, {(use.path, use.number) for use in uses})
    # In one order, so that replicas that add the same rows wait for each other instead of deadlocking.
    rows = [
        {
            "revision_id": keys[use.path, use.number],
            "day": use.day,
            "interface": use.interface,
            "who": use.who,
            "count": uses[use].count,
            "last_used_at": uses[use].last_used_at,
        }
        for use in sorted(uses)
        if (use.path, use.number) in keys
    ]
    if rows:
        session.execute(insert_or_add(UseRecord, session, UseRecord.count, UseRecord.last_used_at), rows)


def count_loads(session: Session, loads: Sequence[Load]) -> None:
    """Record loads, in their order; those of revisions that do not exist any more are dropped."""
    keys = _keys(session, {(load.path, load.number) for load in loads})
    rows = [
        {"revision_id": keys[load.path, load.number], "who": load.who, "hour": load.hour, "weights": load.weights}
        for load in loads
        if (load.path, load.number) in keys
    ]
    if rows:
        session.execute(insert_new(LoadRecord, session), rows)


def _keys(session: Session, revisions: Collection[tuple[str, int]]) -> dict[tuple[str, int], int]:
    """Keys of revisions by path and number; also of deleted ones, whose deletion may be undone."""
    found: dict[tuple[str, int], int] = {}
    for part in parts(sorted(revisions)):
        query = select(Adapter.path, Revision.number, Revision.id).join(Adapter, Adapter.id == Revision.adapter_id)
        query = query.where(tuple_(Adapter.path, Revision.number).in_(part))
        for path, number, key in session.execute(query, execution_options={**IGNORE_RIGHTS, **INCLUDE_DELETED}):
            found[path, number] = key
    return found


def forget_uses(session: Session, now: datetime) -> None:
    """Remove counts and loads that are past their retention time."""
    session.execute(delete(UseRecord).where(UseRecord.day < (now - USES_KEPT).date()))
    session.execute(delete(LoadRecord).where(LoadRecord.hour < now - LOADS_KEPT))


def set_card(
    session: Session,
    path: Path,
    text: str | None,
    front_matter: Mapping[str, Any],
    principal: Principal,
    *,
    expected: str | None = None,
) -> None:
    """Edit the card of an adapter; ``text`` None: the published README.md is its card again.

    Raises:
        NotFoundError: the adapter does not exist; offers the nearest.
        UsageError: the path names a base model.
        ConflictError: ``card_changed``, the card's digest is not ``expected``.
    """
    adapter_id = revisions.adapter(session, path)
    # Two edits at once: the second waits here, and then finds the card of the first.
    session.execute(select(Adapter.id).where(Adapter.id == adapter_id).with_for_update())
    before = cards.state(session, adapter_id)
    old = cards.NO_CARD if before is None else before.digest
    if expected is not None and expected != old:
        who = f" by {before.edited_by}" if before is not None and before.edited_by else ""
        raise ConflictError(
            f"The card of {path} was changed{who} since it was read: read it again, and edit that.", code="card_changed"
        )
    if text is None:
        if before is not None and before.source == "edited":
            session.execute(delete(CardRecord).where(CardRecord.adapter_id == adapter_id))
            events.record(session, "card", str(path), principal, {"old": old, "new": None})
        return
    new = sha256_digest(text.encode("utf-8"))
    if new == old:
        return
    row = session.get(CardRecord, adapter_id, with_for_update=True) or CardRecord(adapter_id=adapter_id)
    row.text, row.digest, row.front_matter = text, new, dict(front_matter)
    row.edited_at, row.edited_by = datetime.now(UTC), principal.name
    session.add(row)
    events.record(session, "card", str(path), principal, {"old": None if before is None else old, "new": new})
    session.flush()


def annotate(
    session: Session,
    revision_id: int,
    *,
    metrics: Mapping[str, float],
    annotations: Mapping[str, str],
    principal: Principal,
) -> None:
    """Add or replace metrics and annotations; a value that exists already is no change.

    Raises:
        UsageError: a name is outside the grammar, a value is not finite, or a text can't be stored.
        NotFoundError: the revision does not exist any more.
    """
    numbers, texts = check_metrics(metrics), check_annotations(annotations)
    if not numbers and not texts:
        return
    reference = revisions.get(session, revision_id).reference
    for name, value in numbers.items():
        metric = session.get(Metric, (revision_id, name))
        old = None if metric is None else metric.value
        if metric is None:
            session.add(Metric(revision_id=revision_id, name=name, value=value))
        else:
            metric.value = value
        if old != value:
            events.record(session, "annotate", reference, principal, {"metric": name, "old": old, "new": value})
    for key, text in texts.items():
        annotation = session.get(Annotation, (revision_id, key))
        before = None if annotation is None else annotation.value
        if annotation is None:
            session.add(Annotation(revision_id=revision_id, key=key, value=text))
        else:
            annotation.value = text
        if before != text:
            events.record(session, "annotate", reference, principal, {"annotation": key, "old": before, "new": text})
    session.flush()


def check_change(
    metrics: Mapping[str, float], annotations: Mapping[str, str], message: str | None, unset: Iterable[str]
) -> tuple[str, ...]:
    """Check a change on its own; the names to unset, each once.

    Raises:
        UsageError: a name is outside the grammar or both given and unset, a value is not finite, or a text can't be
            kept.
    """
    check_metrics(metrics)
    check_annotations(annotations)
    if message is not None:
        check_text("The message", message)
    names = tuple(dict.fromkeys(check_name("Name to unset", name) for name in unset))
    if both := [name for name in names if name in metrics or name in annotations]:
        raise UsageError(f"{both[0]} is both set and unset; leave out one of them.")
    return names


def set_message(session: Session, revision_id: int, message: str, principal: Principal) -> None:
    """Replace the message of a revision; the one that it has is no change.

    Raises:
        UsageError: the text can't be stored.
        NotFoundError: the revision does not exist any more.
    """
    check_text("The message", message)
    row = revisions.get(session, revision_id)
    if row.message == message:
        return
    session.execute(update(Revision).where(Revision.id == revision_id).values(message=message))
    events.record(session, "annotate", row.reference, principal, {"message": message, "old": row.message})


def remove(session: Session, revision_id: int, names: Iterable[str], principal: Principal) -> None:
    """Remove metrics and annotations by name; if both have a name, both.

    Raises:
        NotFoundError: one of the names has no metric or annotation, or the revision does not exist any more.
    """
    reference = revisions.get(session, revision_id).reference
    for name in names:
        metric, annotation = session.get(Metric, (revision_id, name)), session.get(Annotation, (revision_id, name))
        if metric is None and annotation is None:
            raise NotFoundError(f"{reference} has neither a metric nor an annotation {name!r}: nothing was changed.")
        if metric is not None:
            session.delete(metric)
            detail: dict[str, object] = {"metric": name, "old": metric.value, "new": None}
            events.record(session, "annotate", reference, principal, detail)
        if annotation is not None:
            session.delete(annotation)
            detail = {"annotation": name, "old": annotation.value, "new": None}
            events.record(session, "annotate", reference, principal, detail)
    session.flush()
