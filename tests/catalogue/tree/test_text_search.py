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

from registry.catalogue.changes import deletion, rename
from registry.catalogue.changes.details import annotate, remove, set_message
from registry.catalogue.database import migrations
from registry.catalogue.database.database import Database
from registry.catalogue.store import purge
from registry.catalogue.tree import revisions, search
from registry.catalogue.tree.search_conditions import keys_with_text, trigrams
from registry.reference import Path, Reference
from registry.rights import UNLIMITED
from registry.schemas.requests import SearchRequest
from tests.catalogue.rows import ON_POSTGRESQL, ON_SQLITE, TESTER, Writer, rights

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
    noted: dict[int, list[str]] = {}
    for key, name, value in session.execute(text("SELECT revision_id, key, value FROM annotations")):
        noted.setdefault(key, []).extend((name, value))
    rows = session.execute(text("SELECT id, message FROM revisions")).all()
    said = session.execute(text("SELECT rowid, text FROM revision_texts"))
    texts: dict[int, str] = {row.rowid: row.text for row in said}
    assert texts.keys() == {key for key, _ in rows}
    for key, message in rows:
        assert sorted(texts[key].split()) == sorted(" ".join([message, *noted.get(key, [])]).split())
    paths = session.execute(text("SELECT id, path FROM adapters ORDER BY id")).all()
    assert session.execute(text("SELECT rowid, text FROM adapter_texts ORDER BY rowid")).all() == paths


@ON_SQLITE
def test_the_index_follows_every_change(filled: Database, writer: Writer) -> None:
    with filled.write() as session:
        check(session)
        support = revisions.find(session, Reference.parse("llama/support@2"))
        annotate(session, support.id, metrics={}, annotations={"a": "one", "b": "two"}, principal=TESTER)
        check(session)
        annotate(session, support.id, metrics={}, annotations={"a": "three"}, principal=TESTER)
        set_message(session, support.id, "another message", TESTER)
        check(session)
        remove(session, support.id, ["b"], TESTER)
        check(session)
        rename.rename(session, Path.parse("llama/support"), Path.parse("llama/help"), TESTER)
        check(session)
        code = revisions.find(session, Reference.parse("llama/code"))
        deletion.delete(session, code.id, TESTER)
        purge.purge(session, [code.id], purge.GRACE_OVER, TESTER)
        check(session)
        # As a program that knows nothing of the index changes rows.
        session.execute(text("UPDATE revisions SET message = 'by an older program' WHERE id = 1"))
        session.execute(text("INSERT INTO annotations (revision_id, key, value) VALUES (1, 'old', 'program')"))
        check(session)
        assert "llama/help@1" not in [
            one.reference for one in search.search(session, SearchRequest(text="older program"))
        ]
        found = search.search(session, SearchRequest(text="older program", old_names=True, all_revisions=True))
        assert [one.reference for one in found] == ["llama/support@1"]


def test_a_rare_text_is_found_by_the_index(filled: Database) -> None:
    with filled.read() as session:
        for part, references in (("über", {5}), ("straße", {2}), ("message of s1", {1}), ("support/fr", {2, 3})):
            keys = keys_with_text(session, part)
            assert keys is not None
            assert set(session.scalars(keys)) == references


@ON_POSTGRESQL
def test_a_role_that_may_not_create_the_extension(empty_url: str, writer: Writer) -> None:
    """It searches as before, and an upgrade says so."""
    database = Database(empty_url)
    with database.migrating() as connection:
        connection.execute(text("CREATE ROLE plain"))
        connection.execute(text("GRANT CREATE, USAGE ON SCHEMA public TO plain"))
        connection.execute(text("SET LOCAL ROLE plain"))
        migrations.upgrade(connection)
        connection.execute(text("RESET ROLE"))
        connection.execute(text("GRANT plain TO CURRENT_USER"))
    assert ["pg_trgm" in notice for notice in database.notices()] == [True]
    with database.write() as session:
        writer.base(session, "llama")
        writer.publish(session, "llama/x", "one")
        assert keys_with_text(session, "message") is None
        assert [one.reference for one in search.search(session, SearchRequest(text="MESSAGE OF"))] == ["llama/x@1"]
    database.dispose()


@ON_POSTGRESQL
def test_how_common_a_text_is_is_asked_of_all(filled: Database, writer: Writer) -> None:
    """The newest revisions may all be outside the scopes of a token."""
    with filled.write() as session:
        for number in range(6):
            writer.publish(session, f"llama/new-{number}", f"new {number}")
    for seen in (UNLIMITED, rights("reader", "llama/none")):
        with filled.read(seen) as session:
            assert keys_with_text(session, "message of") is None
            assert keys_with_text(session, "nowhere") is not None


@ON_POSTGRESQL
def test_a_database_with_the_extension_has_no_notice(database: Database) -> None:
    assert database.notices() == ()
