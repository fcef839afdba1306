"""Uploads: bytes that a client sends, until they are verified and become a blob; and files pushed for a next revision.

Files that were pushed wait for the others of the revision, by path, owner and name.
"""

from __future__ import annotations

import uuid
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from sqlalchemy import delete, func, select, update
from sqlalchemy.orm import Session

from registry.catalogue.database.team_tables import PushedFileRecord, UploadRecord
from registry.catalogue.store.blobs import parts
from registry.errors import NotFoundError
from registry.reference import Path
from registry.rights import Principal

PUSHED_LIFETIME: Final = timedelta(hours=24)
REPO: Final = ""
"""The name of the row that marks a repo as created, with nothing in it yet."""


@dataclass(frozen=True)
class PushedRow:
    """A file that waits. ``data`` is a document, or the header of weights, whose bytes are those of an upload."""

    name: str
    data: bytes
    size: int
    upload: UploadRow | None = None
    until: datetime | None = None  # how long it waits: another one of the same name has another time


def pushed_of(session: Session, path: Path, principal: Principal) -> dict[str, PushedRow]:
    """What a principal has pushed for a path and is stored, by name; empty: nothing, and no empty repo either."""
    query = (
        select(PushedFileRecord, UploadRecord)
        .outerjoin(UploadRecord, UploadRecord.id == PushedFileRecord.upload_id)
        .where(
            PushedFileRecord.path == str(path),
            PushedFileRecord.owner == owner_of(principal),
            PushedFileRecord.expires_at > datetime.now(UTC),
        )
    )
    return {row.name: _value(row, upload) for row, upload in session.execute(query)}


def _value(row: PushedFileRecord, upload: UploadRecord | None) -> PushedRow:
    return PushedRow(row.name, row.data, row.size, None if upload is None else value_of(upload), row.expires_at)


def put_pushed(session: Session, path: Path, principal: Principal, files: Iterable[PushedRow]) -> None:
    """Store files for a day from now, replacing those of the same names."""
    until = datetime.now(UTC) + PUSHED_LIFETIME
    for file in files:
        session.merge(
            PushedFileRecord(
                path=str(path),
                owner=owner_of(principal),
                name=file.name,
                data=file.data,
                size=file.size,
                upload_id=None if file.upload is None else file.upload.id,
                expires_at=until,
            )
        )
    session.flush()


def hold_pushed(session: Session, path: Path, principal: Principal) -> None:
    """Keep other transactions from what a principal pushes for a path until this one ends, whether it waits or not.

    On PostgreSQL the row of the repo is locked. Of two that make it at once one is repeated by `Database.change`.
    """
    put_pushed(session, path, principal, [PushedRow(REPO, b"", 0)])


def waiting_bytes(session: Session, principal: Principal, *, but: Path) -> int:
    """The bytes of what waits of all pushes of a principal, without those to one path."""
    query = select(func.coalesce(func.sum(PushedFileRecord.size), 0)).where(
        PushedFileRecord.owner == owner_of(principal),
        PushedFileRecord.path != str(but),
        PushedFileRecord.expires_at > datetime.now(UTC),
    )
    return int(session.scalar(query) or 0)


def remove_pushed(session: Session, path: Path, principal: Principal, names: Collection[str] | None = None) -> None:
    """Forget files of a push by name; None: all, and the mark of the repo."""
    chosen = delete(PushedFileRecord).where(
        PushedFileRecord.path == str(path), PushedFileRecord.owner == owner_of(principal)
    )
    session.execute(chosen if names is None else chosen.where(PushedFileRecord.name.in_(names)))


def forget_pushed(session: Session, now: datetime) -> None:
    """Remove what has waited too long. The bytes of its uploads end with these."""
    session.execute(delete(PushedFileRecord).where(PushedFileRecord.expires_at < now))


LIFETIME: Final = timedelta(days=7)


@dataclass(frozen=True)
class UploadRow:
    """An upload. ``multipart`` is the store's own id for it, if it has one."""

    id: str
    digest: str
    size: int
    part_size: int
    staging_key: str
    multipart: str | None
    owner: str
    created_at: datetime
    expires_at: datetime


def owner_of(principal: Principal) -> str:
    """The owner of a principal's uploads and jobs: its token, or its name if it has none."""
    return principal.token or f"user {principal.name}"


def create(
    session: Session,
    digest: str,
    size: int,
    principal: Principal,
    *,
    part_size: int,
    staging_key: str,
    multipart: str | None = None,
    upload_id: str | None = None,
    lifetime: timedelta = LIFETIME,
) -> UploadRow:
    """Record a new upload; ``upload_id`` if the caller has made one with `new_id`."""
    now = datetime.now(UTC)
    row = UploadRecord(
        id=upload_id or new_id(),
        digest=digest,
        size=size,
        part_size=part_size,
        staging_key=staging_key,
        multipart=multipart,
        owner=owner_of(principal),
        created_at=now,
        expires_at=now + lifetime,
    )
    session.add(row)
    session.flush()
    return value_of(row)


def new_id() -> str:
    """An id that no upload has: 32 hex digits."""
    return uuid.uuid4().hex


def find(session: Session, digest: str, size: int, principal: Principal) -> UploadRow | None:
    """The newest open upload of these bytes by this principal, to resume."""
    query = select(UploadRecord).where(
        UploadRecord.owner == owner_of(principal),
        UploadRecord.digest == digest,
        UploadRecord.size == size,
        UploadRecord.expires_at > datetime.now(UTC),
    )
    row = session.scalar(query.order_by(UploadRecord.created_at.desc()).limit(1))
    return None if row is None else value_of(row)


def get(session: Session, upload_id: str, principal: Principal | None) -> UploadRow:
    """An open upload of this principal; None: of whoever knows its id.

    Raises:
        NotFoundError: no upload has this id, it is someone else's, or it has expired.
    """
    row = session.get(UploadRecord, upload_id)
    own = row is not None and (principal is None or row.owner == owner_of(principal))
    if row is None or not own or row.expires_at <= datetime.now(UTC):
        raise NotFoundError(f"There is no upload {upload_id}, or it has expired: start it again.")
    return value_of(row)


def open_ones(session: Session, uploads: Mapping[str, str], principal: Principal) -> tuple[UploadRow, ...]:
    """Those of some uploads (ids by digest) that are this principal's and open, and have that digest."""
    found: list[UploadRow] = []
    for part in parts(uploads.values()):
        query = select(UploadRecord).where(
            UploadRecord.id.in_(part),
            UploadRecord.owner == owner_of(principal),
            UploadRecord.expires_at > datetime.now(UTC),
        )
        found += (value_of(row) for row in session.scalars(query))
    return tuple(row for row in found if uploads.get(row.digest) == row.id)


def extend(session: Session, upload_id: str, lifetime: timedelta = LIFETIME) -> None:
    """Extend the expiry of an upload to ``lifetime`` from now."""
    until = datetime.now(UTC) + lifetime
    session.execute(
        update(UploadRecord)
        .where(UploadRecord.id == upload_id, UploadRecord.expires_at < until)
        .values(expires_at=until)
    )


def remove(session: Session, *upload_ids: str) -> None:
    """Remove uploads that became blobs or lost their bytes."""
    for part in parts(upload_ids):
        session.execute(delete(UploadRecord).where(UploadRecord.id.in_(part)))


def expired(session: Session, before: datetime, *, limit: int = 500) -> tuple[UploadRow, ...]:
    """Uploads that expired before then, oldest first."""
    query = select(UploadRecord).where(UploadRecord.expires_at < before).order_by(UploadRecord.expires_at).limit(limit)
    return tuple(value_of(row) for row in session.scalars(query))


def value_of(row: UploadRecord) -> UploadRow:
    """An upload by its row."""
    return UploadRow(
        id=row.id,
        digest=row.digest,
        size=row.size,
        part_size=row.part_size,
        staging_key=row.staging_key,
        multipart=row.multipart,
        owner=row.owner,
        created_at=row.created_at,
        expires_at=row.expires_at,
    )
