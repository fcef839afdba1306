"""The index of texts finds whatever the condition finds, after every change, also of programs that don't know it."""

from __future__ import annotations

import sqlite3
import sys
from contextlib import closing

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import text
from sqlalchemy.orm import Session

from registry.catalogue.changes import deletion, rename, tagging
from registry.catalogue.changes.details import annotate, remove, set_card, set_message
from registry.catalogue.database import migrations
from registry.catalogue.database.database import Database
from registry.catalogue.store import purge
from registry.catalogue.tree import revisions, search
from registry.catalogue.tree.search_index import Has, revisions_having, trigrams
from registry.reference import Path, Reference
from registry.schemas.requests import SearchRequest
from tests.catalogue.rows import ON_POSTGRESQL, TESTER, Writer

LETTERS = (
    "aiIAb\u00df\u1e9e\u00e9\u00c9\u015f\u015e\u0130\u0131KkK\u212a\u03c3\u03c2\u03a3\u03a9"
    "\u2126\u00e5\u00c5\u212b\u0307\"'%_ .-\u4e2d\u10d0\u1c90"
)


def folded_by_fts() -> dict[str, str]:
    """Every character as the tokenizer of FTS5 folds it."""
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.execute("CREATE VIRTUAL TABLE texts USING fts5(text, tokenize = 'trigram')")
        connection.execute("CREATE VIRTUAL TABLE terms USING fts5vocab(texts, 'instance')")
        characters = ((number, chr(number) * 3) for number in range(1, sys.maxunicode + 1))
        plain = (pair for pair in characters if not 0xD800 <= pair[0] < 0xE000)
        connection.executemany("INSERT INTO texts (rowid, text) VALUES (?, ?)", plain)
        return {chr(key): term[0] for term, key in connection.execute("SELECT term, doc FROM terms")}


@pytest.mark.long
@pytest.mark.slow
def test_every_character_that_is_looked_for_is_folded_alike() -> None:
    """All that Python lowers to a character of a trigram is the same to FTS5; but for a capital I with a dot."""
    folded = folded_by_fts()
    assert len(folded) > 1_100_000
    for character, term in folded.items():
        lower = character.lower()
        if character == "\u0130":
            assert (lower, term) == ("i\u0307", character)
        elif lower in folded and list(trigrams(lower * 4)):
            assert folded[lower] == term, (character, lower)


@given(
    st.text(alphabet=LETTERS, max_size=9),
    st.text(alphabet=LETTERS, min_size=3, max_size=5),
    st.text(LETTERS, max_size=4),
)
@settings(max_examples=400, deadline=None)
def test_no_text_is_missed(before: str, part: str, after: str) -> None:
    whole = before + part + after
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.execute("CREATE VIRTUAL TABLE texts USING fts5(text, tokenize = 'trigram', detail = 'none')")
        connection.execute("INSERT INTO texts VALUES (?)", [whole])
        for asked in (part, part.upper(), part.lower()):
            expression = " AND ".join(trigrams(asked))
            if expression and asked.lower() in whole.lower():
                assert connection.execute("SELECT 1 FROM texts WHERE texts MATCH ?", [expression]).fetchone()


@pytest.mark.parametrize(
    ("whole", "asked"), [("AX\u0130", "axi"), ("\u0130stanbul", "stan"), ("x\u0130y", "xi\u0307y")]
)
def test_a_capital_i_with_a_dot(whole: str, asked: str) -> None:
    """It is two characters in Python, so that what is asked may end between them."""
    assert asked in whole.lower()
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.execute("CREATE VIRTUAL TABLE texts USING fts5(text, tokenize = 'trigram', detail = 'none')")
        connection.execute("INSERT INTO texts VALUES (?)", [whole])
        expression = " AND ".join(trigrams(asked))
        assert not expression or connection.execute("SELECT 1 FROM texts WHERE texts MATCH ?", [expression]).fetchone()


def check(session: Session) -> None:
    """The tables of texts hold what the rows say, and nothing else."""
    session.flush()

    def rows(query: str) -> dict[int, set[str]]:
        found: dict[int, set[str]] = {}
        for key, *words in session.execute(text(query)):
            found.setdefault(key, set()).update(words)
        return found

    tags = rows(
        "SELECT t.revision_id, '/' || a.path || '@' || t.name || '@' FROM tags t JOIN adapters a ON a.id = t.adapter_id"
    )
    more = (rows("SELECT revision_id, name FROM metrics"), rows("SELECT revision_id, key, value FROM annotations"))
    own = rows(
        "SELECT r.id, '/' || a.path || '/', r.author, r.message FROM revisions r JOIN adapters a ON a.id = r.adapter_id"
    )
    said = {row.rowid: row.text for row in session.execute(text("SELECT rowid, text FROM revision_texts"))}
    assert said.keys() == own.keys()
    for key, lines in said.items():
        expected = own[key].union(tags.get(key, ()), *(table.get(key, ()) for table in more))
        assert set(lines.split("\n")) == expected
    if session.get_bind().dialect.name == "sqlite":
        paths = session.execute(text("SELECT id, '/' || path || '/' FROM adapters ORDER BY id")).all()
        assert session.execute(text("SELECT rowid, text FROM adapter_texts ORDER BY rowid")).all() == paths
        cards = session.execute(text("SELECT adapter_id, text FROM cards ORDER BY adapter_id")).all()
        assert session.execute(text("SELECT rowid, text FROM card_texts ORDER BY rowid")).all() == cards


def test_the_index_follows_every_change(filled: Database, writer: Writer) -> None:
    with filled.write() as session:
        check(session)
        support = revisions.find(session, Reference.parse("llama/support@2"))
        annotate(session, support.id, metrics={}, annotations={"a": "one", "b": "two"}, principal=TESTER)
        check(session)
        annotate(session, support.id, metrics={}, annotations={"a": "three"}, principal=TESTER)
        set_message(session, support.id, "another message", TESTER)
        check(session)
        remove(session, support.id, ["b", "loss"], TESTER)
        check(session)
        tagging.set_tag(session, 1, "dev", TESTER)
        tagging.set_tag(session, support.id, "prod", TESTER)
        check(session)
        tagging.remove_tag(session, Path.parse("llama/support"), "dev", TESTER)
        check(session)
        for card in ("A card", "Another", None):
            set_card(session, Path.parse("llama/code"), card, {}, TESTER)
            check(session)
        rename.rename(session, Path.parse("llama/support"), Path.parse("llama/help"), TESTER)
        check(session)
        code = revisions.find(session, Reference.parse("llama/code"))
        set_card(session, Path.parse("llama/code"), "A card", {}, TESTER)
        deletion.delete(session, code.id, TESTER)
        purge.purge(session, [code.id], purge.GRACE_OVER, TESTER)
        check(session)
        # As a program that knows nothing of the index changes rows.
        session.execute(text("UPDATE revisions SET message = 'by an older program' WHERE id = 1"))
        session.execute(text("INSERT INTO annotations (revision_id, key, value) VALUES (1, 'old', 'program')"))
        session.execute(text("UPDATE revisions SET author = 'eve' WHERE id = 2"))
        session.execute(text("UPDATE annotations SET value = 'other' WHERE key = 'team'"))
        session.execute(text("UPDATE adapters SET path = 'llama/moved' WHERE id = 2"))
        session.execute(text("INSERT INTO metrics (revision_id, name, value) VALUES (1, 'bleu', 1), (2, 'bleu', 2)"))
        session.execute(text("DELETE FROM tags"))
        check(session)
        assert "llama/help@1" not in [
            one.reference for one in search.search(session, SearchRequest(text='"older program"'))
        ]
        found = search.search(session, SearchRequest(text='"older program"', old_names=True, all_revisions=True))
        assert [one.reference for one in found] == ["llama/support@1"]


def test_a_rare_text_is_found_by_the_index(filled: Database) -> None:
    with filled.read() as session:
        for part, references in (("über", {5}), ("straße", {2}), ("message of s1", {1}), ("support/fr", {2, 3})):
            keys = revisions_having(session, Has(part))
            assert keys is not None
            assert set(session.scalars(keys)) == references


@ON_POSTGRESQL
def test_the_index_needs_no_extension(empty_url: str, writer: Writer) -> None:
    """A role that may create none upgrades, and finds by the index."""
    database = Database(empty_url)
    with database.migrating() as connection:
        connection.execute(text("CREATE ROLE plain"))
        connection.execute(text("GRANT CREATE, USAGE ON SCHEMA public TO plain"))
        connection.execute(text("SET LOCAL ROLE plain"))
        migrations.upgrade(connection)
        connection.execute(text("RESET ROLE"))
        connection.execute(text("GRANT plain TO CURRENT_USER"))
    with database.write() as session:
        writer.base(session, "llama")
        writer.publish(session, "llama/x", "one")
        assert session.scalar(text("SELECT count(*) FROM pg_extension WHERE extname = 'pg_trgm'")) == 0
        assert [one.reference for one in search.search(session, SearchRequest(text="MESSAGE x"))] == ["llama/x@1"]
        session.execute(text("SET LOCAL enable_seqscan = off"))
        keys = revisions_having(session, Has("message"))
        assert keys is not None
        bound = keys.compile(session.get_bind(), compile_kwargs={"literal_binds": True})
        plan = "\n".join(session.scalars(text(f"EXPLAIN {bound}".replace(":", "\\:"))))
        assert "ix_revision_texts_trigrams" in plan
    database.dispose()
