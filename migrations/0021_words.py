"""What a search of words looks through: a text of each revision and of each card, with an index of their trigrams."""

from collections.abc import Iterable, Iterator

import sqlalchemy as sa
from alembic import op

revision = "0021"
down_revision = "0020"
branch_labels = None
depends_on = None

# Texts are kept right by triggers, under programs of the schema before too. Those find by the fuller texts of SQLite
# as before, since they look at what an index proposes; without the trigrams of `pg_trgm` they read every revision.
# A later migration that makes tables of SQLite anew drops their triggers: it has to make these again.
OLDEST = "0015"

INDEXES = {
    "ix_revisions_author_id": ["author", "id"],
    "ix_revisions_created_at_id": ["created_at", "id"],
    "ix_revisions_digest_id": ["digest", "id"],
}
RETRACTED = "retracted_at IS NOT NULL"

# A path stands between slashes, and a tag behind its path between two signs: so whole names have trigrams of their own.
# What the text has a line of its own for is not in any other line.
_LINES = """'/' || a.path || '/' || {end} || r.author || {end} || r.message
    || coalesce((SELECT {joined}({end} || '/' || a.path || '@' || t.name || '@', '') FROM tags t
                 WHERE t.revision_id = r.id), '')
    || coalesce((SELECT {joined}({end} || m.name, '') FROM metrics m WHERE m.revision_id = r.id), '')
    || coalesce((SELECT {joined}({end} || n.key || {end} || n.value, '') FROM annotations n
                 WHERE n.revision_id = r.id), '')"""
FROM = "FROM revisions r JOIN adapters a ON a.id = r.adapter_id"
ON_SQLITE = _LINES.format(end="char(10)", joined="group_concat")
ON_POSTGRESQL = _LINES.format(end="chr(10)", joined="string_agg")

# Three bytes each: what has a part has all of the part's.
TRIGRAMS = """CREATE FUNCTION text_trigrams(value text) RETURNS integer[]
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE COST 2000 AS $$
    SELECT coalesce(array_agg(DISTINCT
        (get_byte(bytes, place) << 16) | (get_byte(bytes, place + 1) << 8) | get_byte(bytes, place + 2)), '{}')
    FROM convert_to(lower(value), 'UTF8') AS bytes, generate_series(0, octet_length(bytes) - 3) AS place
$$"""
# Two changes at once: the second waits for the first, and then reads what that wrote.
RENEWED = f"""CREATE FUNCTION revision_texts_renew(keys bigint[]) RETURNS void LANGUAGE plpgsql AS $$ BEGIN
    PERFORM 1 FROM revision_texts WHERE rowid = ANY (keys) ORDER BY rowid FOR UPDATE;
    UPDATE revision_texts SET text = said.text
    FROM (SELECT r.id, {ON_POSTGRESQL} AS text {FROM} WHERE r.id = ANY (keys)) AS said
    WHERE revision_texts.rowid = said.id AND revision_texts.text <> said.text;
END $$"""  # noqa: S608 - constants
FILLS = f"INSERT INTO revision_texts (rowid, adapter_id, text) SELECT r.id, a.id, {ON_POSTGRESQL} {FROM}"
ADDS = f"{FILLS} JOIN new_rows ON new_rows.id = r.id;"
_NEW, _OLD = "REFERENCING NEW TABLE AS new_rows", "REFERENCING OLD TABLE AS old_rows"
_BOTH = "REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows"


def _renews(keys: str) -> str:
    return f"PERFORM revision_texts_renew(keys) FROM (SELECT array_agg(DISTINCT key) AS keys FROM ({keys}) AS each) AS all_keys WHERE keys IS NOT NULL;"  # noqa: E501, S608


_SAID = "old_rows.message <> new_rows.message OR old_rows.author <> new_rows.author"
_KEYS = "SELECT revision_id AS key FROM "
STATEMENTS = {  # of PostgreSQL: one for all rows of a statement
    "revision_texts_added": (f"AFTER INSERT ON revisions {_NEW}", ADDS),
    "revision_texts_changed": (
        f"AFTER UPDATE ON revisions {_BOTH}",
        _renews(f"SELECT id AS key FROM new_rows JOIN old_rows USING (id) WHERE {_SAID}"),  # noqa: S608 - constants
    ),
    "revision_texts_moved": (
        f"AFTER UPDATE ON adapters {_BOTH}",
        _renews(
            "SELECT r.id AS key FROM new_rows JOIN old_rows USING (id) JOIN revisions r ON r.adapter_id = new_rows.id "
            "WHERE old_rows.path <> new_rows.path"
        ),
    ),
    **{
        f"revision_texts_{table}_{name}": (f"AFTER {change} ON {table} {tables}", _renews(keys))
        for table in ("tags", "metrics", "annotations")
        for name, change, tables, keys in (
            ("added", "INSERT", _NEW, f"{_KEYS}new_rows"),
            ("removed", "DELETE", _OLD, f"{_KEYS}old_rows"),
            ("changed", "UPDATE", _BOTH, f"{_KEYS}new_rows UNION ALL {_KEYS}old_rows"),
        )
        if (table, name) != ("metrics", "changed")  # a value is no text
    },
}

# As 0010 made them.
OLD_TEXT = """SELECT revisions.message || char(10) || coalesce((
    SELECT group_concat(key || char(10) || value, char(10)) FROM annotations WHERE revision_id = revisions.id
), '') FROM revisions"""
OLD_TRIGGERS = {
    "revision_texts_updated": ("UPDATE OF message ON revisions", "new.id"),
    "revision_texts_annotated": ("INSERT ON annotations", "new.revision_id"),
    "revision_texts_reannotated": ("UPDATE ON annotations", "new.revision_id"),
    "revision_texts_unannotated": ("DELETE ON annotations", "old.revision_id"),
}
OLD_INDEXES = {
    "ix_adapters_path_trigrams": ("adapters", ("path",)),
    "ix_revisions_message_trigrams": ("revisions", ("message",)),
    "ix_annotations_trigrams": ("annotations", ("key", "value")),
}
NEW_TRIGGERS = {  # of SQLite: a row after the other
    "revision_texts_updated": ("UPDATE OF message, author ON revisions", ("new.id",)),
    "revision_texts_annotated": ("INSERT ON annotations", ("new.revision_id",)),
    "revision_texts_reannotated": ("UPDATE ON annotations", ("new.revision_id",)),
    "revision_texts_unannotated": ("DELETE ON annotations", ("old.revision_id",)),
    "revision_texts_tagged": ("INSERT ON tags", ("new.revision_id",)),
    "revision_texts_retagged": ("UPDATE ON tags", ("old.revision_id", "new.revision_id")),
    "revision_texts_untagged": ("DELETE ON tags", ("old.revision_id",)),
    "revision_texts_measured": ("INSERT ON metrics", ("new.revision_id",)),
    "revision_texts_unmeasured": ("DELETE ON metrics", ("old.revision_id",)),
}


def _wait_briefly_for_locks() -> None:
    # A schema change that waits for a lock makes every later query wait behind it.
    if op.get_context().dialect.name == "postgresql":
        op.execute("SET LOCAL lock_timeout = '5s'")


def upgrade() -> None:
    _wait_briefly_for_locks()
    for name, columns in INDEXES.items():
        op.create_index(op.f(name), "revisions", columns)
    where = sa.text(RETRACTED)
    op.create_index(op.f("ix_revisions_retracted"), "revisions", ["id"], sqlite_where=where, postgresql_where=where)
    for statement in _postgresql() if op.get_context().dialect.name == "postgresql" else _sqlite():
        op.execute(statement)
    op.execute(f"INSERT INTO compatibility (version, oldest) VALUES ('{revision}', '{OLDEST}')")  # noqa: S608 - two constants


def _sqlite() -> Iterator[str]:
    yield from _dropped(OLD_TRIGGERS)
    yield "DROP TRIGGER revision_texts_inserted"
    yield from _filled_on_sqlite(f"SELECT r.id, {ON_SQLITE} {FROM} ORDER BY r.id")
    yield f"""CREATE TRIGGER revision_texts_inserted AFTER INSERT ON revisions BEGIN
        INSERT INTO revision_texts (rowid, text) SELECT r.id, {ON_SQLITE} {FROM} WHERE r.id = new.id;
    END"""
    for name, (change, keys) in NEW_TRIGGERS.items():
        renewed = "".join(
            f"UPDATE revision_texts SET text = (SELECT {ON_SQLITE} {FROM} WHERE r.id = {key}) WHERE rowid = {key};"  # noqa: S608
            for key in keys
        )
        yield f"CREATE TRIGGER {name} AFTER {change} BEGIN {renewed} END"
    yield f"""CREATE TRIGGER revision_texts_moved AFTER UPDATE OF path ON adapters BEGIN
        UPDATE revision_texts SET text = (SELECT {ON_SQLITE} {FROM} WHERE r.id = revision_texts.rowid)
        WHERE rowid IN (SELECT id FROM revisions WHERE adapter_id = new.id);
    END"""  # noqa: S608 - constants
    yield from _adapters_on_sqlite("'/' || {path} || '/'")
    yield "CREATE VIRTUAL TABLE card_texts USING fts5(text, tokenize = 'trigram', detail = 'none', columnsize = 0)"
    yield "INSERT INTO card_texts (rowid, text) SELECT adapter_id, text FROM cards"
    yield """CREATE TRIGGER card_texts_inserted AFTER INSERT ON cards BEGIN
        INSERT INTO card_texts (rowid, text) VALUES (new.adapter_id, new.text);
    END"""
    yield """CREATE TRIGGER card_texts_updated AFTER UPDATE OF text ON cards BEGIN
        UPDATE card_texts SET text = new.text WHERE rowid = new.adapter_id;
    END"""
    yield """CREATE TRIGGER card_texts_deleted AFTER DELETE ON cards BEGIN
        DELETE FROM card_texts WHERE rowid = old.adapter_id;
    END"""


def _adapters_on_sqlite(said: str) -> Iterator[str]:
    """Paths of adapters, in another form."""
    yield from _dropped(("adapter_texts_inserted", "adapter_texts_updated"))
    yield "DROP TABLE adapter_texts"
    yield "CREATE VIRTUAL TABLE adapter_texts USING fts5(text, tokenize = 'trigram', detail = 'none', columnsize = 0)"
    yield f"INSERT INTO adapter_texts (rowid, text) SELECT id, {said.format(path='path')} FROM adapters"  # noqa: S608
    yield f"""CREATE TRIGGER adapter_texts_inserted AFTER INSERT ON adapters BEGIN
        INSERT INTO adapter_texts (rowid, text) VALUES (new.id, {said.format(path="new.path")});
    END"""  # noqa: S608 - constants
    yield f"""CREATE TRIGGER adapter_texts_updated AFTER UPDATE OF path ON adapters BEGIN
        UPDATE adapter_texts SET text = {said.format(path="new.path")} WHERE rowid = new.id;
    END"""  # noqa: S608 - constants


def _filled_on_sqlite(rows: str) -> Iterator[str]:
    yield "DROP TABLE revision_texts"
    yield "CREATE VIRTUAL TABLE revision_texts USING fts5(text, tokenize = 'trigram', detail = 'none', columnsize = 0)"
    yield f"INSERT INTO revision_texts (rowid, text) {rows}"


def _postgresql() -> Iterator[str]:
    for name in OLD_INDEXES:
        yield f"DROP INDEX IF EXISTS {name}"
    yield TRIGRAMS
    yield """CREATE TABLE revision_texts (
        rowid bigint CONSTRAINT pk_revision_texts PRIMARY KEY
            CONSTRAINT fk_revision_texts_rowid REFERENCES revisions (id) ON DELETE CASCADE,
        adapter_id bigint NOT NULL,
        text text NOT NULL,
        trigrams integer[] NOT NULL GENERATED ALWAYS AS (text_trigrams(text)) STORED
    )"""
    yield RENEWED
    yield f"{FILLS} ORDER BY r.id"
    yield "CREATE INDEX ix_revision_texts_trigrams ON revision_texts USING gin (trigrams)"
    # Kept in the rows: an index of an expression makes it again of all that is looked at besides.
    for name, table, said in (("card_trigrams", "cards", "text"), ("path_trigrams", "adapters", "'/' || path || '/'")):
        yield f"ALTER TABLE {table} ADD COLUMN {name} integer[] GENERATED ALWAYS AS (text_trigrams({said})) STORED"
        yield f"CREATE INDEX ix_{table}_{name} ON {table} USING gin ({name})"
    for name, (change, does) in STATEMENTS.items():
        yield f"CREATE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {does} RETURN NULL; END $$"
        yield f"CREATE TRIGGER {name} {change} FOR EACH STATEMENT EXECUTE FUNCTION {name}()"


def downgrade() -> None:
    _wait_briefly_for_locks()
    op.execute(f"DELETE FROM compatibility WHERE version = '{revision}'")  # noqa: S608 - a constant
    for statement in _back_on_postgresql() if op.get_context().dialect.name == "postgresql" else _back_on_sqlite():
        op.execute(statement)
    for name in (*INDEXES, "ix_revisions_retracted"):
        op.drop_index(op.f(name), "revisions")


def _back_on_sqlite() -> Iterator[str]:
    yield from _dropped(NEW_TRIGGERS)
    yield from _dropped(("revision_texts_inserted", "revision_texts_moved"))
    yield from _dropped(("card_texts_inserted", "card_texts_updated", "card_texts_deleted"))
    yield "DROP TABLE card_texts"
    yield from _adapters_on_sqlite("{path}")
    yield from _filled_on_sqlite(OLD_TEXT.replace("SELECT ", "SELECT revisions.id, ", 1))
    yield """CREATE TRIGGER revision_texts_inserted AFTER INSERT ON revisions BEGIN
        INSERT INTO revision_texts (rowid, text) VALUES (new.id, new.message);
    END"""
    for name, (change, key) in OLD_TRIGGERS.items():
        text = f"{OLD_TEXT} WHERE revisions.id = {key}"
        yield f"""CREATE TRIGGER {name} AFTER {change} BEGIN
            UPDATE revision_texts SET text = ({text}) WHERE rowid = {key};
        END"""  # noqa: S608 - constants


def _back_on_postgresql() -> Iterator[str]:
    for name, (change, _) in STATEMENTS.items():
        yield f"DROP TRIGGER {name} ON {change.split()[3]}"
        yield f"DROP FUNCTION {name}()"
    yield "DROP FUNCTION revision_texts_renew(bigint[])"
    yield "ALTER TABLE adapters DROP COLUMN path_trigrams"  # with their indexes
    yield "ALTER TABLE cards DROP COLUMN card_trigrams"
    yield "DROP TABLE revision_texts"
    yield "DROP FUNCTION text_trigrams(text)"
    for name, (table, columns) in OLD_INDEXES.items():
        given = ", ".join(f"{column} %1$I.gin_trgm_ops" for column in columns)
        yield f"""DO $$ DECLARE place name; BEGIN
            SELECT nspname INTO place FROM pg_extension JOIN pg_namespace ON pg_namespace.oid = extnamespace
            WHERE extname = 'pg_trgm';
            IF place IS NOT NULL THEN
                EXECUTE format('CREATE INDEX {name} ON {table} USING gin ({given})', place);
            END IF;
        END $$"""  # noqa: S608 - constants


def _dropped(triggers: Iterable[str]) -> Iterator[str]:
    for name in triggers:
        yield f"DROP TRIGGER {name}"
