"""Renaming: the new name of an adapter or a base model whose rows were written anew under another name."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

# To programs of 0004 old names are adapters and base models like others: they list them, and publish to them.
OLDEST = "0004"

ORDERED = sa.String().with_variant(sa.String(collation="C"), "postgresql")


def _wait_briefly_for_locks() -> None:
    # A schema change that waits for a lock makes every later query wait behind it.
    if op.get_context().dialect.name == "postgresql":
        op.execute("SET LOCAL lock_timeout = '5s'")


def upgrade() -> None:
    _wait_briefly_for_locks()
    for table in ("adapters", "base_models"):
        op.add_column(table, sa.Column("renamed_to", ORDERED, nullable=True))
    op.create_index(op.f("ix_adapters_renamed_to"), "adapters", ["renamed_to"])
    op.execute(f"INSERT INTO compatibility (version, oldest) VALUES ('{revision}', '{OLDEST}')")  # noqa: S608 - two constants


def downgrade() -> None:
    _wait_briefly_for_locks()
    op.execute(f"DELETE FROM compatibility WHERE version = '{revision}'")  # noqa: S608 - a constant
    op.drop_index(op.f("ix_adapters_renamed_to"), "adapters")
    for table in ("base_models", "adapters"):
        op.drop_column(table, "renamed_to")
