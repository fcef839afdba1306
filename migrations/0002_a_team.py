"""A team: keys of blobs, retractions, tokens, protected tags, uploads, operations, which programs fit the schema."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

OLDEST = "0002"  # the newest migration of the oldest program that can work with this: earlier ones know no keys

KEY = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
ORDERED = sa.String().with_variant(sa.String(collation="C"), "postgresql")
TIME = sa.DateTime(timezone=True)


def _on_postgresql() -> bool:
    return op.get_context().dialect.name == "postgresql"


def _wait_briefly_for_locks() -> None:
    # A schema change that waits for a lock makes every later query wait behind it.
    if _on_postgresql():
        op.execute("SET LOCAL lock_timeout = '5s'")


def upgrade() -> None:
    _wait_briefly_for_locks()
    _give_blobs_keys()
    with op.batch_alter_table("revisions") as batch:
        batch.add_column(sa.Column("retracted_at", TIME, nullable=True))
        batch.add_column(sa.Column("retracted_reason", sa.Text(), nullable=True))
        batch.add_column(sa.Column("retracted_by", sa.String(), nullable=True))
    with op.batch_alter_table("events") as batch:
        batch.add_column(sa.Column("token", sa.String(), nullable=True))
        batch.add_column(sa.Column("source", sa.String(), nullable=True))
    if _on_postgresql():  # subjects are compared by range now
        op.alter_column("events", "subject", type_=ORDERED, existing_type=sa.String(), existing_nullable=False)
    _make_tables()
    compatibility = op.create_table(
        "compatibility",
        sa.Column("version", ORDERED, nullable=False),
        sa.Column("oldest", ORDERED, nullable=False),
        sa.PrimaryKeyConstraint("version", name=op.f("pk_compatibility")),
    )
    op.bulk_insert(compatibility, [{"version": revision, "oldest": OLDEST}])


def _give_blobs_keys() -> None:
    with op.batch_alter_table("blobs") as batch:
        batch.add_column(sa.Column("key", ORDERED, nullable=True))
        batch.add_column(sa.Column("used_at", TIME, nullable=True))
    # Where earlier versions put a blob: blobs/sha256/ab/abcd...
    op.execute(
        "UPDATE blobs SET used_at = created_at, "
        "key = 'blobs/sha256/' || substr(digest, 8, 2) || '/' || substr(digest, 8)"
    )
    with op.batch_alter_table("blobs") as batch:
        batch.alter_column("key", existing_type=ORDERED, nullable=False)
        batch.alter_column("used_at", existing_type=TIME, nullable=False)
        batch.create_unique_constraint(op.f("uq_blobs_key"), ["key"])


def _make_tables() -> None:
    op.create_table(
        "tokens",
        sa.Column("id", ORDERED, nullable=False),
        sa.Column("digest", ORDERED, nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("role", sa.String(), nullable=False),
        sa.Column("scopes", sa.JSON(), nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("created_by", sa.String(), nullable=False),
        sa.Column("expires_at", TIME, nullable=True),
        sa.Column("revoked_at", TIME, nullable=True),
        sa.Column("last_used_at", TIME, nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_tokens")),
        sa.UniqueConstraint("digest", name=op.f("uq_tokens_digest")),
    )
    op.create_index(op.f("ix_tokens_created_at_id"), "tokens", ["created_at", "id"])
    op.create_table(
        "protected_tags",
        sa.Column("base_id", KEY, nullable=False),
        sa.Column("pattern", ORDERED, nullable=False),
        sa.ForeignKeyConstraint(["base_id"], ["base_models.id"], name=op.f("fk_protected_tags_base_id")),
        sa.PrimaryKeyConstraint("base_id", "pattern", name=op.f("pk_protected_tags")),
    )
    op.create_table(
        "uploads",
        sa.Column("id", ORDERED, nullable=False),
        sa.Column("digest", ORDERED, nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("part_size", sa.BigInteger(), nullable=False),
        sa.Column("staging_key", sa.String(), nullable=False),
        sa.Column("multipart", sa.String(), nullable=True),
        sa.Column("owner", ORDERED, nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("expires_at", TIME, nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_uploads")),
    )
    op.create_index(op.f("ix_uploads_owner_digest"), "uploads", ["owner", "digest"])
    op.create_index(op.f("ix_uploads_expires_at"), "uploads", ["expires_at"])
    op.create_table(
        "operations",
        sa.Column("id", ORDERED, nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("state", ORDERED, nullable=False),
        sa.Column("owner", ORDERED, nullable=False),
        sa.Column("principal", sa.JSON(), nullable=False),
        sa.Column("request", sa.Text(), nullable=False),
        sa.Column("stage", sa.String(), nullable=False),
        sa.Column("done", sa.BigInteger(), nullable=False),
        sa.Column("total", sa.BigInteger(), nullable=False),
        sa.Column("result", sa.Text(), nullable=True),
        sa.Column("problem", sa.Text(), nullable=True),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("updated_at", TIME, nullable=False),
        sa.Column("attempts", sa.BigInteger(), nullable=False),
        sa.Column("runner", sa.String(), nullable=True),
        sa.Column("lease_until", TIME, nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_operations")),
    )
    op.create_index(op.f("ix_operations_state_created_at"), "operations", ["state", "created_at"])
    op.create_index(op.f("ix_operations_owner_created_at"), "operations", ["owner", "created_at"])


def downgrade() -> None:
    _wait_briefly_for_locks()
    for table in ("compatibility", "operations", "uploads", "protected_tags", "tokens"):
        op.drop_table(table)
    with op.batch_alter_table("events") as batch:
        batch.drop_column("source")
        batch.drop_column("token")
    if _on_postgresql():
        op.alter_column("events", "subject", type_=sa.String(), existing_type=ORDERED, existing_nullable=False)
    with op.batch_alter_table("revisions") as batch:
        for column in ("retracted_by", "retracted_reason", "retracted_at"):
            batch.drop_column(column)
    with op.batch_alter_table("blobs") as batch:
        batch.drop_constraint(op.f("uq_blobs_key"), type_="unique")
        batch.drop_column("used_at")
        batch.drop_column("key")
