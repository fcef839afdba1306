"""What the web pages need: who is signed in, what jobs are about, which replicas there are, and sizes by index."""

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None

# Programs of 0004 neither write nor read the new tables, and leave out what a job is about.
OLDEST = "0004"

ORDERED = sa.String().with_variant(sa.String(collation="C"), "postgresql")


def _wait_briefly_for_locks() -> None:
    # A schema change that waits for a lock makes every later query wait behind it.
    if op.get_context().dialect.name == "postgresql":
        op.execute("SET LOCAL lock_timeout = '5s'")


def upgrade() -> None:
    _wait_briefly_for_locks()
    _sessions()
    _jobs()
    _replicas()
    _sizes()
    op.execute(f"INSERT INTO compatibility (version, oldest) VALUES ('{revision}', '{OLDEST}')")  # noqa: S608 - two constants


def _sessions() -> None:
    op.create_table(
        "sessions",
        sa.Column("digest", ORDERED, nullable=False),
        sa.Column("token_id", ORDERED, nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["token_id"], ["tokens.id"], name=op.f("fk_sessions_token_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("digest", name=op.f("pk_sessions")),
    )
    op.create_index(op.f("ix_sessions_token_id_created_at"), "sessions", ["token_id", "created_at"])
    op.create_index(op.f("ix_sessions_expires_at"), "sessions", ["expires_at"])


def _jobs() -> None:
    op.add_column("operations", sa.Column("subject", sa.String(), nullable=True))
    op.create_index(op.f("ix_operations_kind_created_at_id"), "operations", ["kind", "created_at", "id"])
    op.create_index(op.f("ix_operations_kind_state_created_at_id"), "operations", ["kind", "state", "created_at", "id"])
    where = sa.text("kind <> 'notice'")
    op.create_index(
        op.f("ix_operations_asked_for"),
        "operations",
        ["created_at", "id"],
        sqlite_where=where,
        postgresql_where=where,
    )


def _replicas() -> None:
    op.create_table(
        "replicas",
        sa.Column("id", ORDERED, nullable=False),
        sa.Column("host", sa.String(), nullable=False),
        sa.Column("process", sa.BigInteger(), nullable=False),
        sa.Column("worker", sa.BigInteger(), nullable=True),
        sa.Column("version", sa.String(), nullable=False),
        sa.Column("processor", sa.String(), nullable=True),
        sa.Column("numerics", sa.String(), nullable=True),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("seen_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("figures", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_replicas")),
    )


def _sizes() -> None:
    op.create_index(op.f("ix_blobs_created_at_size"), "blobs", ["created_at", "size"])
    op.create_index(op.f("ix_revisions_sizes"), "revisions", ["adapter_id", "deleted_at", "size", "id"])


def downgrade() -> None:
    _wait_briefly_for_locks()
    op.execute(f"DELETE FROM compatibility WHERE version = '{revision}'")  # noqa: S608 - a constant
    op.drop_index(op.f("ix_revisions_sizes"), "revisions")
    op.drop_index(op.f("ix_blobs_created_at_size"), "blobs")
    op.drop_table("replicas")
    op.drop_index(op.f("ix_operations_asked_for"), "operations")
    op.drop_index(op.f("ix_operations_kind_state_created_at_id"), "operations")
    op.drop_index(op.f("ix_operations_kind_created_at_id"), "operations")
    op.drop_column("operations", "subject")
    op.drop_table("sessions")
