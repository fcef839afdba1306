"""Statistics: figures of what revisions changed, the norms of base models, and what was noticed about weights."""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

# Programs of 0004 neither write nor read the new tables, and their rows go with what they are about. A target table
# that such a program replaces is not the one that a row of norms names any more.
OLDEST = "0004"

KEY = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
ORDERED = sa.String().with_variant(sa.String(collation="C"), "postgresql")


def _wait_briefly_for_locks() -> None:
    # A schema change that waits for a lock makes every later query wait behind it.
    if op.get_context().dialect.name == "postgresql":
        op.execute("SET LOCAL lock_timeout = '5s'")


def upgrade() -> None:
    _wait_briefly_for_locks()
    _norms()
    _statistics()
    _notices()
    _engine_answers()
    _fidelity()
    op.execute(f"INSERT INTO compatibility (version, oldest) VALUES ('{revision}', '{OLDEST}')")  # noqa: S608 - two constants


def _norms() -> None:
    op.create_table(
        "base_norms",
        sa.Column("base_id", KEY, nullable=False),
        sa.Column("format", sa.BigInteger(), nullable=False),
        sa.Column("table_digest", ORDERED, nullable=False),
        sa.Column("document", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(
            ["base_id"], ["base_models.id"], name=op.f("fk_base_norms_base_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("base_id", name=op.f("pk_base_norms")),
    )


def _statistics() -> None:
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


def _notices() -> None:
    op.create_table(
        "sketches",
        sa.Column("revision_id", KEY, nullable=False),
        sa.Column("format", sa.BigInteger(), nullable=False),
        sa.Column("noticed", sa.Boolean(), nullable=False),
        sa.Column("relative", sa.Boolean(), nullable=False),
        sa.Column("direction", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(
            ["revision_id"], ["revisions.id"], name=op.f("fk_sketches_revision_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("revision_id", name=op.f("pk_sketches")),
    )
    op.create_table(
        "notices",
        sa.Column("id", KEY, nullable=False),
        sa.Column("revision_id", KEY, nullable=False),
        sa.Column("other_id", KEY, nullable=True),
        sa.Column("code", sa.String(), nullable=False),
        sa.Column("document", sa.JSON(), nullable=False),
        sa.ForeignKeyConstraint(
            ["revision_id"], ["revisions.id"], name=op.f("fk_notices_revision_id"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(["other_id"], ["revisions.id"], name=op.f("fk_notices_other_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_notices")),
    )
    op.create_index(op.f("ix_notices_revision_id"), "notices", ["revision_id"])
    op.create_index(op.f("ix_notices_other_id"), "notices", ["other_id"])


def _engine_answers() -> None:
    op.create_table(
        "engine_answers",
        sa.Column("revision_id", KEY, nullable=False),
        sa.Column("engine", ORDERED, nullable=False),
        sa.Column("rules", ORDERED, nullable=False),
        sa.Column("reasons", sa.JSON(), nullable=False),
        sa.Column("rank", sa.BigInteger(), nullable=True),
        sa.ForeignKeyConstraint(
            ["revision_id"], ["revisions.id"], name=op.f("fk_engine_answers_revision_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("revision_id", "engine", name=op.f("pk_engine_answers")),
    )


def _fidelity() -> None:
    op.create_table(
        "materialised_fidelity",
        sa.Column("materialisation_id", ORDERED, nullable=False),
        sa.Column("rows", sa.String(), nullable=False),
        sa.Column("relative_error", sa.Double(), nullable=True),
        sa.Column("unchanged_share", sa.Double(), nullable=True),
        sa.Column("surviving_share", sa.Double(), nullable=True),
        sa.Column("document", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(
            ["materialisation_id"],
            ["materialisations.id"],
            name=op.f("fk_materialised_fidelity_materialisation_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("materialisation_id", name=op.f("pk_materialised_fidelity")),
    )


def downgrade() -> None:
    _wait_briefly_for_locks()
    op.execute(f"DELETE FROM compatibility WHERE version = '{revision}'")  # noqa: S608 - a constant
    op.drop_table("notices")
    op.drop_table("sketches")
    op.drop_table("engine_answers")
    op.drop_table("materialised_fidelity")
    op.drop_table("statistic_values")
    op.drop_table("statistics")
    op.drop_table("base_norms")
