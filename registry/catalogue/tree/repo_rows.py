"""Queries of the Hub-compatible views."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from functools import cache

from sqlalchemy import Row, Select, bindparam, select
from sqlalchemy.orm import Session

from registry.catalogue.database.tables import HAS_REVISIONS, Adapter, BaseModelRecord, Revision, Tag
from registry.catalogue.database.team_tables import MaterialisationRecord
from registry.catalogue.tree import revisions
from registry.reference import Path
from registry.schemas import ArtifactKind

Numbered = Row[int, int, str, str, str, datetime]


def created_at(session: Session, path: Path) -> datetime:
    """When an adapter came to be.

    Raises:
        NotFoundError: there is no such adapter; offers the nearest.
    """
    found = session.scalar(_created(), {"path": str(path)})
    if found is None:
        raise revisions.missing_adapter(session, path)
    return found


@cache  # made once: it takes longer to make than to run
def _created() -> Select[datetime]:
    return select(Adapter.created_at).where(Adapter.path == bindparam("path"), HAS_REVISIONS)


def numbered(
    session: Session, path: Path, *, newest: int | None = None, below: int | None = None, limit: int | None = None
) -> Sequence[Numbered]:
    """Key, number, digest, message, author and time of an adapter's revisions, newest first."""
    query = (
        select(Revision.id, Revision.number, Revision.digest, Revision.message, Revision.author, Revision.created_at)
        .join(Adapter, Adapter.id == Revision.adapter_id)
        .where(Adapter.path == str(path))
    )
    if newest is not None:
        query = query.where(Revision.number <= newest)
    if below is not None:
        query = query.where(Revision.number < below)
    return session.execute(query.order_by(Revision.number.desc()).limit(limit)).all()


def keys(path: Path) -> Select[int]:
    """A query for the keys of an adapter's revisions."""
    return select(Revision.id).join(Adapter, Adapter.id == Revision.adapter_id).where(Adapter.path == str(path))


def tags(session: Session, path: Path) -> tuple[tuple[str, int], ...]:
    """The tags of an adapter, by name, and the keys of the revisions that they name."""
    query = select(Tag.name, Tag.revision_id).join(Adapter, Adapter.id == Tag.adapter_id)
    rows = session.execute(query.where(Adapter.path == str(path))).all()
    return tuple(sorted((name, revision_id) for name, revision_id in rows))


def is_number_below(session: Session, base: str, number: int) -> bool:
    """Whether an adapter of a base model, as the session sees them, has a revision of this number."""
    return session.execute(_below(base).where(Revision.number == number).limit(1)).first() is not None


def is_tag_below(session: Session, base: str, tag: str) -> bool:
    """Whether an adapter of a base model, as the session sees them, has this tag."""
    query = _below(base).join(Tag, Tag.revision_id == Revision.id).where(Tag.name == tag)
    return session.execute(query.limit(1)).first() is not None


def is_there(session: Session, path: Path, digest: str) -> bool:
    """Whether a visible adapter has the revision of this digest."""
    return session.scalar(keys(path).where(Revision.digest == digest)) is not None


def digests_below(session: Session, base: str) -> Sequence[Row[str, str]]:
    """Path and digest of every revision of a base model's adapters, newest first."""
    return session.execute(_below(base).order_by(Revision.id.desc())).all()


def _below(base: str) -> Select[str, str]:
    return (
        select(Adapter.path, Revision.digest)
        .join(Revision, Revision.adapter_id == Adapter.id)
        .join(BaseModelRecord, BaseModelRecord.id == Adapter.base_id)
        .where(BaseModelRecord.name == base)
    )


def kept_by_others(
    session: Session, path: Path, kind: ArtifactKind, *, numerics: str, artifact_format: int
) -> Sequence[tuple[int, str, str]]:
    """Number, plan digest and arithmetic of an adapter's materialisations that another arithmetic made."""
    query = (
        select(Revision.number, MaterialisationRecord.plan_digest, MaterialisationRecord.numerics)
        .join(Revision, Revision.id == MaterialisationRecord.revision_id)
        .join(Adapter, Adapter.id == Revision.adapter_id)
        .where(
            Adapter.path == str(path),
            MaterialisationRecord.kind == kind,
            MaterialisationRecord.artifact_format == artifact_format,
            MaterialisationRecord.numerics != numerics,
            MaterialisationRecord.expires_at > datetime.now(UTC),
        )
    )
    return [(row.number, row.plan_digest, row.numerics or "") for row in session.execute(query)]
