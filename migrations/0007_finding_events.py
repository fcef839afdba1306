"""Events are found by who did them, their kind and their time."""

from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

# Only indexes: programs of 0004 work as before.
OLDEST = "0004"

INDEXES = {
    "ix_events_actor_id": ["actor", "id"],
    "ix_events_action_id": ["action", "id"],
    "ix_events_at": ["at"],
}


def _wait_briefly_for_locks() -> None:
    # A schema change that waits for a lock makes every later query wait behind it.
    if op.get_context().dialect.name == "postgresql":
        op.execute("SET LOCAL lock_timeout = '5s'")


def upgrade() -> None:
    _wait_briefly_for_locks()
    for name, columns in INDEXES.items():
        op.create_index(op.f(name), "events", columns)
    op.execute(f"INSERT INTO compatibility (version, oldest) VALUES ('{revision}', '{OLDEST}')")  # noqa: S608 - two constants


def downgrade() -> None:
    _wait_briefly_for_locks()
    op.execute(f"DELETE FROM compatibility WHERE version = '{revision}'")  # noqa: S608 - a constant
    for name in INDEXES:
        op.drop_index(op.f(name), "events")
