"""Statistics: figures of what revisions changed, kept once they are computed."""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

# Programs of 0004 know nothing of statistics, and rows of them go with their revisions.
OLDEST = "0004"

KEY = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
ORDERED = sa.String().with_variant(sa.String(collation="C"), "postgresql")


def upgrade() -> None:
    op.create_table(
        "statistics",
        sa.Column("revision_id", KEY, nullable=False),
        sa.Column("delta", ORDERED, nullable=False),
        sa.Column("format", sa.BigInteger(), nullable=False),
        sa.Column("relative", sa.Boolean(), nullable=False),
        sa.Column("document", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(
            ["revision_id"], ["revisions.id"], name=op.f("fk_statistics_revision_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("revision_id", "delta", name=op.f("pk_statistics")),
    )
    op.create_table(
        "statistic_values",
        sa.Column("revision_id", KEY, nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("value", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(
            ["revision_id"], ["revisions.id"], name=op.f("fk_statistic_values_revision_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("revision_id", "name", name=op.f("pk_statistic_values")),
    )
    op.create_index(
        op.f("ix_statistic_values_name_value_revision_id"), "statistic_values", ["name", "value", "revision_id"]
    )
    op.execute(f"INSERT INTO compatibility (version, oldest) VALUES ('{revision}', '{OLDEST}')")  # noqa: S608 - two constants


def downgrade() -> None:
    op.execute(f"DELETE FROM compatibility WHERE version = '{revision}'")  # noqa: S608 - a constant
    op.drop_table("statistic_values")
    op.drop_table("statistics")
