"""The one write transaction of a publish, which makes a revision visible, and its answer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from sqlalchemy.orm import Session

from registry.catalogue.changes import annotations as annotation_rows
from registry.catalogue.changes import notices, tags
from registry.catalogue.changes import publish as publishing
from registry.catalogue.changes.new_summary import new_summary
from registry.catalogue.changes.publish import NewRevision
from registry.catalogue.store import uploads as upload_rows
from registry.catalogue.team import jobs
from registry.catalogue.tree import browse
from registry.operations.publication import Labels
from registry.operations.table import NOTICE
from registry.schemas import Published, RevisionSummary, Tagged
from registry.schemas.around import Notice
from registry.schemas.requests import ReferenceRequest
from registry.services.bases.add import as_told
from registry.services.intake.intake import Intake
from registry.services.intake.wanted import drop_bytes
from registry.services.notices import SERVICE
from registry.services.publishing.candidates import Candidate
from registry.services.publishing.draft import Draft
from registry.storage.blobs import StoredBlob


class _Made(NamedTuple):
    summary: RevisionSummary
    before: RevisionSummary | None  # None: it is new
    tagged: tuple[Tagged, ...]
    notices: tuple[Notice, ...]


def make_visible(candidate: Candidate, new: NewRevision, intake: Intake, stored: tuple[StoredBlob, ...]) -> Published:
    """Publish and label the revision, end the uploads of its bytes, and read the answer, in one transaction."""
    deployment, labels, uploads = intake.deployment, candidate.draft.labels, candidate.found.uploads

    def work(session: Session) -> _Made:
        row, created = publishing.publish(session, new, deployment.principal, intake.recorded)
        before = None if created else browse.summary(session, row.id)
        tagged = tuple(tags.set_tag(session, row.id, tag, deployment.principal) for tag in dict.fromkeys(labels.tags))
        annotation_rows.annotate(
            session,
            row.id,
            metrics=labels.metrics,
            annotations=labels.annotations,
            principal=deployment.principal,
        )
        if uploads:
            upload_rows.remove(session, *(upload.id for upload in uploads))
        if created and deployment.looks:
            request = ReferenceRequest(ref=row.reference).model_dump_json()
            jobs.enqueue(session, NOTICE.kind, request, SERVICE, subject=row.reference)
        if not created:
            return _Made(browse.summary(session, row.id), before, tagged, notices.notices(session, row.id))
        summary = new_summary(
            session, row, new, tags=labels.tags, metrics=labels.metrics, annotations=labels.annotations
        )
        return _Made(summary, None, tagged, tuple(one.notice for one in new.noticed))

    made = intake.change(work)
    before = made.before
    drop_bytes(deployment, uploads)
    return Published(
        revision=made.summary,
        created=before is None,
        parent_digest=candidate.parent.digest,
        parent_reason=candidate.parent.reason,
        left_out=candidate.draft.left_out,
        bytes_stored=sum(blob.stored for blob in as_told(deployment, stored)),
        registry=deployment.url,
        applied=() if before is None else tuple(_applied(labels, before)),
        not_applied=() if before is None else tuple(_not_applied(candidate.draft, before)),
        tagged=made.tagged,
        notices=made.notices,
    )


def _applied(labels: Labels, before: RevisionSummary) -> Iterator[str]:
    """The labels that a publish changed on an existing revision."""
    yield from (f"tag {tag}" for tag in labels.tags if tag not in before.tags)
    yield from (f"metric {name}" for name, value in labels.metrics.items() if before.metrics.get(name) != value)
    yield from (f"annotation {key}" for key, text in labels.annotations.items() if before.annotations.get(key) != text)


def _not_applied(draft: Draft, before: RevisionSummary) -> Iterator[str]:
    """What was given but not taken for an existing revision, as it belongs to its first publish."""
    if draft.labels.message and draft.labels.message != before.message:
        yield "message"
    if draft.source is not None and draft.source != before.source:
        yield "source"
