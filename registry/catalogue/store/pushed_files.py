"""Files that were pushed for an adapter, and wait for the others of its next revision: by path, owner and name."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from registry.catalogue.database.team_tables import PushedFileRecord, UploadRecord
from registry.catalogue.store.uploads import UploadRow, owner_of, value_of
from registry.reference import Path
from registry.rights import Principal

LIFETIME: Final = timedelta(hours=24)
REPO: Final = ""
"""The name of the row that says that there is such a repo, with nothing in it yet."""


@dataclass(frozen=True)
class PushedRow:
    """A file that waits. ``data`` is a document, or the header of weights, whose bytes are those of an upload."""

    name: str
    data: bytes
    size: int
    upload: UploadRow | None = None
    until: datetime | None = None  # how long it waits: another one of the same name has another time


def of(session: Session, path: Path, principal: Principal) -> dict[str, PushedRow]:
    """What a principal has pushed for a path and is kept, by name; empty: nothing, and no empty repo either."""
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


def put(session: Session, path: Path, principal: Principal, files: Iterable[PushedRow]) -> None:
    """Keep files for a day from now, in the place of those of the same names."""
    until = datetime.now(UTC) + LIFETIME
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


def hold(session: Session, path: Path, principal: Principal) -> None:
    """Keep other transactions from what a principal pushes for a path until this one ends, whether it waits or not.

    On PostgreSQL the row of the repo is locked. Of two that make it at once one is repeated by `Database.change`.
    """
    put(session, path, principal, [PushedRow(REPO, b"", 0)])


def waiting_bytes(session: Session, principal: Principal, *, but: Path) -> int:
    """The bytes of what waits of all pushes of a principal, without those to one path."""
    query = select(func.coalesce(func.sum(PushedFileRecord.size), 0)).where(
        PushedFileRecord.owner == owner_of(principal),
        PushedFileRecord.path != str(but),
        PushedFileRecord.expires_at > datetime.now(UTC),
    )
    return int(session.scalar(query) or 0)


def remove(session: Session, path: Path, principal: Principal, names: Collection[str] | None = None) -> None:
    """Forget files of a push by name; None: all, and that the repo is there."""
    chosen = delete(PushedFileRecord).where(
        PushedFileRecord.path == str(path), PushedFileRecord.owner == owner_of(principal)
    )
    session.execute(chosen if names is None else chosen.where(PushedFileRecord.name.in_(names)))


def forget(session: Session, now: datetime) -> None:
    """Remove what has waited too long. The bytes of its uploads end with these."""
    session.execute(delete(PushedFileRecord).where(PushedFileRecord.expires_at < now))
