"""Materialisations: artifacts stored as blobs until they expire.

An expired row stays, hidden, until a collector removes it, and keeps its bytes: it can be renewed until then.
"""

from __future__ import annotations

import zlib
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, cast

from sqlalchemy import Select, and_, bindparam, distinct, exists, func, or_, select
from sqlalchemy.orm import Session, aliased
from sqlalchemy.sql.elements import ColumnElement

from registry.catalogue.database.prepared import Prepared, reading
from registry.catalogue.database.statistics_tables import MaterialisedFidelityRecord
from registry.catalogue.database.tables import Adapter, BaseFile, BaseModelRecord, Blob, Revision, RevisionFile, UtcTime
from registry.catalogue.database.team_tables import MaterialisationRecord, MaterialisedFile
from registry.catalogue.database.visibility import IGNORE_RIGHTS, in_subtree
from registry.catalogue.store import blobs
from registry.digest import StoredFile
from registry.errors import NotFoundError
from registry.reference import Path
from registry.schemas import ArtifactKind, Fidelity, Materialisation
from registry.schemas.artifacts import ModelFidelity
from registry.schemas.form import check_text

Rows = Select[*tuple[Any, ...]]


@dataclass(frozen=True)
class MaterialisationKey:
    """Identifies a materialisation, whichever arithmetic made it."""

    revision_id: int
    plan_digest: str
    artifact_format: int


@dataclass(frozen=True)
class ListPosition:
    """A cursor into lists of materialisations: valid also when the row is gone."""

    path: str
    number: int
    created_at: datetime
    id: str


@dataclass(frozen=True)
class MaterialisationRow:
    """A materialisation with its files, by path."""

    id: str
    meaning: MaterialisationKey
    reference: str  # PATH@N
    revision: str  # digest
    kind: ArtifactKind
    rendering: str
    numerics: str | None
    notices: tuple[str, ...]
    created_at: datetime
    created_by: str
    expires_at: datetime
    files: tuple[StoredFile, ...]
    fidelity: ModelFidelity | None

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)

    @property
    def shown(self) -> Materialisation:
        """As lists show it."""
        return Materialisation(
            id=self.id,
            reference=self.reference,
            digest=self.revision,
            kind=self.kind,
            rendering=self.rendering,
            numerics=self.numerics,
            size=self.size,
            files=len(self.files),
            created_at=self.created_at,
            created_by=self.created_by,
            expires_at=self.expires_at,
            fidelity=self.fidelity,
        )


def find(
    session: Session, revision_ids: Collection[int], kind: ArtifactKind | None = None
) -> tuple[MaterialisationRow, ...]:
    """Those of some revisions that have not expired."""
    found: list[MaterialisationRow] = []
    for part in blobs.parts(sorted(set(revision_ids))):
        query = rows_query().where(MaterialisationRecord.revision_id.in_(part), _live())
        if kind is not None:
            query = query.where(MaterialisationRecord.kind == kind)
        found += values(session, query.order_by(MaterialisationRecord.created_at, MaterialisationRecord.id))
    return tuple(found)


def of_revision(session: Session, revision_id: int) -> tuple[MaterialisationRow, ...]:
    """Those of one revision that have not expired, oldest first."""
    rows = reading(session).rows(_OF_REVISION, {"id": revision_id, "now": datetime.now(UTC)})
    return tuple(_with_files(session, rows))


def of_plan(
    session: Session, path: str, number: int, plan_digest: str, artifact_format: int
) -> MaterialisationRow | None:
    """That of a plan at a revision, unless it has expired."""
    given = {"path": path, "number": number, "plan": plan_digest, "format": artifact_format, "now": datetime.now(UTC)}
    return next(iter(_with_files(session, reading(session).rows(_OF_PLAN, given))), None)


def get(session: Session, materialisation_id: str) -> MaterialisationRow:
    """One that has not expired.

    Raises:
        NotFoundError: no materialisation has this id.
        UsageError: no id can be like this.
    """
    check_text("The id of a materialisation", materialisation_id)
    found = values(session, rows_query().where(MaterialisationRecord.id == materialisation_id, _live()))
    if not found:
        raise NotFoundError(
            f"There is no materialisation {materialisation_id}: `registry materialise --list` shows all."
        )
    return found[0]


def listing(
    session: Session,
    *,
    at: Path | None = None,
    revision_id: int | None = None,
    limit: int | None = None,
    after: ListPosition | None = None,
) -> tuple[MaterialisationRow, ...]:
    """All that have not expired, or those at and under a path, or of one revision.

    By path and number, oldest first; those after ``after``.
    """
    query = rows_query().where(_live())
    if at is not None:
        query = query.where(in_subtree(at))
    if revision_id is not None:
        query = query.where(MaterialisationRecord.revision_id == revision_id)
    if after is not None:
        query = query.where(_follows(after))
    order = (Adapter.path, Revision.number, MaterialisationRecord.created_at, MaterialisationRecord.id)
    return tuple(values(session, query.order_by(*order).limit(limit)))


def expired(session: Session, now: datetime, *, limit: int) -> tuple[MaterialisationRow, ...]:
    """Expired ones, oldest first."""
    query = rows_query().where(MaterialisationRecord.expires_at <= now).order_by(MaterialisationRecord.expires_at)
    return tuple(values(session, query.limit(limit)))


def count_released(session: Session, now: datetime) -> int:
    """How many blobs only expired materialisations refer to."""
    file, keeper = aliased(MaterialisedFile), aliased(MaterialisationRecord)
    old, base_file, base = aliased(RevisionFile), aliased(BaseFile), aliased(BaseModelRecord)
    other, other_keeper = aliased(MaterialisedFile), aliased(MaterialisationRecord)
    kept = (
        exists()
        .where(other.digest == file.digest, other_keeper.expires_at > now)
        .where(other_keeper.id == other.materialisation_id)
    )
    needed = [~exists().where(one == file.digest) for one in (old.digest, base_file.digest)]
    needed.append(~exists().where(or_(base.index_blob == file.digest, base.table_blob == file.digest)))
    query = select(func.count(distinct(file.digest))).join(keeper, keeper.id == file.materialisation_id)
    return session.scalar(query.where(keeper.expires_at <= now, ~kept, *needed)) or 0


def containing(session: Session, digest: str) -> tuple[str, ...]:
    """The materialisations that contain a blob: ``PATH@N as KIND``."""
    ids = select(MaterialisedFile.materialisation_id).where(MaterialisedFile.digest == digest)
    rows = values(session, rows_query().where(MaterialisationRecord.id.in_(ids), _live()))
    return tuple(sorted(f"{row.reference} as {row.kind}" for row in rows))


def _live() -> ColumnElement[bool]:
    return MaterialisationRecord.expires_at > datetime.now(UTC)


def _follows(last: ListPosition) -> ColumnElement[bool]:
    """The condition to come later in lists."""
    order: tuple[tuple[Any, Any], ...] = (
        (Adapter.path, last.path),
        (Revision.number, last.number),
        (MaterialisationRecord.created_at, last.created_at),
        (MaterialisationRecord.id, last.id),
    )
    return or_(
        *(
            and_(*(column == value for column, value in order[:index]), order[index][0] > order[index][1])
            for index in range(len(order))
        )
    )


def rows_query() -> Rows:
    """The query that `values` needs."""
    measured = MaterialisedFidelityRecord
    return (
        select(
            MaterialisationRecord.id,
            MaterialisationRecord.revision_id,
            MaterialisationRecord.kind,
            MaterialisationRecord.rendering,
            MaterialisationRecord.plan_digest,
            MaterialisationRecord.numerics,
            MaterialisationRecord.artifact_format,
            MaterialisationRecord.notices,
            MaterialisationRecord.created_at,
            MaterialisationRecord.created_by,
            MaterialisationRecord.expires_at,
            Adapter.path,
            Revision.number,
            Revision.digest,
            measured.materialisation_id.label("measured"),
            measured.rows.label("measured_rows"),
            measured.relative_error,
            measured.unchanged_share,
            measured.surviving_share,
        )
        .outerjoin(measured, measured.materialisation_id == MaterialisationRecord.id)
        .join(Revision, Revision.id == MaterialisationRecord.revision_id)
        .join(Adapter, Adapter.id == Revision.adapter_id)
    )


def values(session: Session, query: Rows, given: Mapping[str, object] = {}) -> list[MaterialisationRow]:
    """The materialisations that a query finds, with their files."""
    return _with_files(session, session.execute(query, given).all())


def _with_files(session: Session, found: Sequence[Any]) -> list[MaterialisationRow]:
    files: dict[str, list[StoredFile]] = defaultdict(list)
    for part in blobs.parts(row.id for row in found):
        named = (
            select(MaterialisedFile.materialisation_id, *blobs.BLOB_COLUMNS, MaterialisedFile.path)
            .join(Blob, Blob.digest == MaterialisedFile.digest)
            .where(MaterialisedFile.materialisation_id.in_(part))
        )
        for one in session.execute(named, execution_options=IGNORE_RIGHTS):
            files[one.materialisation_id].append(StoredFile(*one[1:]))
    return [
        MaterialisationRow(
            id=row.id,
            meaning=MaterialisationKey(row.revision_id, row.plan_digest, row.artifact_format),
            reference=f"{row.path}@{row.number}",
            revision=row.digest,
            kind=cast(ArtifactKind, row.kind),
            rendering=row.rendering,
            numerics=row.numerics,
            notices=tuple(row.notices),
            created_at=row.created_at,
            created_by=row.created_by,
            expires_at=row.expires_at,
            files=tuple(sorted(files[row.id], key=lambda file: file.path)),
            fidelity=_figures(row),
        )
        for row in found
    ]


def _figures(row: Any) -> ModelFidelity | None:
    if row.measured is None:
        return None
    return ModelFidelity(
        rows=row.measured_rows,
        relative_error=row.relative_error,
        unchanged_share=row.unchanged_share,
        surviving_share=row.surviving_share,
    )


def fidelity(session: Session, materialisation_id: str) -> Fidelity | None:
    """What was measured while a materialisation was made; None: it was made by a version that did not measure."""
    record = MaterialisedFidelityRecord
    document = session.scalar(select(record.document).where(record.materialisation_id == materialisation_id))
    return None if document is None else Fidelity.model_validate_json(zlib.decompress(document))


def _of_revision() -> Rows:
    chosen = rows_query().where(
        MaterialisationRecord.revision_id == bindparam("id"),
        MaterialisationRecord.expires_at > bindparam("now", type_=UtcTime()),
    )
    return chosen.order_by(MaterialisationRecord.created_at, MaterialisationRecord.id)


def _of_plan() -> Rows:
    return rows_query().where(
        Adapter.path == bindparam("path"),
        Revision.number == bindparam("number"),
        MaterialisationRecord.plan_digest == bindparam("plan"),
        MaterialisationRecord.artifact_format == bindparam("format"),
        MaterialisationRecord.expires_at > bindparam("now", type_=UtcTime()),
    )


_OF_REVISION: Final = Prepared(lambda _: _of_revision())
_OF_PLAN: Final = Prepared(lambda _: _of_plan())  # queried with every artifact
