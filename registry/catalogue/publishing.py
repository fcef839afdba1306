"""The one short transaction that makes a revision visible: its number, its parent, its files."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from sqlalchemy import select
from sqlalchemy.exc import IntegrityError as ConstraintError
from sqlalchemy.orm import Session

from registry.catalogue import bases, blobs, events, revisions
from registry.catalogue.blobs import FileRef
from registry.catalogue.revisions import RevisionRow
from registry.catalogue.sight import EVERYTHING
from registry.catalogue.tables import Adapter, BaseModelRecord, EventRecord, Revision, RevisionFile, RevisionTarget
from registry.catalogue.texts import check_text
from registry.digest import sha256_digest
from registry.errors import ConflictError, IntegrityError, NotFoundError, UsageError
from registry.reference import Path
from registry.rights import Principal
from registry.schemas import TargetGroup


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
    created_at: datetime | None = None  # of a copy: when it was published first


def publish(session: Session, new: NewRevision, principal: Principal) -> tuple[RevisionRow, bool]:
    """Make a revision visible; False: the adapter has this very revision already, and nothing was changed.

    The adapter is made with its first revision; the adapter above it must be there.

    Raises:
        NotFoundError: the base model, the adapter above, or the parent revision does not exist.
        ConflictError: ``other_weights`` or ``parent_mismatch``.
        IntegrityError: the manifest is not what its digest says.
    """
    if sha256_digest(new.manifest.encode()) != new.digest:
        raise IntegrityError(f"The manifest of {new.path} does not have the digest {new.digest}.")
    check_text("The message", new.message)
    check_text("The author", new.author)
    base_id = _check_base(session, new)
    above_id = _check_parent(session, new)
    adapter = _adapter(session, new.path, base_id, above_id)
    same = session.scalar(select(Revision.id).where(Revision.adapter_id == adapter.id, Revision.digest == new.digest))
    if same is not None:
        return revisions.get(session, same), False
    blobs.require(session, [file.digest for file in new.files], str(new.path))
    row = _insert(session, new, adapter)
    events.record(
        session,
        "publish",
        row.reference,
        principal,
        {"digest": row.digest, "parent": row.parent, "message": row.message},
    )
    session.flush()
    return row, True


def _check_base(session: Session, new: NewRevision) -> int:
    if new.path.is_base:
        raise UsageError(f"{new.path} is a base model: the path of an adapter is expected, such as {new.path}/NAME.")
    found = session.execute(
        select(BaseModelRecord.id, BaseModelRecord.digest).where(BaseModelRecord.name == new.path.base)
    ).one_or_none()
    if found is None:
        raise bases.missing(session, new.path.base)
    if found.digest != new.base_digest:
        raise ConflictError(
            f"{new.path} was checked against the weights {new.base_digest}, but {new.path.base} has {found.digest}.",
            code="other_weights",
        )
    base_id: int = found.id
    return base_id


def _check_parent(session: Session, new: NewRevision) -> int | None:
    """The key of the adapter above, None for the base model."""
    above = new.path.parent
    expected = None if above is None or above.is_base else revisions.adapter(session, above, everything=True)
    parent = None
    if new.parent_id is not None:
        parent = session.execute(
            select(Revision.adapter_id, Adapter.path, Revision.number)
            .join(Adapter, Adapter.id == Revision.adapter_id)
            .where(Revision.id == new.parent_id),
            execution_options=EVERYTHING,
        ).one_or_none()
        if parent is None:
            raise NotFoundError(f"The parent revision of {new.path} does not exist any more.")
    if (None if parent is None else parent.adapter_id) != expected:
        given = f"the base model {new.path.base}" if parent is None else f"{parent.path}@{parent.number}"
        wanted = f"the base model {above}" if expected is None else f"a revision of {above}"
        raise ConflictError(
            f"{new.path} can't have {given} as parent: the path says that {wanted} is expected.",
            code="parent_mismatch",
        )
    return expected


def _adapter(session: Session, path: Path, base_id: int, above_id: int | None) -> Adapter:
    """The adapter's row, locked: who holds it gives the next number."""
    query = select(Adapter).where(Adapter.path == str(path)).with_for_update()
    found = session.scalar(query)
    if found is None:
        made = Adapter(
            path=str(path),
            name=path.name,
            base_id=base_id,
            parent_id=above_id,
            next_number=1,
            created_at=datetime.now(UTC),
        )
        try:
            with session.begin_nested():
                session.add(made)
        except ConstraintError:  # another process made it meanwhile, where writers are not alone (PostgreSQL)
            return session.scalars(query).one()
        return made
    return found


def _insert(session: Session, new: NewRevision, adapter: Adapter) -> RevisionRow:
    row = Revision(
        adapter_id=adapter.id,
        number=_number(session, new, adapter),
        digest=new.digest,
        parent_id=new.parent_id,
        manifest=new.manifest,
        message=new.message,
        author=new.author,
        created_at=new.created_at or datetime.now(UTC),
        rank=new.rank,
        parameters=new.parameters,
        size=new.size,
        trained_on=new.trained_on,
        notices=list(new.notices),
    )
    adapter.next_number = max(adapter.next_number, row.number + 1)
    session.add(row)
    session.flush()
    session.add_all(RevisionFile(revision_id=row.id, path=file.path, digest=file.digest) for file in new.files)
    session.add_all(
        RevisionTarget(
            revision_id=row.id,
            name=group.name,
            modules=group.modules,
            ranks=list(group.ranks),
            scalings=list(group.scalings),
        )
        for group in new.targets
    )
    session.flush()
    return revisions.get(session, row.id)


def _number(session: Session, new: NewRevision, adapter: Adapter) -> int:
    """The next number; for a copy the one that it had, unless another revision has it here, or had it."""
    wanted = new.number
    if wanted is None or wanted >= adapter.next_number:
        return wanted or adapter.next_number
    taken = select(Revision.id).where(Revision.adapter_id == adapter.id, Revision.number == wanted)
    deleted = select(EventRecord.id).where(
        EventRecord.action == "delete", EventRecord.subject == f"{new.path}@{wanted}"
    )
    for query in (taken, deleted):
        if session.scalar(query.limit(1), execution_options=EVERYTHING) is not None:
            return adapter.next_number
    return wanted
