"""The tables, as SQLAlchemy records: what is published. `registry.catalogue.database.team_tables` has the rest.

A row that points at nothing is impossible: everything stored is a row of `blobs`, and files refer to it by foreign
key. Times are UTC. Text that is compared by range (paths, digests) has the byte order on every database.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any, Final, cast

from sqlalchemy import (
    JSON,
    BigInteger,
    ColumnElement,
    DateTime,
    Double,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    TypeDecorator,
    UniqueConstraint,
    false,
    literal_column,
    text,
)
from sqlalchemy.engine import Dialect
from sqlalchemy.orm import DeclarativeBase, InstrumentedAttribute, Mapped, mapped_column

NAMING: Final = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s",
    "pk": "pk_%(table_name)s",
}


class UtcTime(TypeDecorator[datetime]):
    """A time that is always aware and always UTC, also if the database keeps none of that (SQLite)."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        del dialect
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(f"a time without a zone: {value!r}")
        return value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        del dialect
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


# SQLite counts up only columns of the type INTEGER, which are 64 bits wide in it.
_KEY = BigInteger().with_variant(Integer, "sqlite")
ORDERED = String().with_variant(String(collation="C"), "postgresql")

Key = Annotated[int, mapped_column(_KEY, primary_key=True)]
Digest = Annotated[str, mapped_column(ORDERED)]
Time = Annotated[datetime, mapped_column(UtcTime)]


# PostgreSQL's indexes have the same conditions: see `registry.catalogue.database.team_tables.metadata`.
_IS_OLD_NAME: Final = text("renamed_to IS NOT NULL")
# An index of all rows, of which most have none, would make SQLite expect so many of any value that it reads the table.
_HAS_PARENT: Final = text("parent_id IS NOT NULL")
_IS_RETRACTED: Final = text("retracted_at IS NOT NULL")
_DELETIONS: Final = text("action IN ('delete', 'delete undo')")
_HAS_NO_DIGITS: Final = text("merged IS NULL")

STRETCH: Final = 8192
"""Keys of events that are next to each other: those without an event of a subject are passed over together."""


class Record(DeclarativeBase):
    """Base of all records."""

    metadata = MetaData(naming_convention=NAMING)
    type_annotation_map = {  # noqa: RUF012 - the name and the form are SQLAlchemy's
        str: String(),
        int: BigInteger(),
        float: Double(),
        list[Any]: JSON(),
        list[str]: JSON(),
        list[int]: JSON(),
        list[float]: JSON(),
        dict[str, Any]: JSON(),
    }


def table_of(record: type[Record]) -> Table:
    """The table behind a record: rows are written to it without what a session keeps about records."""
    return cast(Table, record.__table__)


class Blob(Record):
    """Stored bytes, and the key under which the store has them.

    `blocks_digest` is the digest of the list of block digests that range reads are checked against. `used_at` is when
    someone last relied on the bytes: a collector's grace period starts then.
    """

    __tablename__ = "blobs"
    __table_args__ = (Index(None, "created_at", "size"),)

    digest: Mapped[Digest] = mapped_column(primary_key=True)
    size: Mapped[int]
    blocks_digest: Mapped[Digest]
    created_at: Mapped[Time]
    key: Mapped[str] = mapped_column(ORDERED, unique=True)
    used_at: Mapped[Time]


class BaseModelRecord(Record):
    """A base model, known by the digest of its weights."""

    __tablename__ = "base_models"

    id: Mapped[Key]
    name: Mapped[str] = mapped_column(ORDERED, unique=True)
    digest: Mapped[Digest]
    table_digest: Mapped[Digest]
    files_digest: Mapped[Digest]
    architecture: Mapped[str | None]
    table_source: Mapped[str]
    parameters: Mapped[int]
    tensors: Mapped[int]
    size: Mapped[int]
    index_blob: Mapped[Digest] = mapped_column(ForeignKey("blobs.digest"), index=True)
    table_blob: Mapped[Digest] = mapped_column(ForeignKey("blobs.digest"), index=True)
    notices: Mapped[list[str]]
    created_at: Mapped[Time]
    source: Mapped[str | None]
    derived_from: Mapped[dict[str, Any] | None]  # what the receipt in its folder says, not proven
    deleted_at: Mapped[Time | None]  # set: no query shows it; collected after the grace period
    deleted_by: Mapped[str | None]
    renamed_to: Mapped[str | None] = mapped_column(ORDERED)  # set: an old name, and this is the newest
    live_adapters: Mapped[int] = mapped_column(server_default="0")  # with revisions, by triggers


class BaseFile(Record):
    """A file of a base model."""

    __tablename__ = "base_files"

    base_id: Mapped[int] = mapped_column(ForeignKey("base_models.id"), primary_key=True)
    path: Mapped[str] = mapped_column(primary_key=True)
    digest: Mapped[Digest] = mapped_column(ForeignKey("blobs.digest"), index=True)


class BaseRepoId(Record):
    """Another repo id under which a base model answers in the Hub views, given by an admin."""

    __tablename__ = "base_repo_ids"

    repo_id: Mapped[str] = mapped_column(ORDERED, primary_key=True)
    base_id: Mapped[int] = mapped_column(ForeignKey("base_models.id", ondelete="CASCADE"), index=True)


class Adapter(Record):
    """A node of the tree. `next_number` only grows, so that a deleted revision's number is never given again."""

    __tablename__ = "adapters"
    __table_args__ = (
        Index("ix_adapters_in_order", text("replace(path, '/', ' ')")),
        Index("ix_adapters_old_names", "base_id", sqlite_where=_IS_OLD_NAME),
        Index("ix_adapters_children", "parent_id", sqlite_where=_HAS_PARENT),
        Index("ix_adapters_new_names", "renamed_to", sqlite_where=_IS_OLD_NAME),
    )

    id: Mapped[Key]
    path: Mapped[str] = mapped_column(ORDERED, unique=True)
    name: Mapped[str]
    base_id: Mapped[int] = mapped_column(ForeignKey("base_models.id"), index=True)
    parent_id: Mapped[int | None] = mapped_column(ForeignKey("adapters.id"))
    next_number: Mapped[int]
    created_at: Mapped[Time]
    renamed_to: Mapped[str | None] = mapped_column(ORDERED)  # set: an old name; the path of the newest
    live_revisions: Mapped[int] = mapped_column(server_default="0")  # not deleted, by triggers


class Revision(Record):
    """An immutable state of an adapter, pinned to the revision it was trained on (`parent_id` null: the base model)."""

    __tablename__ = "revisions"
    __table_args__ = (
        UniqueConstraint("adapter_id", "number"),
        UniqueConstraint("adapter_id", "digest"),
        Index(None, "rank", "id"),
        Index(None, "author", "id"),
        Index(None, "created_at", "id"),
        Index(None, "digest", "id"),
        Index("ix_revisions_retracted", "id", sqlite_where=_IS_RETRACTED),
        Index("ix_revisions_children", "parent_id", sqlite_where=_HAS_PARENT),
        Index("ix_revisions_sizes", "adapter_id", "deleted_at", "size", "id"),
    )

    id: Mapped[Key]
    adapter_id: Mapped[int] = mapped_column(ForeignKey("adapters.id"))
    number: Mapped[int]
    digest: Mapped[Digest]
    parent_id: Mapped[int | None] = mapped_column(ForeignKey("revisions.id"))
    manifest: Mapped[str] = mapped_column(Text)
    message: Mapped[str] = mapped_column(Text)
    author: Mapped[str]
    created_at: Mapped[Time]
    rank: Mapped[int]
    parameters: Mapped[int]
    size: Mapped[int]
    trained_on: Mapped[str | None]
    notices: Mapped[list[str]]
    retracted_at: Mapped[Time | None]
    retracted_reason: Mapped[str | None] = mapped_column(Text)
    retracted_by: Mapped[str | None]
    source: Mapped[str | None]
    parent_known_by: Mapped[str] = mapped_column(server_default="unrecorded")
    derived_from: Mapped[dict[str, Any] | None]  # what the receipt in its folder says, not proven
    copied_from: Mapped[dict[str, Any] | None]  # registry, reference, author and time of the original, as reported
    deleted_at: Mapped[Time | None] = mapped_column(index=True)  # set: no query shows it; collected after the grace
    deleted_by: Mapped[str | None]
    deleted_tags: Mapped[list[str] | None]  # the tags that named it when it was deleted
    combined: Mapped[bool] = mapped_column(server_default=false())  # it has rows of `RevisionSource`


HAS_REVISIONS: Final = Adapter.live_revisions > 0
"""The condition that an adapter exists: one whose revisions were all deleted only keeps their numbers taken."""


class CommitRecord(Record):
    """The digits of a revision's commits in the Hub views, a column for each kind: `registry.catalogue.tree.commits`.

    A trigger writes an empty row beside each revision: programs of other versions leave it empty.
    """

    __tablename__ = "commits"
    __table_args__ = (Index("ix_commits_missing", "revision_id", sqlite_where=_HAS_NO_DIGITS),)

    revision_id: Mapped[int] = mapped_column(ForeignKey("revisions.id", ondelete="CASCADE"), primary_key=True)
    published: Mapped[str | None] = mapped_column(ORDERED, index=True)
    lora: Mapped[str | None] = mapped_column(ORDERED, index=True)
    merged: Mapped[str | None] = mapped_column(ORDERED, index=True)


class RevisionFile(Record):
    """A file of a revision."""

    __tablename__ = "revision_files"

    revision_id: Mapped[int] = mapped_column(ForeignKey("revisions.id"), primary_key=True)
    path: Mapped[str] = mapped_column(primary_key=True)
    digest: Mapped[Digest] = mapped_column(ForeignKey("blobs.digest"), index=True)


class RevisionSource(Record):
    """A revision that a combination is the weighted sum of, in the order in which they were given."""

    __tablename__ = "revision_sources"

    revision_id: Mapped[int] = mapped_column(ForeignKey("revisions.id"), primary_key=True)
    place: Mapped[int] = mapped_column(primary_key=True)
    source_id: Mapped[int] = mapped_column(ForeignKey("revisions.id"), index=True)
    weight: Mapped[float]


class RevisionTarget(Record):
    """The target modules of a revision that share a leaf name."""

    __tablename__ = "revision_targets"
    __table_args__ = (Index(None, "name", "revision_id"),)

    revision_id: Mapped[int] = mapped_column(ForeignKey("revisions.id"), primary_key=True)
    name: Mapped[str] = mapped_column(primary_key=True)
    modules: Mapped[int]
    ranks: Mapped[list[int]]
    scalings: Mapped[list[float]]


class Tag(Record):
    """A movable name for one revision of an adapter."""

    __tablename__ = "tags"
    __table_args__ = (Index(None, "name", "revision_id"),)

    adapter_id: Mapped[int] = mapped_column(ForeignKey("adapters.id"), primary_key=True)
    name: Mapped[str] = mapped_column(primary_key=True)
    revision_id: Mapped[int] = mapped_column(ForeignKey("revisions.id"), index=True)


class Metric(Record):
    """A number that was measured on a revision."""

    __tablename__ = "metrics"
    __table_args__ = (Index(None, "name", "value", "revision_id"),)

    revision_id: Mapped[int] = mapped_column(ForeignKey("revisions.id"), primary_key=True)
    name: Mapped[str] = mapped_column(primary_key=True)
    value: Mapped[float]


class Annotation(Record):
    """A free-form text about a revision."""

    __tablename__ = "annotations"

    revision_id: Mapped[int] = mapped_column(ForeignKey("revisions.id"), primary_key=True)
    key: Mapped[str] = mapped_column(primary_key=True)
    value: Mapped[str] = mapped_column(Text)


class EventRecord(Record):
    """Something that was changed, or refused."""

    __tablename__ = "events"
    __table_args__ = (
        Index(None, "subject", "id"),
        Index(None, "actor", "id"),
        Index(None, "action", "id"),
        Index("ix_events_deletions", "subject", "id", sqlite_where=_DELETIONS),
        Index("ix_events_stretches", text(f"(id / {STRETCH})"), "subject"),
    )

    id: Mapped[Key]
    at: Mapped[Time] = mapped_column(index=True)
    action: Mapped[str]
    subject: Mapped[str] = mapped_column(ORDERED)
    actor: Mapped[str]
    detail: Mapped[dict[str, Any]]
    token: Mapped[str | None]
    source: Mapped[str | None]


IS_DELETION: Final = EventRecord.action.in_([literal_column("'delete'"), literal_column("'delete undo'")])
"""The condition that an event is of deletions or of their undoing, in the words of their index."""


def in_stretch(key: ColumnElement[int] | InstrumentedAttribute[int]) -> ColumnElement[int]:
    """The number of an event's stretch, in the words of its index."""
    return key.op("/")(literal_column(str(STRETCH)))
