"""The deletions of an adapter's revisions are found by an index of their own, however many events the adapter has; and
events of what is under a path by stretches of their keys, however many others there are."""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

# Only indexes: programs of 0004 work as before.
OLDEST = "0004"

INDEX = "ix_events_deletions"
STRETCHES = "ix_events_stretches"
# As queries say it: SQLite uses the index only so.
DELETIONS = "action IN ('delete', 'delete undo')"


def _wait_briefly_for_locks() -> None:
    # A schema change that waits for a lock makes every later query wait behind it.
    if op.get_context().dialect.name == "postgresql":
        op.execute("SET LOCAL lock_timeout = '5s'")


def upgrade() -> None:
    _wait_briefly_for_locks()
    where = sa.text(DELETIONS)
    op.create_index(op.f(INDEX), "events", ["subject", "id"], sqlite_where=where, postgresql_where=where)
    op.create_index(op.f(STRETCHES), "events", [sa.text("(id / 8192)"), "subject"])
    op.execute(f"INSERT INTO compatibility (version, oldest) VALUES ('{revision}', '{OLDEST}')")  # noqa: S608 - two constants


def downgrade() -> None:
    _wait_briefly_for_locks()
    op.execute(f"DELETE FROM compatibility WHERE version = '{revision}'")  # noqa: S608 - a constant
    op.drop_index(op.f(STRETCHES), "events")
    op.drop_index(op.f(INDEX), "events")
