"""Metrics, annotations and message: what is said about a revision. Each change after publishing is kept as an event."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from sqlalchemy import update
from sqlalchemy.orm import Session

from registry.catalogue.database import events
from registry.catalogue.database.tables import Annotation, Metric, Revision
from registry.catalogue.tree import revisions
from registry.errors import NotFoundError, UsageError
from registry.rights import Principal
from registry.schemas.form import check_annotations, check_metrics, check_name, check_text


def annotate(
    session: Session,
    revision_id: int,
    *,
    metrics: Mapping[str, float],
    annotations: Mapping[str, str],
    principal: Principal,
) -> None:
    """Add or replace metrics and annotations; a value that is there already is no change.

    Raises:
        UsageError: a name is outside the grammar, a value is not finite, or a text can't be kept.
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
        UsageError: the text can't be kept.
        NotFoundError: the revision does not exist any more.
    """
    check_text("The message", message)
    row = revisions.get(session, revision_id)
    if row.message == message:
        return
    session.execute(update(Revision).where(Revision.id == revision_id).values(message=message))
    events.record(session, "annotate", row.reference, principal, {"message": message, "old": row.message})


def remove(session: Session, revision_id: int, names: Iterable[str], principal: Principal) -> None:
    """Remove metrics and annotations by name; where both have a name, both.

    Raises:
        NotFoundError: there is neither a metric nor an annotation of a name, or the revision does not exist any more.
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
