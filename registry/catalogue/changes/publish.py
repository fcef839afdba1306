"""The one short transaction that makes a revision visible: its number, its parent, its files, and its summary."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from typing import Any

from sqlalchemy import Select, and_, bindparam, exists, func, insert, select, update
from sqlalchemy.orm import Session, aliased
from sqlalchemy.orm.exc import StaleDataError

from registry.catalogue.changes import notices
from registry.catalogue.changes.notices import Noticed
from registry.catalogue.changes.revision_rows import make_adapter, renamed_meanwhile, write
from registry.catalogue.database import events
from registry.catalogue.database.tables import Adapter, BaseModelRecord, EventRecord, Revision, RevisionSource, table_of
from registry.catalogue.database.visibility import IGNORE_RIGHTS, INCLUDE_DELETED, live
from registry.catalogue.store import blobs, purge
from registry.catalogue.store.blobs import FileRef, sources_shown
from registry.catalogue.tree import bases, old_names, provenance, revisions
from registry.catalogue.tree.ancestry import ancestry
from registry.catalogue.tree.commits import digits_of
from registry.catalogue.tree.revisions import RevisionRow
from registry.digest import sha256_digest
from registry.errors import ConflictError, IntegrityError, NotFoundError, RetractedError, UsageError
from registry.reference import Path
from registry.rights import Principal
from registry.schemas import CopiedFrom, DerivedFrom, RevisionSummary, TargetGroup
from registry.schemas.form import check_text


@dataclass(frozen=True)
class SourcePin:
    """A revision that a combination is made of, and its weight."""

    revision_id: int
    weight: float


@dataclass(frozen=True)
class NewRevision:
    """A revision to publish; all its blobs are recorded already."""

    path: Path
    base_digest: str  # of the weights it was checked against
    parent_id: int | None  # row of the parent revision; None: the base model
    digest: str  # of the manifest
    manifest: str  # canonical JSON
    message: str
    author: str
    rank: int
    parameters: int
    size: int
    trained_on: str | None
    notices: tuple[str, ...]
    files: tuple[FileRef, ...]
    targets: tuple[TargetGroup, ...]
    number: int | None = None  # of a copy: the number that it has where it comes from, taken where it is free
    created_at: datetime | None = None  # of a copy that keeps it: when it was published first
    source: str | None = None  # where it was taken from
    parent_known_by: str = "unrecorded"  # not part of the digest
    derived_from: DerivedFrom | None = None
    copied_from: CopiedFrom | None = None  # of a copy: the original
    noticed: tuple[Noticed, ...] = ()  # what its weights show
    sources: tuple[SourcePin, ...] = ()  # of a combination, in the order of its manifest
    after: int | None = None  # number of the newest revision that it has to follow, 0: of none; None: of whichever


def publish(
    session: Session, new: NewRevision, principal: Principal, recorded: Collection[str] = ()
) -> tuple[RevisionRow, bool]:
    """Make a revision visible; False: the adapter has this very revision already, and nothing was changed (idempotent).

    ``recorded`` are digests of blobs that this transaction has recorded or used, so that they stay.

    The adapter is created with its first revision; the adapter above it must exist.

    Raises:
        NotFoundError: the base model, the adapter above, or the parent revision does not exist.
        ConflictError: ``other_weights``, ``parent_mismatch``, or ``renamed``: it is an old name, or below one;
            ``not_newest``, it follows another revision than the newest.
        RetractedError: it exists under an old name of the adapter, and was retracted.
        IntegrityError: the manifest does not have its digest.
    """
    if sha256_digest(new.manifest.encode()) != new.digest:
        raise IntegrityError(f"The manifest of {new.path} does not have the digest {new.digest}.")
    check_text("The message", new.message)
    check_text("The author", new.author)
    if new.copied_from is not None:
        check_text("The origin of the copy", f"{new.copied_from.registry} {new.copied_from.author}")
    place = _place(session, new)
    if place.same_id is not None:
        _lock(session, place.same_id)
        return revisions.get(session, place.same_id), False
    blobs.require(session, {file.digest for file in new.files}.difference(recorded), str(new.path))
    if place.has_old_names:
        _check_old_names(session, new)
    if place.deleted_id is not None:  # its digest is reused: its deletion can't be undone any more
        purge.purge(session, [place.deleted_id], purge.SAME_AGAIN, principal)
    _lock_sources(session, new)
    row = _insert(session, new, place)
    notices.keep_notices(session, row.id, new.noticed)
    detail: dict[str, object] = {
        "digest": row.digest,
        "parent": row.parent,
        "parent_known_by": new.parent_known_by,
        "message": row.message,
    }
    if new.created_at is not None:  # a copy: what it brings along is what somebody said
        detail |= {"author": row.author, "created_at": row.created_at.isoformat()}
    if new.copied_from is not None:
        detail |= {"copied_from": f"{new.copied_from.reference} of {new.copied_from.registry}"}
    if new.sources:
        detail |= {"sources": len(new.sources)}
    events.record(session, "publish", row.reference, principal, detail)
    return row, True


@dataclass(frozen=True)
class _Base:
    """The digests of a base model, which keeps them until the transaction ends."""

    digest: str
    files_digest: str
    table_digest: str


@dataclass(frozen=True)
class _Place:
    """The existing rows around a revision to publish."""

    base_id: int
    base: _Base
    adapter_id: int | None
    above_id: int | None  # the adapter above; None: the base model
    same_id: int | None  # the revision that is published already
    deleted_id: int | None  # the same, deleted
    parent: str  # as a reference
    has_old_names: bool


def _lock(session: Session, revision_id: int) -> None:
    """Lock a revision against deletion until the transaction ends."""
    held = select(Revision.id).where(Revision.id == revision_id).with_for_update(read=True, key_share=True)
    if session.scalar(held) is None:  # deleted meanwhile: `Database.change` retries
        raise StaleDataError(f"The revision {revision_id} was deleted in the meantime.")


def _lock_sources(session: Session, new: NewRevision) -> None:
    """Lock what a combination is made of against deletion until the transaction ends; raises `NotFoundError`."""
    keys = [one.revision_id for one in new.sources]
    if not keys:
        return
    held = select(Revision.id).where(Revision.id.in_(keys)).order_by(Revision.id)
    there = session.scalars(held.with_for_update(read=True, key_share=True), execution_options=IGNORE_RIGHTS).all()
    if len(there) < len(keys):
        raise NotFoundError(f"A source of {new.path} was deleted in the meantime.")


def _place(session: Session, new: NewRevision) -> _Place:
    """Check the base model and the parent, and lock them until the transaction ends."""
    if new.path.is_base:
        raise UsageError(f"{new.path} is a base model: the path of an adapter is expected, such as {new.path}/NAME.")
    above = None if new.path.parent is None or new.path.parent.is_base else new.path.parent
    given = {
        "base": new.path.base,
        "path": str(new.path),
        "above": None if above is None else str(above),
        "parent_id": new.parent_id,
        "digest": new.digest,
    }
    found = session.execute(_around(new.parent_id is not None), given, execution_options=INCLUDE_DELETED).one_or_none()
    if found is None and new.parent_id is not None:  # find out which one is missing
        found = session.execute(_around(on_parent=False), given, execution_options=INCLUDE_DELETED).one_or_none()
    if found is None:
        raise bases.missing(session, new.path.base)
    if found.renamed or found.above_renamed or found.base_renamed:
        old_names.check_current(session, new.path)
    if found.base_digest != new.base_digest:
        raise ConflictError(
            f"{new.path} was checked against the weights {new.base_digest}, but {new.path.base} has "
            f"{found.base_digest}.",
            code="other_weights",
        )
    if above is not None and found.above_id is None:
        raise revisions.missing_adapter(session, above)
    if new.parent_id is not None and found.parent_number is None:
        raise NotFoundError(f"The parent revision of {new.path} no longer exists.")
    parent = new.path.base if new.parent_id is None else f"{found.parent_path}@{found.parent_number}"
    if found.parent_adapter_id != found.above_id:
        other = f"the base model {parent}" if new.parent_id is None else parent
        wanted = f"the base model {new.path.base}" if above is None else f"a revision of {above}"
        raise ConflictError(
            f"{new.path} can't have {other} as parent: the path says that {wanted} is expected.",
            code="parent_mismatch",
        )
    there = found.same_id if found.same_live else None
    gone = None if found.same_live else found.same_id
    base = _Base(found.base_digest, found.base_files_digest, found.base_table_digest)
    return _Place(found.base_id, base, found.adapter_id, found.above_id, there, gone, parent, found.has_old_names)


@cache  # made once: it takes longer to make than to run
def _around(on_parent: bool) -> Select[*tuple[Any, ...]]:
    """The base model, and what exists of the adapter, the one above, the parent and the revision itself.

    Nobody deletes the base model until the transaction ends, nor, ``on_parent``, the parent, which has to exist.
    """
    above, parent_adapter, old = (
        aliased(Adapter),
        aliased(Adapter),
        aliased(Adapter),
    )  # of which the session may see nothing
    same, parent = aliased(Revision), aliased(Revision)
    there = exists().where(Revision.adapter_id == above.id, live(Revision))
    pinned = and_(parent.id == bindparam("parent_id"), live(parent))
    held: list[Any] = [BaseModelRecord, parent] if on_parent else [BaseModelRecord]
    return (
        select(
            BaseModelRecord.id.label("base_id"),
            BaseModelRecord.digest.label("base_digest"),
            BaseModelRecord.files_digest.label("base_files_digest"),
            BaseModelRecord.table_digest.label("base_table_digest"),
            Adapter.id.label("adapter_id"),
            above.id.label("above_id"),
            same.id.label("same_id"),
            live(same).label("same_live"),
            parent.adapter_id.label("parent_adapter_id"),
            parent_adapter.path.label("parent_path"),
            parent.number.label("parent_number"),
            Adapter.renamed_to.is_not(None).label("renamed"),
            above.renamed_to.is_not(None).label("above_renamed"),
            BaseModelRecord.renamed_to.is_not(None).label("base_renamed"),
            exists().where(old.renamed_to == bindparam("path")).label("has_old_names"),
        )
        .select_from(BaseModelRecord)
        .outerjoin(Adapter, Adapter.path == bindparam("path"))
        .outerjoin(same, (same.adapter_id == Adapter.id) & (same.digest == bindparam("digest")))
        .outerjoin(above, (above.path == bindparam("above")) & there)
        .join(parent, pinned, isouter=not on_parent)
        .outerjoin(parent_adapter, parent_adapter.id == parent.adapter_id)
        .where(BaseModelRecord.name == bindparam("base"), live(BaseModelRecord))
        .with_for_update(read=True, key_share=True, of=held)
    )


def _insert(session: Session, new: NewRevision, place: _Place) -> RevisionRow:
    adapter_id = place.adapter_id or make_adapter(
        session,
        {
            "path": str(new.path),
            "name": new.path.name,
            "base_id": place.base_id,
            "parent_id": place.above_id,
            "next_number": 1,
            "created_at": datetime.now(UTC),
        },
    )
    columns: dict[str, Any] = {
        "adapter_id": adapter_id,
        "digest": new.digest,
        "parent_id": new.parent_id,
        "manifest": new.manifest,
        "message": new.message,
        "author": new.author,
        "created_at": (new.created_at or datetime.now(UTC)).astimezone(UTC),
        "rank": new.rank,
        "parameters": new.parameters,
        "size": new.size,
        "trained_on": new.trained_on,
    }
    files = [{"path": file.path, "digest": file.digest} for file in new.files]
    targets = [
        {"name": group.name, "modules": group.modules, "ranks": list(group.ranks), "scalings": list(group.scalings)}
        for group in new.targets
    ]
    if new.after is not None:
        _check_newest(session, new, adapter_id, new.after)
    # The same revision, published concurrently, violates a unique key: `Database.change` retries.
    written = columns | {
        "notices": list(new.notices),
        "source": new.source,
        "parent_known_by": new.parent_known_by,
    }
    if new.derived_from is not None:
        written["derived_from"] = provenance.kept(new.derived_from)
    if new.copied_from is not None:
        written |= {"copied_from": new.copied_from.model_dump(mode="json")}
    if new.sources:
        written |= {"combined": True}
    commits = digits_of(new.path, new.digest, place.base)
    key, number = write(session, written, _number(session, new, adapter_id), commits, files, targets)
    pins = [
        {"revision_id": key, "place": place, "source_id": one.revision_id, "weight": one.weight}
        for place, one in enumerate(new.sources)
    ]
    if pins:
        session.execute(insert(table_of(RevisionSource)), pins)
    return RevisionRow(
        id=key,
        number=number,
        path=str(new.path),
        parent=place.parent,
        base_id=place.base_id,
        base=new.path.base,
        notices=new.notices,
        retracted=None,
        combined=bool(new.sources),
        **columns,
    )


def _check_newest(session: Session, new: NewRevision, adapter_id: int, after: int) -> None:
    """Refuse a revision that follows another one than the newest.

    Two at once: the second waits here, and then finds the revision of the first.
    """
    session.execute(select(Adapter.id).where(Adapter.id == adapter_id).with_for_update())
    newest = session.scalar(select(func.max(Revision.number)).where(Revision.adapter_id == adapter_id)) or 0
    if newest != after:
        was = f"{new.path}@{after}" if after else "none"
        raise ConflictError(
            f"{new.path} has a newer revision than the one that this is based on, {was}: look at it, and push again.",
            code="not_newest",
        )


def _check_old_names(session: Session, new: NewRevision) -> None:
    """Refuse content that was retracted under an old name: it would be available again."""
    same = (
        select(Revision.number, Revision.retracted_at, Revision.retracted_by, Revision.retracted_reason, Adapter.path)
        .join(Adapter, Adapter.id == Revision.adapter_id)
        .where(Adapter.path.in_(old_names.all_names(session, str(new.path))), Revision.digest == new.digest)
        .order_by(Revision.id)
        .with_for_update(read=True, of=Revision)  # as a retraction holds them
    )
    for row in session.execute(same, execution_options={**IGNORE_RIGHTS, **INCLUDE_DELETED}):
        if row.retracted_at is not None and row.path != str(new.path):
            raise RetractedError(
                f"{new.path} has this content already under an older name, where it was retracted by "
                f"{row.retracted_by} on {row.retracted_at:%Y-%m-%d}: {row.retracted_reason}"
            )


def _number(session: Session, new: NewRevision, adapter_id: int) -> int | None:
    """The number of a copy's original, unless it is or was taken here; None: the next one."""
    if new.number is None:
        return None
    held = select(Adapter.next_number).where(Adapter.id == adapter_id, Adapter.renamed_to.is_(None)).with_for_update()
    following = session.scalar(held)
    if following is None:
        raise renamed_meanwhile(new.path)
    if new.number >= following:
        session.execute(update(Adapter).where(Adapter.id == adapter_id).values(next_number=new.number + 1))
        return new.number
    return new.number if _is_free(session, new.path, adapter_id, new.number) else None


def _is_free(session: Session, path: Path, adapter_id: int, number: int) -> bool:
    taken = select(Revision.id).where(Revision.adapter_id == adapter_id, Revision.number == number)
    deleted = select(EventRecord.id).where(EventRecord.action == "delete", EventRecord.subject == f"{path}@{number}")
    queries = (taken, deleted)
    options = {**IGNORE_RIGHTS, **INCLUDE_DELETED}
    return all(session.scalar(query.limit(1), execution_options=options) is None for query in queries)


def new_summary(
    session: Session,
    row: RevisionRow,
    new: NewRevision,
    *,
    tags: Iterable[str],
    metrics: Mapping[str, float],
    annotations: Mapping[str, str],
) -> RevisionSummary:
    """What `registry.catalogue.tree.browse.summary` answers of ``row``, which was made of ``new`` and labelled so.

    What is above it may have changed meanwhile, and is read.
    """
    behind, retracted, derived_from = False, None, None
    if row.parent_id is not None or row.combined:
        above = ancestry(session, select(Revision.id).where(Revision.id == row.id))
        behind, retracted = row.id in above.behind, above.retracted.get(row.id)
    if new.derived_from is not None:
        derived_from = provenance.shown(session, {row.id: provenance.kept(new.derived_from)}).get(row.id)
    return RevisionSummary(
        reference=row.reference,
        path=row.path,
        number=row.number,
        digest=row.digest,
        parent=row.parent,
        behind=behind,
        rank=row.rank,
        parameters=row.parameters,
        size=row.size,
        message=row.message,
        author=row.author,
        created_at=row.created_at,
        tags=tuple(sorted(set(tags))),
        metrics=dict(sorted(metrics.items())),
        annotations=dict(sorted(annotations.items())),
        trained_on=row.trained_on,
        notices=row.notices,
        retracted=retracted,
        source=new.source,
        parent_known_by=new.parent_known_by,
        derived_from=derived_from,
        copied_from=new.copied_from,
        sources=sources_shown(session, [row.id]).get(row.id, ()) if row.combined else (),
    )
