"""First tables: base models, adapters, revisions and what is said about them."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

KEY = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
ORDERED = sa.String().with_variant(sa.String(collation="C"), "postgresql")
TIME = sa.DateTime(timezone=True)


def _wait_briefly_for_locks() -> None:
    # A schema change that waits for a lock makes every later query wait behind it.
    if op.get_context().dialect.name == "postgresql":
        op.execute("SET LOCAL lock_timeout = '5s'")


def upgrade() -> None:
    _wait_briefly_for_locks()
    op.create_table(
        "blobs",
        sa.Column("digest", ORDERED, nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("blocks_digest", ORDERED, nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.PrimaryKeyConstraint("digest", name=op.f("pk_blobs")),
    )
    op.create_table(
        "events",
        sa.Column("id", KEY, nullable=False),
        sa.Column("at", TIME, nullable=False),
        sa.Column("action", sa.String(), nullable=False),
        sa.Column("subject", sa.String(), nullable=False),
        sa.Column("actor", sa.String(), nullable=False),
        sa.Column("detail", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_events")),
    )
    op.create_table(
        "base_models",
        sa.Column("id", KEY, nullable=False),
        sa.Column("name", ORDERED, nullable=False),
        sa.Column("digest", ORDERED, nullable=False),
        sa.Column("table_digest", ORDERED, nullable=False),
        sa.Column("files_digest", ORDERED, nullable=False),
        sa.Column("architecture", sa.String(), nullable=True),
        sa.Column("table_source", sa.String(), nullable=False),
        sa.Column("parameters", sa.BigInteger(), nullable=False),
        sa.Column("tensors", sa.BigInteger(), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("index_blob", ORDERED, nullable=False),
        sa.Column("table_blob", ORDERED, nullable=False),
        sa.Column("notices", sa.JSON(), nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.ForeignKeyConstraint(["index_blob"], ["blobs.digest"], name=op.f("fk_base_models_index_blob")),
        sa.ForeignKeyConstraint(["table_blob"], ["blobs.digest"], name=op.f("fk_base_models_table_blob")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_base_models")),
        sa.UniqueConstraint("name", name=op.f("uq_base_models_name")),
    )
    op.create_index(op.f("ix_base_models_index_blob"), "base_models", ["index_blob"])
    op.create_index(op.f("ix_base_models_table_blob"), "base_models", ["table_blob"])

    op.create_table(
        "adapters",
        sa.Column("id", KEY, nullable=False),
        sa.Column("path", ORDERED, nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("base_id", KEY, nullable=False),
        sa.Column("parent_id", KEY, nullable=True),
        sa.Column("next_number", sa.BigInteger(), nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.ForeignKeyConstraint(["base_id"], ["base_models.id"], name=op.f("fk_adapters_base_id")),
        sa.ForeignKeyConstraint(["parent_id"], ["adapters.id"], name=op.f("fk_adapters_parent_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_adapters")),
        sa.UniqueConstraint("path", name=op.f("uq_adapters_path")),
    )
    op.create_index(op.f("ix_adapters_base_id"), "adapters", ["base_id"])
    op.create_index(op.f("ix_adapters_parent_id"), "adapters", ["parent_id"])

    op.create_table(
        "base_files",
        sa.Column("base_id", KEY, nullable=False),
        sa.Column("path", sa.String(), nullable=False),
        sa.Column("digest", ORDERED, nullable=False),
        sa.ForeignKeyConstraint(["base_id"], ["base_models.id"], name=op.f("fk_base_files_base_id")),
        sa.ForeignKeyConstraint(["digest"], ["blobs.digest"], name=op.f("fk_base_files_digest")),
        sa.PrimaryKeyConstraint("base_id", "path", name=op.f("pk_base_files")),
    )
    op.create_index(op.f("ix_base_files_digest"), "base_files", ["digest"])

    op.create_table(
        "revisions",
        sa.Column("id", KEY, nullable=False),
        sa.Column("adapter_id", KEY, nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.Column("digest", ORDERED, nullable=False),
        sa.Column("parent_id", KEY, nullable=True),
        sa.Column("manifest", sa.Text(), nullable=False),
        sa.Column("message", sa.Text(), nullable=False),
        sa.Column("author", sa.String(), nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("rank", sa.BigInteger(), nullable=False),
        sa.Column("parameters", sa.BigInteger(), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("trained_on", sa.String(), nullable=True),
        sa.Column("notices", sa.JSON(), nullable=False),
        sa.ForeignKeyConstraint(["adapter_id"], ["adapters.id"], name=op.f("fk_revisions_adapter_id")),
        sa.ForeignKeyConstraint(["parent_id"], ["revisions.id"], name=op.f("fk_revisions_parent_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_revisions")),
        sa.UniqueConstraint("adapter_id", "digest", name=op.f("uq_revisions_adapter_id_digest")),
        sa.UniqueConstraint("adapter_id", "number", name=op.f("uq_revisions_adapter_id_number")),
    )
    op.create_index(op.f("ix_revisions_parent_id"), "revisions", ["parent_id"])

    op.create_table(
        "annotations",
        sa.Column("revision_id", KEY, nullable=False),
        sa.Column("key", sa.String(), nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["revision_id"], ["revisions.id"], name=op.f("fk_annotations_revision_id")),
        sa.PrimaryKeyConstraint("revision_id", "key", name=op.f("pk_annotations")),
    )
    op.create_table(
        "metrics",
        sa.Column("revision_id", KEY, nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("value", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(["revision_id"], ["revisions.id"], name=op.f("fk_metrics_revision_id")),
        sa.PrimaryKeyConstraint("revision_id", "name", name=op.f("pk_metrics")),
    )
    op.create_index(op.f("ix_metrics_name_value"), "metrics", ["name", "value"])

    op.create_table(
        "revision_files",
        sa.Column("revision_id", KEY, nullable=False),
        sa.Column("path", sa.String(), nullable=False),
        sa.Column("digest", ORDERED, nullable=False),
        sa.ForeignKeyConstraint(["digest"], ["blobs.digest"], name=op.f("fk_revision_files_digest")),
        sa.ForeignKeyConstraint(["revision_id"], ["revisions.id"], name=op.f("fk_revision_files_revision_id")),
        sa.PrimaryKeyConstraint("revision_id", "path", name=op.f("pk_revision_files")),
    )
    op.create_index(op.f("ix_revision_files_digest"), "revision_files", ["digest"])

    op.create_table(
        "revision_targets",
        sa.Column("revision_id", KEY, nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("modules", sa.BigInteger(), nullable=False),
        sa.Column("ranks", sa.JSON(), nullable=False),
        sa.Column("scalings", sa.JSON(), nullable=False),
        sa.ForeignKeyConstraint(["revision_id"], ["revisions.id"], name=op.f("fk_revision_targets_revision_id")),
        sa.PrimaryKeyConstraint("revision_id", "name", name=op.f("pk_revision_targets")),
    )
    op.create_index(op.f("ix_revision_targets_name"), "revision_targets", ["name"])

    op.create_table(
        "tags",
        sa.Column("adapter_id", KEY, nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("revision_id", KEY, nullable=False),
        sa.ForeignKeyConstraint(["adapter_id"], ["adapters.id"], name=op.f("fk_tags_adapter_id")),
        sa.ForeignKeyConstraint(["revision_id"], ["revisions.id"], name=op.f("fk_tags_revision_id")),
        sa.PrimaryKeyConstraint("adapter_id", "name", name=op.f("pk_tags")),
    )
    op.create_index(op.f("ix_tags_name"), "tags", ["name"])
    op.create_index(op.f("ix_tags_revision_id"), "tags", ["revision_id"])


def downgrade() -> None:
    _wait_briefly_for_locks()
    for table in (
        "tags",
        "revision_targets",
        "revision_files",
        "metrics",
        "annotations",
        "revisions",
        "base_files",
        "adapters",
        "base_models",
        "events",
        "blobs",
    ):
        op.drop_table(table)
