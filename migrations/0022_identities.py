"""People and machines that others vouch for: accounts, rules that give them rights, and sign-ins under way."""

import sqlalchemy as sa
from alembic import op

revision = "0022"
down_revision = "0021"
branch_labels = None
depends_on = None

# Programs of the schema before find no token of an identity: its secret is hashed in a domain of its own.
OLDEST = "0015"

ORDERED = sa.String().with_variant(sa.String(collation="C"), "postgresql")
TIME = sa.DateTime(timezone=True)
IDENTITY = ("kind", "issuer", "subject", "rule")


def _wait_briefly_for_locks() -> None:
    # A schema change that waits for a lock makes every later query wait behind it.
    if op.get_context().dialect.name == "postgresql":
        op.execute("SET LOCAL lock_timeout = '5s'")


def _tokens() -> None:
    for name in IDENTITY:
        op.add_column("tokens", sa.Column(name, ORDERED, nullable=True))
    op.add_column("tokens", sa.Column("grants", sa.JSON(), nullable=True))
    op.create_index(op.f("ix_tokens_issuer_subject"), "tokens", ["issuer", "subject"])


def _accounts() -> None:
    op.create_table(
        "accounts",
        sa.Column("issuer", ORDERED, nullable=False),
        sa.Column("subject", ORDERED, nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("groups", sa.JSON(), nullable=False),
        sa.Column("signed_in_at", TIME, nullable=False),
        sa.Column("ended_at", TIME, nullable=True),
        sa.PrimaryKeyConstraint("issuer", "subject", name=op.f("pk_accounts")),
    )


def _access_rules() -> None:
    op.create_table(
        "access_rules",
        sa.Column("name", ORDERED, nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("issuer", ORDERED, nullable=False),
        sa.Column("group_value", sa.String(), nullable=True),
        sa.Column("audience", sa.String(), nullable=True),
        sa.Column("claims", sa.JSON(), nullable=False),
        sa.Column("role", sa.String(), nullable=False),
        sa.Column("scopes", sa.JSON(), nullable=False),
        sa.Column("lifetime", sa.BigInteger(), nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("created_by", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_access_rules")),
    )
    op.create_index(op.f("ix_access_rules_issuer"), "access_rules", ["issuer"])


def _sign_ins() -> None:
    op.create_table(
        "sign_ins",
        sa.Column("digest", ORDERED, nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("code_digest", ORDERED, nullable=True),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("data", sa.JSON(), nullable=False),
        sa.Column("issuer", sa.String(), nullable=True),
        sa.Column("subject", sa.String(), nullable=True),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("expires_at", TIME, nullable=False),
        sa.Column("polled_at", TIME, nullable=True),
        sa.PrimaryKeyConstraint("digest", name=op.f("pk_sign_ins")),
        sa.UniqueConstraint("code_digest", name=op.f("uq_sign_ins_code_digest")),
    )
    op.create_index(op.f("ix_sign_ins_expires_at"), "sign_ins", ["expires_at"])


def upgrade() -> None:
    _wait_briefly_for_locks()
    _tokens()
    _accounts()
    _access_rules()
    _sign_ins()
    op.execute(f"INSERT INTO compatibility (version, oldest) VALUES ('{revision}', '{OLDEST}')")  # noqa: S608 - two constants


def downgrade() -> None:
    _wait_briefly_for_locks()
    op.execute(f"DELETE FROM compatibility WHERE version = '{revision}'")  # noqa: S608 - a constant
    for table in ("sign_ins", "access_rules", "accounts"):
        op.drop_table(table)
    # Without these columns a token of an identity would be one by hand.
    op.execute("DELETE FROM tokens WHERE kind IS NOT NULL")
    op.drop_index(op.f("ix_tokens_issuer_subject"), "tokens")
    for name in (*IDENTITY, "grants"):
        op.drop_column("tokens", name)
