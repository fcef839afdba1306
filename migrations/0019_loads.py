"""Which revisions tokens have loaded, or were told of, in an hour: what the parents of pushes are inferred from."""

import sqlalchemy as sa
from alembic import op

revision = "0019"
down_revision = "0018"
branch_labels = None
depends_on = None

# Programs of the schema before go on counting uses, and infer parents from these.
OLDEST = "0015"

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
        "loads",
        sa.Column("revision_id", KEY, nullable=False),
        sa.Column("who", ORDERED, nullable=False),
        sa.Column("hour", TIME, nullable=False),
        sa.Column("weights", sa.Boolean(), nullable=False),
        sa.ForeignKeyConstraint(
            ["revision_id"], ["revisions.id"], name=op.f("fk_loads_revision_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("revision_id", "who", "hour", "weights", name=op.f("pk_loads")),
    )
    op.create_index(op.f("ix_loads_hour"), "loads", ["hour"])
    # What was loaded before goes on counting, for a month.
    op.execute(
        "INSERT INTO loads (revision_id, who, hour, weights) "
        "SELECT revision_id, who, max(last_used_at), true FROM uses WHERE interface = 'hub' GROUP BY revision_id, who"
    )
    op.execute(f"INSERT INTO compatibility (version, oldest) VALUES ('{revision}', '{OLDEST}')")  # noqa: S608 - two constants


def downgrade() -> None:
    _wait_briefly_for_locks()
    op.execute(f"DELETE FROM compatibility WHERE version = '{revision}'")  # noqa: S608 - a constant
    op.drop_table("loads")
