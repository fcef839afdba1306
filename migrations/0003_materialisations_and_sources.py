"""Materialisations: artifacts that are kept in the store; and where bases and revisions were taken from."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

# Programs of 0002 take up every operation, and fail those of a kind or a form that they don't know; their collector
# breaks off at blobs that only a materialisation has.
OLDEST = "0003"

KEY = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
ORDERED = sa.String().with_variant(sa.String(collation="C"), "postgresql")
TIME = sa.DateTime(timezone=True)


def _wait_briefly_for_locks() -> None:
    # A schema change that waits for a lock makes every later query wait behind it.
    if op.get_context().dialect.name == "postgresql":
        op.execute("SET LOCAL lock_timeout = '5s'")


def upgrade() -> None:
    _wait_briefly_for_locks()
    op.add_column("base_models", sa.Column("source", sa.String(), nullable=True))
    op.add_column("revisions", sa.Column("source", sa.String(), nullable=True))
    op.create_table(
        "materialisations",
        sa.Column("id", ORDERED, nullable=False),
        sa.Column("revision_id", KEY, nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("rendering", ORDERED, nullable=False),
        sa.Column("plan_digest", ORDERED, nullable=False),
        sa.Column("plan", sa.JSON(), nullable=False),
        sa.Column("numerics", sa.String(), nullable=True),
        sa.Column("artifact_format", sa.BigInteger(), nullable=False),
        sa.Column("notices", sa.JSON(), nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("created_by", sa.String(), nullable=False),
        sa.Column("expires_at", TIME, nullable=False),
        sa.ForeignKeyConstraint(
            ["revision_id"], ["revisions.id"], name=op.f("fk_materialisations_revision_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_materialisations")),
        sa.UniqueConstraint(
            "revision_id",
            "plan_digest",
            "artifact_format",
            name=op.f("uq_materialisations_revision_id_plan_digest_artifact_format"),
        ),
    )
    op.create_index(op.f("ix_materialisations_expires_at"), "materialisations", ["expires_at"])
    op.create_table(
        "materialised_files",
        sa.Column("materialisation_id", ORDERED, nullable=False),
        sa.Column("path", sa.String(), nullable=False),
        sa.Column("digest", ORDERED, nullable=False),
        sa.ForeignKeyConstraint(["digest"], ["blobs.digest"], name=op.f("fk_materialised_files_digest")),
        sa.ForeignKeyConstraint(
            ["materialisation_id"],
            ["materialisations.id"],
            name=op.f("fk_materialised_files_materialisation_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("materialisation_id", "path", name=op.f("pk_materialised_files")),
    )
    op.create_index(op.f("ix_materialised_files_digest"), "materialised_files", ["digest"])
    op.execute(f"INSERT INTO compatibility (version, oldest) VALUES ('{revision}', '{OLDEST}')")  # noqa: S608 - two constants


def downgrade() -> None:
    _wait_briefly_for_locks()
    op.drop_table("materialised_files")
    op.drop_table("materialisations")
    op.execute(f"DELETE FROM compatibility WHERE version = '{revision}'")  # noqa: S608 - a constant
    op.drop_column("revisions", "source")
    op.drop_column("base_models", "source")
