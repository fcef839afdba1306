"""Files that Hub clients pushed, until the others of their revision are there too."""

import sqlalchemy as sa
from alembic import op

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None

# Programs of the schema before know nothing of pushes, and miss nothing.
OLDEST = "0015"

ORDERED = sa.String().with_variant(sa.String(collation="C"), "postgresql")
TIME = sa.DateTime(timezone=True)


def _wait_briefly_for_locks() -> None:
    # A schema change that waits for a lock makes every later query wait behind it.
    if op.get_context().dialect.name == "postgresql":
        op.execute("SET LOCAL lock_timeout = '5s'")


def upgrade() -> None:
    _wait_briefly_for_locks()
    op.create_table(
        "pushed_files",
        sa.Column("path", ORDERED, nullable=False),
        sa.Column("owner", ORDERED, nullable=False),
        sa.Column("name", ORDERED, nullable=False),
        sa.Column("data", sa.LargeBinary(), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("upload_id", ORDERED, nullable=True),
        sa.Column("expires_at", TIME, nullable=False),
        sa.ForeignKeyConstraint(
            ["upload_id"], ["uploads.id"], name=op.f("fk_pushed_files_upload_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("path", "owner", "name", name=op.f("pk_pushed_files")),
    )
    op.create_index(op.f("ix_pushed_files_upload_id"), "pushed_files", ["upload_id"])
    op.create_index(op.f("ix_pushed_files_expires_at"), "pushed_files", ["expires_at"])
    op.execute(f"INSERT INTO compatibility (version, oldest) VALUES ('{revision}', '{OLDEST}')")  # noqa: S608 - two constants


def downgrade() -> None:
    _wait_briefly_for_locks()
    op.execute(f"DELETE FROM compatibility WHERE version = '{revision}'")  # noqa: S608 - a constant
    op.drop_table("pushed_files")
