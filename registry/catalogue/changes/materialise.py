"""Creates, extends and drops materialisations; `registry.catalogue.store.materialisations` reads them."""

from __future__ import annotations

import uuid
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from sqlalchemy import delete, select
from sqlalchemy.orm import Session
from sqlalchemy.sql.elements import ColumnElement

from registry.catalogue.database import events
from registry.catalogue.database.statistics_tables import MaterialisedFidelityRecord
from registry.catalogue.database.tables import Revision
from registry.catalogue.database.team_tables import MaterialisationRecord, MaterialisedFile
from registry.catalogue.store import blobs
from registry.catalogue.store.blobs import FileRef
from registry.catalogue.store.materialisations import MaterialisationKey, MaterialisationRow, rows_query, values
from registry.catalogue.tree import revisions
from registry.rights import Principal
from registry.schemas import ArtifactKind, Fidelity

ID_PREFIX: Final = "mat_"


@dataclass(frozen=True)
class NewMaterialisation:
    """An artifact to store; all its blobs are recorded already."""

    meaning: MaterialisationKey
    kind: ArtifactKind
    rendering: str
    plan: dict[str, Any]
    numerics: str | None
    notices: tuple[str, ...]
    files: tuple[FileRef, ...]
    fidelity: Fidelity | None = None


def renew(
    session: Session, meaning: MaterialisationKey, until: datetime, principal: Principal
) -> MaterialisationRow | None:
    """Extend the expiry of the materialisation of this key to ``until``, if that is later; None if none exists."""
    _lock(session, meaning.revision_id)
    row = session.scalar(select(MaterialisationRecord).where(*_means(meaning)).with_for_update())
    if row is None:
        return None
    if row.expires_at < until:
        row.expires_at = until
        session.flush()
        _note(session, row, principal, {"renewed": True})
    return values(session, rows_query().where(MaterialisationRecord.id == row.id))[0]


def add(
    session: Session, new: NewMaterialisation, until: datetime, principal: Principal
) -> tuple[MaterialisationRow, bool]:
    """Store an artifact; False: one of this key exists already, and its expiry is extended.

    Raises:
        NotFoundError: the revision was deleted meanwhile.
        UnavailableError: bytes are not stored any more.
    """
    there = renew(session, new.meaning, until, principal)
    if there is not None:
        return there, False
    blobs.require(session, (file.digest for file in new.files), "the artifact")
    row = MaterialisationRecord(
        id=ID_PREFIX + uuid.uuid4().hex[:12],
        revision_id=new.meaning.revision_id,
        kind=new.kind,
        rendering=new.rendering,
        plan_digest=new.meaning.plan_digest,
        plan=new.plan,
        numerics=new.numerics,
        artifact_format=new.meaning.artifact_format,
        notices=list(new.notices),
        created_at=datetime.now(UTC),
        created_by=principal.name,
        expires_at=until,
    )
    session.add(row)
    session.flush()
    session.add_all(
        MaterialisedFile(materialisation_id=row.id, path=file.path, digest=file.digest) for file in new.files
    )
    if new.fidelity is not None:
        _keep_fidelity(session, row.id, new.fidelity)
    session.flush()
    _note(session, row, principal, {"rendering": row.rendering})
    return values(session, rows_query().where(MaterialisationRecord.id == row.id))[0], True


def measured(session: Session, materialisation_id: str, fidelity: Fidelity) -> MaterialisationRow | None:
    """Keep what was measured of more rows than when it was made; None: it is gone."""
    held = select(MaterialisationRecord.id).where(MaterialisationRecord.id == materialisation_id).with_for_update()
    if session.scalar(held) is None:
        return None
    record = MaterialisedFidelityRecord
    session.execute(delete(record).where(record.materialisation_id == materialisation_id))
    _keep_fidelity(session, materialisation_id, fidelity)
    session.flush()
    return values(session, rows_query().where(MaterialisationRecord.id == materialisation_id))[0]


def _keep_fidelity(session: Session, materialisation_id: str, fidelity: Fidelity) -> None:
    session.add(
        MaterialisedFidelityRecord(
            materialisation_id=materialisation_id,
            rows=fidelity.rows,
            relative_error=fidelity.relative_error,
            unchanged_share=fidelity.unchanged_share,
            surviving_share=fidelity.surviving_share,
            document=zlib.compress(fidelity.model_dump_json().encode()),
        )
    )


def drop(session: Session, rows: Iterable[MaterialisationRow], principal: Principal) -> None:
    """Drop materialisations. The grace period of their bytes restarts."""
    for row in rows:
        _forget(session, [row])
        detail = {"id": row.id, "kind": row.kind, "rendering": row.rendering}
        events.record(session, "materialise drop", row.reference, principal, detail)


def among(session: Session, revision_ids: Iterable[int]) -> set[int]:
    """Those of some revisions that `drop_of` would drop something of."""
    found: set[int] = set()
    for part in blobs.parts(sorted(revision_ids)):
        column = MaterialisationRecord.revision_id
        found.update(session.scalars(select(column).where(column.in_(part)).distinct()))
    return found


def drop_of(session: Session, revision_id: int) -> tuple[str, ...]:
    """Drop all of a deleted revision; their ids."""
    rows = values(session, rows_query().where(MaterialisationRecord.revision_id == revision_id))
    _forget(session, rows)
    return tuple(row.id for row in rows)


def forget(session: Session, rows: Sequence[MaterialisationRow], now: datetime) -> tuple[MaterialisationRow, ...]:
    """Delete the rows of those that are still expired; returns them. The grace period of their bytes restarts."""
    ids = [row.id for row in rows]
    held = select(MaterialisationRecord.id).where(
        MaterialisationRecord.id.in_(ids), MaterialisationRecord.expires_at <= now
    )
    still = set(session.scalars(held.order_by(MaterialisationRecord.id).with_for_update()))
    gone = tuple(row for row in rows if row.id in still)
    _forget(session, gone)
    return gone


def _forget(session: Session, rows: Sequence[MaterialisationRow]) -> None:
    if rows:
        blobs.use(session, [file.digest for row in rows for file in row.files])
        ids = [row.id for row in rows]
        session.execute(delete(MaterialisedFile).where(MaterialisedFile.materialisation_id.in_(ids)))
        fidelity = MaterialisedFidelityRecord
        session.execute(delete(fidelity).where(fidelity.materialisation_id.in_(ids)))
        session.execute(delete(MaterialisationRecord).where(MaterialisationRecord.id.in_(ids)))


def _lock(session: Session, revision_id: int) -> None:
    """Lock the revision against deletion and concurrent materialisation."""
    session.execute(select(Revision.id).where(Revision.id == revision_id).with_for_update())
    revisions.get(session, revision_id)


def _note(session: Session, row: MaterialisationRecord, principal: Principal, about: dict[str, object]) -> None:
    reference = revisions.get(session, row.revision_id).reference
    detail = {"id": row.id, "kind": row.kind, "expires_at": f"{row.expires_at:%Y-%m-%dT%H:%M:%SZ}", **about}
    events.record(session, "materialise", reference, principal, detail)


def _means(meaning: MaterialisationKey) -> tuple[ColumnElement[bool], ...]:
    return (
        MaterialisationRecord.revision_id == meaning.revision_id,
        MaterialisationRecord.plan_digest == meaning.plan_digest,
        MaterialisationRecord.artifact_format == meaning.artifact_format,
    )
