"""Revisions are found by parts of their texts, by every condition of a search, and by their parents, however few have
one; adapters are listed in tree order."""

from collections.abc import Iterator

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

# Only indexes, which the database itself keeps right: programs of 0004 work as before. On SQLite, a later migration
# that makes adapters, revisions or annotations anew drops their triggers, and the index in the order of the tree: it
# has to make them again.
OLDEST = "0004"

# Parents and new names by indexes without the rows that have none, the others each by one that has the key of the
# revision too.
REPLACED = {
    "ix_adapters_parent_id": ("adapters", ["parent_id"]),
    "ix_revisions_parent_id": ("revisions", ["parent_id"]),
    "ix_adapters_renamed_to": ("adapters", ["renamed_to"]),
    "ix_tags_name": ("tags", ["name"]),
    "ix_metrics_name_value": ("metrics", ["name", "value"]),
    "ix_revision_targets_name": ("revision_targets", ["name"]),
}
INDEXES = {
    "ix_tags_name_revision_id": ("tags", ["name", "revision_id"]),
    "ix_metrics_name_value_revision_id": ("metrics", ["name", "value", "revision_id"]),
    "ix_revision_targets_name_revision_id": ("revision_targets", ["name", "revision_id"]),
    "ix_revisions_rank_id": ("revisions", ["rank", "id"]),
    "ix_adapters_in_order": ("adapters", [sa.text("replace(path, '/', ' ')")]),
}
WHERE_SET = {
    "ix_adapters_children": ("adapters", "parent_id"),
    "ix_adapters_new_names": ("adapters", "renamed_to"),
    "ix_revisions_children": ("revisions", "parent_id"),
}
TRIGRAMS = {
    "ix_adapters_path_trigrams": ("adapters", ("path",)),
    "ix_revisions_message_trigrams": ("revisions", ("message",)),
    "ix_annotations_trigrams": ("annotations", ("key", "value")),
}
NO_TRIGRAMS = "Searching for text reads every revision: the role may not create the extension pg_trgm."
_ALL = """SELECT revisions.message || char(10) || coalesce((
    SELECT group_concat(key || char(10) || value, char(10)) FROM annotations WHERE revision_id = revisions.id
), '') FROM revisions"""


def _wait_briefly_for_locks() -> None:
    # A schema change that waits for a lock makes every later query wait behind it.
    if op.get_context().dialect.name == "postgresql":
        op.execute("SET LOCAL lock_timeout = '5s'")


def upgrade() -> None:
    _wait_briefly_for_locks()
    for name, (table, columns) in INDEXES.items():
        op.create_index(op.f(name), table, columns)
    for name, (table, column) in WHERE_SET.items():
        where = sa.text(f"{column} IS NOT NULL")
        op.create_index(op.f(name), table, [column], sqlite_where=where, postgresql_where=where)
    for name, (table, _) in REPLACED.items():
        op.drop_index(op.f(name), table)
    for statement in _on_postgresql() if op.get_context().dialect.name == "postgresql" else _on_sqlite():
        op.execute(statement)
    op.execute(f"INSERT INTO compatibility (version, oldest) VALUES ('{revision}', '{OLDEST}')")  # noqa: S608 - two constants


def _on_postgresql() -> Iterator[str]:
    """Trigrams by an extension, which the role may not be allowed to create."""
    yield f"""DO $$ BEGIN
        CREATE EXTENSION IF NOT EXISTS pg_trgm;
    EXCEPTION WHEN insufficient_privilege OR feature_not_supported OR undefined_file THEN
        RAISE NOTICE '{NO_TRIGRAMS}';
    END $$"""
    for name, (table, columns) in TRIGRAMS.items():
        given = ", ".join(f"{column} %1$I.gin_trgm_ops" for column in columns)
        yield f"""DO $$ DECLARE place name; BEGIN
            SELECT nspname INTO place FROM pg_extension JOIN pg_namespace ON pg_namespace.oid = extnamespace
            WHERE extname = 'pg_trgm';
            IF place IS NOT NULL THEN
                EXECUTE format('CREATE INDEX {name} ON {table} USING gin ({given})', place);
            END IF;
        END $$"""  # noqa: S608 - constants


def _on_sqlite() -> Iterator[str]:
    """Trigrams by FTS5: of the path of an adapter, and of the message and the annotations of a revision together."""
    for name in ("adapter_texts", "revision_texts"):
        # Without positions: what has all the trigrams of a text is looked at.
        yield f"CREATE VIRTUAL TABLE {name} USING fts5(text, tokenize = 'trigram', detail = 'none', columnsize = 0)"
    yield "INSERT INTO adapter_texts (rowid, text) SELECT id, path FROM adapters"
    yield "INSERT INTO revision_texts (rowid, text) " + _ALL.replace("SELECT ", "SELECT revisions.id, ", 1)
    yield """CREATE TRIGGER adapter_texts_inserted AFTER INSERT ON adapters BEGIN
        INSERT INTO adapter_texts (rowid, text) VALUES (new.id, new.path);
    END"""
    yield """CREATE TRIGGER adapter_texts_updated AFTER UPDATE OF path ON adapters BEGIN
        UPDATE adapter_texts SET text = new.path WHERE rowid = new.id;
    END"""
    yield """CREATE TRIGGER adapter_texts_deleted AFTER DELETE ON adapters BEGIN
        DELETE FROM adapter_texts WHERE rowid = old.id;
    END"""
    yield """CREATE TRIGGER revision_texts_inserted AFTER INSERT ON revisions BEGIN
        INSERT INTO revision_texts (rowid, text) VALUES (new.id, new.message);
    END"""
    yield """CREATE TRIGGER revision_texts_deleted AFTER DELETE ON revisions BEGIN
        DELETE FROM revision_texts WHERE rowid = old.id;
    END"""
    changes = {
        "revision_texts_updated": ("UPDATE OF message ON revisions", "new.id"),
        "revision_texts_annotated": ("INSERT ON annotations", "new.revision_id"),
        "revision_texts_reannotated": ("UPDATE ON annotations", "new.revision_id"),
        "revision_texts_unannotated": ("DELETE ON annotations", "old.revision_id"),
    }
    for name, (change, key) in changes.items():
        text = f"{_ALL} WHERE revisions.id = {key}"
        yield f"""CREATE TRIGGER {name} AFTER {change} BEGIN
            UPDATE revision_texts SET text = ({text}) WHERE rowid = {key};
        END"""  # noqa: S608 - constants


def downgrade() -> None:
    _wait_briefly_for_locks()
    op.execute(f"DELETE FROM compatibility WHERE version = '{revision}'")  # noqa: S608 - a constant
    if op.get_context().dialect.name == "postgresql":
        for name in TRIGRAMS:
            op.execute(f"DROP INDEX IF EXISTS {name}")
    else:
        for trigger in _triggers():
            op.execute(f"DROP TRIGGER {trigger}")
        for name in ("adapter_texts", "revision_texts"):
            op.execute(f"DROP TABLE {name}")
    for name, (table, columns) in REPLACED.items():
        op.create_index(op.f(name), table, columns)
    for name, (table, _) in (INDEXES | WHERE_SET).items():
        op.drop_index(op.f(name), table)


def _triggers() -> list[str]:
    ours = "name GLOB 'adapter_texts_*' OR name GLOB 'revision_texts_*'"
    known = f"SELECT name FROM sqlite_master WHERE type = 'trigger' AND ({ours})"  # noqa: S608 - a constant
    return list(op.get_bind().scalars(sa.text(known)))
