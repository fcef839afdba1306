"""Which revisions a combination is the weighted sum of."""

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None

# Programs of earlier versions would hand out a combination one of whose sources was retracted.
OLDEST = "0015"

KEY = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def _wait_briefly_for_locks() -> None:
    # A schema change that waits for a lock makes every later query wait behind it.
    if op.get_context().dialect.name == "postgresql":
        op.execute("SET LOCAL lock_timeout = '5s'")


def upgrade() -> None:
    _wait_briefly_for_locks()
    op.add_column("revisions", sa.Column("combined", sa.Boolean(), nullable=False, server_default=sa.false()))
    op.create_table(
        "revision_sources",
        sa.Column("revision_id", KEY, nullable=False),
        sa.Column("place", sa.BigInteger(), nullable=False),
        sa.Column("source_id", KEY, nullable=False),
        sa.Column("weight", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(["revision_id"], ["revisions.id"], name=op.f("fk_revision_sources_revision_id")),
        sa.ForeignKeyConstraint(["source_id"], ["revisions.id"], name=op.f("fk_revision_sources_source_id")),
        sa.PrimaryKeyConstraint("revision_id", "place", name=op.f("pk_revision_sources")),
    )
    op.create_index(op.f("ix_revision_sources_source_id"), "revision_sources", ["source_id"])
    op.execute(f"INSERT INTO compatibility (version, oldest) VALUES ('{revision}', '{OLDEST}')")  # noqa: S608 - two constants


def downgrade() -> None:
    _wait_briefly_for_locks()
    op.execute(f"DELETE FROM compatibility WHERE version = '{revision}'")  # noqa: S608 - a constant
    op.drop_table("revision_sources")
    op.drop_column("revisions", "combined")
