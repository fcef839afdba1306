"""The digits of commits by revision, found by an index; and counts of what is there, kept by triggers."""

import hashlib

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

# Programs of 0004 write neither digits nor counts. The triggers count for them, and note that digits are missing.
OLDEST = "0004"

KEY = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
ORDERED = sa.String().with_variant(sa.String(collation="C"), "postgresql")
KINDS = ("published", "lora", "merged")
MISSING = "merged IS NULL"
OLD_NAME = "renamed_to IS NOT NULL"

# The canonical JSON whose sha256 begins with the digits. Names and digests need no escapes in JSON.
MEANT = """
'{{"base":"' || b.digest || '","base_files":"' || b.files_digest
|| '","repo":"' || b.name || '/' || replace(substr(a.path, length(b.name) + 2), '/', '.')
|| '","revision":"' || r.digest || '","table":"' || b.table_digest || '","view":"{kind}"}}'
"""
DIGITS = {
    "sqlite": "digits_0009({text})",
    "postgresql": "left(encode(sha256(convert_to({text}, 'UTF8')), 'hex'), 28)",
}

# SQLite: a row after the other.
BEGINS = """
    UPDATE base_models SET live_adapters = live_adapters + 1
    WHERE id = (SELECT base_id FROM adapters WHERE id = {row}.adapter_id AND live_revisions = 0);
    UPDATE adapters SET live_revisions = live_revisions + 1 WHERE id = {row}.adapter_id;
"""
ENDS = """
    UPDATE adapters SET live_revisions = live_revisions - 1 WHERE id = {row}.adapter_id;
    UPDATE base_models SET live_adapters = live_adapters - 1
    WHERE id = (SELECT base_id FROM adapters WHERE id = {row}.adapter_id AND live_revisions = 0);
"""
NOTES = "INSERT INTO commits (revision_id) VALUES (NEW.id) ON CONFLICT DO NOTHING;"
ON_SQLITE = {
    "revisions_noted": ("AFTER INSERT ON revisions", NOTES),
    "revisions_inserted": (
        "AFTER INSERT ON revisions WHEN NEW.deleted_at IS NULL",
        BEGINS.format(row="NEW"),
    ),
    "revisions_removed": ("AFTER DELETE ON revisions WHEN OLD.deleted_at IS NULL", ENDS.format(row="OLD")),
    "revisions_deleted": (
        "AFTER UPDATE OF deleted_at ON revisions WHEN OLD.deleted_at IS NULL AND NEW.deleted_at IS NOT NULL",
        ENDS.format(row="NEW"),
    ),
    "revisions_restored": (
        "AFTER UPDATE OF deleted_at ON revisions WHEN OLD.deleted_at IS NOT NULL AND NEW.deleted_at IS NULL",
        BEGINS.format(row="NEW"),
    ),
}

# PostgreSQL: a statement at once. A row that is changed many times in one transaction gets slower with each.
COUNTS = """
WITH changed AS (
    SELECT adapter_id, sum(change) AS change FROM ({changes}) AS each GROUP BY adapter_id HAVING sum(change) <> 0
), counted AS (
    UPDATE adapters a SET live_revisions = a.live_revisions + c.change FROM changed c WHERE a.id = c.adapter_id
    RETURNING a.base_id, (a.live_revisions > 0)::int - (a.live_revisions - c.change > 0)::int AS change
)
UPDATE base_models b SET live_adapters = b.live_adapters + c.change
FROM (SELECT base_id, sum(change) AS change FROM counted GROUP BY base_id HAVING sum(change) <> 0) c
WHERE b.id = c.base_id;
"""
NOTES_ALL = "INSERT INTO commits (revision_id) SELECT id FROM new_rows ON CONFLICT DO NOTHING;"
CAME = "SELECT adapter_id, 1 AS change FROM new_rows WHERE deleted_at IS NULL"
WENT = "SELECT adapter_id, -1 AS change FROM old_rows WHERE deleted_at IS NULL"
ON_POSTGRESQL = {
    "revisions_inserted": (
        "AFTER INSERT ON revisions REFERENCING NEW TABLE AS new_rows",
        NOTES_ALL + COUNTS.format(changes=CAME),
    ),
    "revisions_removed": (
        "AFTER DELETE ON revisions REFERENCING OLD TABLE AS old_rows",
        COUNTS.format(changes=WENT),
    ),
    "revisions_changed": (
        "AFTER UPDATE ON revisions REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows",
        COUNTS.format(changes=f"{WENT} UNION ALL {CAME}"),
    ),
}


def _digits(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:28]


def _wait_briefly_for_locks() -> None:
    # A schema change that waits for a lock makes every later query wait behind it.
    if op.get_context().dialect.name == "postgresql":
        op.execute("SET LOCAL lock_timeout = '5s'")


def upgrade() -> None:
    _wait_briefly_for_locks()
    dialect = op.get_context().dialect.name
    op.create_table(
        "commits",
        sa.Column("revision_id", KEY, nullable=False),
        *(sa.Column(kind, ORDERED, nullable=True) for kind in KINDS),
        sa.ForeignKeyConstraint(
            ["revision_id"], ["revisions.id"], name=op.f("fk_commits_revision_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("revision_id", name=op.f("pk_commits")),
    )
    if dialect == "sqlite":
        op.get_bind().connection.driver_connection.create_function("digits_0009", 1, _digits, deterministic=True)
    digits = ", ".join(DIGITS[dialect].format(text=MEANT.format(kind=kind)) for kind in KINDS)
    _run(
        f"INSERT INTO commits (revision_id, {', '.join(KINDS)}) SELECT r.id, {digits} FROM revisions r "  # noqa: S608 - constants
        "JOIN adapters a ON a.id = r.adapter_id JOIN base_models b ON b.id = a.base_id ORDER BY r.id"
    )
    for kind in KINDS:
        op.create_index(op.f(f"ix_commits_{kind}"), "commits", [kind])
    missing = sa.text(MISSING)
    op.create_index(
        op.f("ix_commits_missing"), "commits", ["revision_id"], sqlite_where=missing, postgresql_where=missing
    )
    # Last, since on PostgreSQL nobody reads these tables from here to the end.
    op.add_column("adapters", sa.Column("live_revisions", sa.BigInteger(), nullable=False, server_default="0"))
    op.add_column("base_models", sa.Column("live_adapters", sa.BigInteger(), nullable=False, server_default="0"))
    old_name = sa.text(OLD_NAME)
    op.create_index(
        op.f("ix_adapters_old_names"), "adapters", ["base_id"], sqlite_where=old_name, postgresql_where=old_name
    )
    _run(
        "UPDATE adapters SET live_revisions = n FROM (SELECT adapter_id, count(*) AS n FROM revisions "
        "WHERE deleted_at IS NULL GROUP BY adapter_id) AS counted WHERE adapters.id = counted.adapter_id"
    )
    _run(
        "UPDATE base_models SET live_adapters = n FROM (SELECT base_id, count(*) AS n FROM adapters "
        "WHERE live_revisions > 0 GROUP BY base_id) AS counted WHERE base_models.id = counted.base_id"
    )
    _create_triggers(dialect)
    op.execute(f"INSERT INTO compatibility (version, oldest) VALUES ('{revision}', '{OLDEST}')")  # noqa: S608 - two constants


def _run(statement: str) -> None:
    """Run a statement as it is: colons in it are no parameters."""
    op.execute(sa.text(statement.replace(":", r"\:")))


def _create_triggers(dialect: str) -> None:
    if dialect == "sqlite":
        for name, (when, body) in ON_SQLITE.items():
            _run(f"CREATE TRIGGER {name} {when} BEGIN {body} END")
        return
    for name, (when, body) in ON_POSTGRESQL.items():
        _run(f"CREATE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {body} RETURN NULL; END $$")
        _run(f"CREATE TRIGGER {name} {when} FOR EACH STATEMENT EXECUTE FUNCTION {name}()")


def downgrade() -> None:
    _wait_briefly_for_locks()
    op.execute(f"DELETE FROM compatibility WHERE version = '{revision}'")  # noqa: S608 - a constant
    if op.get_context().dialect.name == "sqlite":
        for name in ON_SQLITE:
            op.execute(f"DROP TRIGGER {name}")
    else:
        for name in ON_POSTGRESQL:
            op.execute(f"DROP TRIGGER {name} ON revisions")
            op.execute(f"DROP FUNCTION {name}()")
    op.drop_index(op.f("ix_adapters_old_names"), "adapters")
    op.drop_column("base_models", "live_adapters")
    op.drop_column("adapters", "live_revisions")
    op.drop_table("commits")
