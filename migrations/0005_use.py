"""Use: how often a revision was asked for as weights, by day, interface and token; and events by their subject."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

# Programs of 0004 neither write nor read the new table, and its rows go with the revisions that they delete.
OLDEST = "0004"

TIME = sa.DateTime(timezone=True)
KEY = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
ORDERED = sa.String().with_variant(sa.String(collation="C"), "postgresql")


def _wait_briefly_for_locks() -> None:
    # A schema change that waits for a lock makes every later query wait behind it.
    if op.get_context().dialect.name == "postgresql":
        op.execute("SET LOCAL lock_timeout = '5s'")


def upgrade() -> None:
    _wait_briefly_for_locks()
    op.create_table(
        "uses",
        sa.Column("revision_id", KEY, nullable=False),
        sa.Column("day", sa.Date(), nullable=False),
        sa.Column("interface", ORDERED, nullable=False),
        sa.Column("who", ORDERED, nullable=False),
        sa.Column("count", sa.BigInteger(), nullable=False),
        sa.Column("last_used_at", TIME, nullable=False),
        sa.ForeignKeyConstraint(
            ["revision_id"], ["revisions.id"], name=op.f("fk_uses_revision_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("revision_id", "day", "interface", "who", name=op.f("pk_uses")),
    )
    op.create_index(op.f("ix_uses_day"), "uses", ["day"])
    op.create_index(op.f("ix_events_subject_id"), "events", ["subject", "id"])
    op.execute(f"INSERT INTO compatibility (version, oldest) VALUES ('{revision}', '{OLDEST}')")  # noqa: S608 - two constants


def downgrade() -> None:
    _wait_briefly_for_locks()
    op.execute(f"DELETE FROM compatibility WHERE version = '{revision}'")  # noqa: S608 - a constant
    op.drop_index(op.f("ix_events_subject_id"), "events")
    op.drop_table("uses")
