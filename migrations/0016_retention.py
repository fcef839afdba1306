"""Which revisions of an adapter are kept, where somebody set a rule."""

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None

# Programs of 0015 neither write nor read the new table: they delete nothing by rules.
OLDEST = "0015"

KEY = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def _wait_briefly_for_locks() -> None:
    # A schema change that waits for a lock makes every later query wait behind it.
    if op.get_context().dialect.name == "postgresql":
        op.execute("SET LOCAL lock_timeout = '5s'")


def upgrade() -> None:
    _wait_briefly_for_locks()
    op.create_table(
        "retention_rules",
        sa.Column("adapter_id", KEY, nullable=False),
        sa.Column("keep_last", sa.BigInteger(), nullable=True),
        sa.Column("keep_every", sa.BigInteger(), nullable=True),
        sa.Column("keep_best", sa.JSON(), nullable=False),
        sa.Column("keep_tagged", sa.Boolean(), nullable=False),
        sa.Column("set_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("set_by", sa.String(), nullable=False),
        sa.ForeignKeyConstraint(
            ["adapter_id"], ["adapters.id"], name=op.f("fk_retention_rules_adapter_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("adapter_id", name=op.f("pk_retention_rules")),
    )
    op.execute(f"INSERT INTO compatibility (version, oldest) VALUES ('{revision}', '{OLDEST}')")  # noqa: S608 - two constants


def downgrade() -> None:
    _wait_briefly_for_locks()
    op.execute(f"DELETE FROM compatibility WHERE version = '{revision}'")  # noqa: S608 - a constant
    op.drop_table("retention_rules")
