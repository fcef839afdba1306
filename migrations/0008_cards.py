"""Cards: the text that people write about an adapter."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

# Programs of 0004 know nothing of cards, and nothing that they do needs them.
OLDEST = "0004"


def upgrade() -> None:
    op.create_table(
        "cards",
        sa.Column("adapter_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("digest", sa.String().with_variant(sa.String(collation="C"), "postgresql"), nullable=False),
        sa.Column("front_matter", sa.JSON(), nullable=False),
        sa.Column("edited_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("edited_by", sa.String(), nullable=False),
        sa.ForeignKeyConstraint(["adapter_id"], ["adapters.id"], name=op.f("fk_cards_adapter_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("adapter_id", name=op.f("pk_cards")),
    )
    op.execute(f"INSERT INTO compatibility (version, oldest) VALUES ('{revision}', '{OLDEST}')")  # noqa: S608 - two constants


def downgrade() -> None:
    op.execute(f"DELETE FROM compatibility WHERE version = '{revision}'")  # noqa: S608 - a constant
    op.drop_table("cards")
