"""The row of a new revision, made of a checked adapter, and the transaction that makes it visible."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

from sqlalchemy.orm import Session

from registry.catalogue.changes import details as annotation_rows
from registry.catalogue.changes import notices, tagging
from registry.catalogue.changes import publish as publishing
from registry.catalogue.changes.publish import NewRevision, SourcePin, new_summary
from registry.catalogue.store import uploads as upload_rows
from registry.catalogue.store.blobs import FileRef
from registry.catalogue.team import jobs
from registry.catalogue.tree import browse
from registry.digest import sha256_digest
from registry.errors import IntegrityError, UsageError
from registry.figures import size
from registry.folders.quantised import quantised_notices
from registry.folders.scan import EXACT_WEIGHTS, OF_PICKLE, READ_PICKLE
from registry.operations.publication import Labels
from registry.operations.table import NOTICE
from registry.reference import Reference
from registry.rights import Principal
from registry.schemas import CopiedFrom, Published, RevisionSummary, Tagged, TargetGroup
from registry.schemas.requests import ReferenceRequest
from registry.schemas.tags import Notice
from registry.schemas.transfer import Origin
from registry.services.bases.add import as_told
from registry.services.intake.intake import Intake
from registry.services.intake.uploads import drop_bytes
from registry.services.notices import SERVICE
from registry.services.publishing.candidates import Candidate
from registry.services.publishing.draft import Draft, Files, manifest_of
from registry.storage.blobs import StoredBlob
from registry.tensors.checkpoint.adapter import Checkpoint


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
        tagged = tuple(
            tagging.set_tag(session, row.id, tag, deployment.principal) for tag in dict.fromkeys(labels.tags)
        )
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


MOST_COPIED: Final = 10**9  # later revisions count on from a copy's number, which must leave room for them


def new_revision(candidate: Candidate, files: Files, principal: Principal) -> NewRevision:
    """The revision to publish. A copy keeps its author and date if the principal is an admin of its path.

    Raises:
        IntegrityError: ``copy_mismatch``, the digest of a copy differs from that in its source registry.
        UsageError: the number of a copy exceeds `MOST_COPIED`.
    """
    combination = candidate.found.combination
    draft = candidate.draft
    text = manifest_of(candidate.parent, candidate.config, files, combination, draft.extracted, draft.trained_quantised)
    digest = sha256_digest(text)
    origin, trained_on = candidate.draft.origin, candidate.config.base_model_name_or_path
    if origin is not None and origin.digest != digest:
        raise IntegrityError(
            f"The copy of {origin.reference} from {origin.registry} would have the digest {digest} here, but it is "
            f"{origin.digest} there: its files, parent or base model differ, so nothing was published.",
            code="copy_mismatch",
        )
    kept = origin if principal.rights.allows("admin", candidate.draft.path) else None
    number = None if origin is None else Reference.parse(origin.reference).number
    if number is not None and number > MOST_COPIED:
        raise UsageError(f"The copy of a revision can't have the number {number}: at most {MOST_COPIED} is expected.")
    return NewRevision(
        path=candidate.draft.path,
        base_digest=candidate.parent.base.digest,
        parent_id=candidate.parent.row.id if candidate.parent.row else None,
        digest=digest,
        manifest=text.decode("utf-8"),
        message=candidate.draft.labels.message,
        author=principal.name if kept is None else kept.author,
        rank=candidate.checkpoint.rank,
        parameters=candidate.parameters,
        size=sum(one for _, one in files.values()),
        trained_on=trained_on,
        notices=(
            *candidate.checkpoint.notices,
            *beyond_pairs(candidate.checkpoint),
            *replaced_notices(candidate, files),
            *(() if candidate.on_quantised else quantised_notices(trained_on, _sign(draft))),
            *_of_pickle(candidate.draft),
            *candidate.found.notices,
            *candidate.parent.notices,
        ),
        files=tuple(FileRef(name, digest) for name, (digest, _) in sorted(files.items())),
        targets=target_groups(candidate.checkpoint),
        number=number,
        created_at=None if kept is None else kept.created_at,
        source=candidate.draft.source,
        parent_known_by=candidate.parent.known_by,
        derived_from=candidate.draft.derived_from,
        copied_from=None if origin is None else _original(origin),
        sources=() if combination is None else tuple(SourcePin(one.key, one.weight) for one in combination.sources),
        after=candidate.draft.after,
    )


def _sign(draft: Draft) -> str | None:
    """What shows that it was trained on quantised weights: something in its folder, else the publisher's statement."""
    how = draft.trained_quantised
    return draft.quantised or (None if how is None else str(how))


def _original(origin: Origin) -> CopiedFrom:
    return CopiedFrom(
        registry=origin.registry, reference=origin.reference, author=origin.author, created_at=origin.created_at
    )


def _of_pickle(draft: Draft) -> Iterator[str]:
    """That the weights are those of a pickle, which was read on the machine that has the folder."""
    if any(one.reason == READ_PICKLE for one in draft.left_out):
        yield OF_PICKLE


def replaced_notices(candidate: Candidate, files: Files) -> Iterator[str]:
    """What a full fine-tune replaces."""
    if candidate.exact is not None:
        count = len(candidate.exact.entries)
        yield (
            f"The revision is a full fine-tune, kept exactly: it replaces {count} "
            f"{'tensor' if count == 1 else 'tensors'} ({size(candidate.exact.bytes_of_tensors)}, kept in "
            f"{size(files[EXACT_WEIGHTS][1])}) of the base model, "
            "and what is above it in the path is its history only."
        )


def beyond_pairs(checkpoint: Checkpoint) -> Iterator[str]:
    """Notices about what an adapter does besides adding pairs."""
    if checkpoint.config.use_dora:
        yield "The adapter is a DoRA: it also rescales the weights of its target modules to magnitudes of its own."
    values = list(checkpoint.values)
    if values:
        more = f" and {len(values) - 3} more" if len(values) > 3 else ""
        yield f"The adapter replaces {', '.join(values[:3])}{more} as a whole; the previous weights are not used."
    if checkpoint.diagonals:
        yield (
            f"The adapter multiplies rows or columns of {len(checkpoint.diagonals)} modules by factors (IA3): a path "
            "over it is merged, and no single PEFT adapter equals it."
        )
    added = list(checkpoint.added)
    if added:
        more = f" and {len(added) - 3} more" if len(added) > 3 else ""
        yield f"The adapter also adds to {', '.join(added[:3])}{more}, which have one dimension and no rank."
    for module, rows in checkpoint.tokens.items():
        yield f"The adapter replaces {len(rows.tokens)} token rows of {module}."


def _leaf(module: str) -> str:
    """The last name of a module; a number at the end says nothing by itself (``to_out.0``)."""
    *above, last = module.split(".")
    return f"{above[-1]}.{last}" if last.isdecimal() and above else last


def target_groups(checkpoint: Checkpoint) -> tuple[TargetGroup, ...]:
    """The target modules by leaf name."""
    groups: dict[str, list[tuple[int, float]]] = {}
    for module, pair in checkpoint.pairs.items():
        groups.setdefault(_leaf(module), []).append((pair.rank, pair.scaling))
    return tuple(
        TargetGroup(
            name=name,
            modules=len(pairs),
            ranks=tuple(sorted({rank for rank, _ in pairs})),
            scalings=tuple(sorted({scaling for _, scaling in pairs})),
        )
        for name, pairs in sorted(groups.items())
    )
