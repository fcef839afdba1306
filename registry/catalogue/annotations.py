"""Metrics and annotations: what is said about a revision after it was published. Each change is kept as an event."""

from __future__ import annotations

from collections.abc import Mapping

from sqlalchemy.orm import Session

from registry.catalogue import events, revisions
from registry.catalogue.tables import Annotation, Metric
from registry.catalogue.texts import check_annotations, check_metrics
from registry.rights import Principal


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
