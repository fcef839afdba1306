"""What followers have of the names that they follow, as they report it."""

import sqlalchemy as sa
from alembic import op

revision = "0020"
down_revision = "0019"
branch_labels = None
depends_on = None

# Programs of the schema before know nothing of followers, and need not.
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
        "followers",
        sa.Column("key", KEY, nullable=False),
        sa.Column("who", ORDERED, nullable=False),
        sa.Column("id", ORDERED, nullable=False),
        sa.Column("actor", sa.String(), nullable=False),
        sa.Column("token", sa.String(), nullable=True),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("version", sa.String(), nullable=False),
        sa.Column("state", ORDERED, nullable=False),
        sa.Column("started_at", TIME, nullable=False),
        sa.Column("seen_at", TIME, nullable=False),
        sa.Column("lease_until", TIME, nullable=False),
        sa.PrimaryKeyConstraint("key", name=op.f("pk_followers")),
        sa.UniqueConstraint("who", "id", name=op.f("uq_followers_who_id")),
    )
    op.create_index(op.f("ix_followers_lease_until"), "followers", ["lease_until"])
    op.create_table(
        "followed_names",
        sa.Column("follower_key", KEY, nullable=False),
        sa.Column("name", ORDERED, nullable=False),
        sa.Column("path", ORDERED, nullable=False),
        sa.Column("tag", ORDERED, nullable=True),
        sa.Column("number", sa.BigInteger(), nullable=True),
        sa.Column("serves", sa.BigInteger(), nullable=True),
        sa.Column("since", TIME, nullable=True),
        sa.Column("wants", sa.BigInteger(), nullable=True),
        sa.Column("code", sa.String(), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(
            ["follower_key"], ["followers.key"], name=op.f("fk_followed_names_follower_key"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("follower_key", "name", name=op.f("pk_followed_names")),
    )
    op.create_index(
        op.f("ix_followed_names_path_name_follower_key"), "followed_names", ["path", "name", "follower_key"]
    )
    op.execute(f"INSERT INTO compatibility (version, oldest) VALUES ('{revision}', '{OLDEST}')")  # noqa: S608 - two constants


def downgrade() -> None:
    _wait_briefly_for_locks()
    op.execute(f"DELETE FROM compatibility WHERE version = '{revision}'")  # noqa: S608 - a constant
    op.drop_table("followed_names")
    op.drop_table("followers")
