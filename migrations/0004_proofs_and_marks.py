"""How a parent is known, where a revision was derived or copied from, and deletion as a mark that can be undone."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

# Programs of 0003 don't know the mark: they would list and hand out what was deleted.
OLDEST = "0004"

TIME = sa.DateTime(timezone=True)


def _wait_briefly_for_locks() -> None:
    # A schema change that waits for a lock makes every later query wait behind it.
    if op.get_context().dialect.name == "postgresql":
        op.execute("SET LOCAL lock_timeout = '5s'")


def upgrade() -> None:
    _wait_briefly_for_locks()
    op.add_column("revisions", sa.Column("parent_known_by", sa.String(), nullable=False, server_default="unrecorded"))
    op.add_column("revisions", sa.Column("derived_from", sa.JSON(), nullable=True))
    op.add_column("revisions", sa.Column("copied_from", sa.JSON(), nullable=True))
    op.add_column("revisions", sa.Column("deleted_at", TIME, nullable=True))
    op.add_column("revisions", sa.Column("deleted_by", sa.String(), nullable=True))
    op.add_column("revisions", sa.Column("deleted_tags", sa.JSON(), nullable=True))
    op.add_column("base_models", sa.Column("derived_from", sa.JSON(), nullable=True))
    op.add_column("base_models", sa.Column("deleted_at", TIME, nullable=True))
    op.add_column("base_models", sa.Column("deleted_by", sa.String(), nullable=True))
    op.create_index(op.f("ix_revisions_deleted_at"), "revisions", ["deleted_at"])
    op.execute(f"INSERT INTO compatibility (version, oldest) VALUES ('{revision}', '{OLDEST}')")  # noqa: S608 - two constants


def downgrade() -> None:
    _wait_briefly_for_locks()
    op.execute(f"DELETE FROM compatibility WHERE version = '{revision}'")  # noqa: S608 - a constant
    op.drop_index(op.f("ix_revisions_deleted_at"), "revisions")
    for column in ("deleted_by", "deleted_at", "derived_from"):
        op.drop_column("base_models", column)
    for column in ("deleted_tags", "deleted_by", "deleted_at", "copied_from", "derived_from", "parent_known_by"):
        op.drop_column("revisions", column)
