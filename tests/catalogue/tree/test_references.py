"""References: newest, number, tag, digest prefix, lineage; what is said when there is none."""

from __future__ import annotations

import pytest
from sqlalchemy import text

from registry.catalogue.changes import tagging
from registry.catalogue.database.database import Database
from registry.catalogue.tree import browse, revisions
from registry.errors import NotFoundError, UsageError
from registry.reference import Path, Reference
from tests.catalogue.rows import BOB, Writer, digest_of


def found(database: Database, reference: str) -> str:
    with database.read() as session:
        return revisions.find(session, Reference.parse(reference)).reference


def test_every_form_of_reference(filled: Database) -> None:
    with filled.read() as session:
        digest = revisions.find(session, Reference.parse("llama/support@1")).digest
        assert revisions.find(session, Reference.parse("llama/support@1")).manifest == revisions.manifest(session, 1)
    assert found(filled, "llama/support") == "llama/support@2"
    assert found(filled, "llama/support@1") == "llama/support@1"
    assert found(filled, "llama/support@prod") == "llama/support@1"
    assert found(filled, f"llama/support@{digest}") == "llama/support@1"
    assert found(filled, f"llama/support@{digest[:15]}") == "llama/support@1"


@pytest.mark.long_on("postgresql")
@pytest.mark.parametrize(
    ("reference", "sentence"),
    [
        ("lama/support", "There is no base model lama. Did you mean llama?"),
        ("llama/suport", "There is no adapter llama/suport. Did you mean llama/support"),
        ("llama/suport/french", "There is no adapter llama/suport. Did you mean llama/support/french"),
        ("llama/zzzzzz", "There is no adapter llama/zzzzzz. The adapters are: llama/code, llama/support,"),
        ("llama/support@7", "llama/support has no revision 7: its newest is llama/support@2."),
        ("llama/support@prid", "llama/support has no tag prid. Did you mean prod?"),
        ("llama/support@nothing-near", "The tags of llama/support are: prod."),
        ("llama/code@prod", "llama/code has no tag prod. It has no tags."),
        ("llama/support@sha256:00000000", "no revision whose digest begins with 00000000: its newest is"),
    ],
)
def test_what_is_missing_is_named(filled: Database, reference: str, sentence: str) -> None:
    with pytest.raises(NotFoundError) as caught:
        found(filled, reference)
    assert sentence in str(caught.value)
    assert caught.value.code == "not_found"


def test_the_nearest_number_among_those_left(filled: Database, writer: Writer) -> None:
    with filled.write() as session:
        for count in range(2, 5):
            writer.publish(session, "llama/code", f"c{count}")
        gone = revisions.find(session, Reference.parse("llama/code@2")).id
        for table in ("revision_files", "revision_targets"):
            session.execute(text(f"DELETE FROM {table} WHERE revision_id = :id"), {"id": gone})
        session.execute(text("DELETE FROM revisions WHERE id = :id"), {"id": gone})
    with pytest.raises(NotFoundError, match=r"newest is llama/code@4, the nearest is llama/code@3\."):
        found(filled, "llama/code@2")


def test_a_prefix_that_two_revisions_share(filled: Database) -> None:
    with filled.write() as session:
        for number, last in ((1, "0"), (2, "f")):
            session.execute(
                text("UPDATE revisions SET digest = :digest WHERE number = :number AND adapter_id = 1"),
                {"digest": "sha256:" + "ab" * 31 + "0" + last, "number": number},
            )
    with pytest.raises(UsageError, match="including @1 and @2"):
        found(filled, "llama/support@sha256:abababab")
    assert found(filled, "llama/support@sha256:" + "ab" * 31 + "0f") == "llama/support@2"


def test_a_base_model_is_no_revision(filled: Database) -> None:
    with pytest.raises(UsageError, match="llama is a base model"):
        found(filled, "llama")
    with pytest.raises(NotFoundError, match="no base model"):
        found(filled, "lama")


def test_lineage_is_root_first_and_pinned(filled: Database) -> None:
    with filled.read() as session:
        legal = revisions.find(session, Reference.parse("llama/support/french/legal"))
        chain = revisions.lineage(session, legal.id)
        entries = browse.lineage_entries(session, legal.id)
        with pytest.raises(NotFoundError, match="no longer"):
            browse.lineage_entries(session, 999)
    assert [row.reference for row in chain] == [
        "llama/support@1",
        "llama/support/french@1",
        "llama/support/french/legal@1",
    ]
    assert chain[-1] == legal
    assert [(one.reference, one.number, one.newest, one.rank) for one in entries] == [
        ("llama", None, None, None),
        ("llama/support@1", 1, 2, 8),
        ("llama/support/french@1", 1, 1, 16),
        ("llama/support/french/legal@1", 1, 1, 8),
    ]
    assert entries[0].digest == digest_of("w")


def test_revisions_of_an_adapter(filled: Database) -> None:
    with filled.read() as session:
        both = browse.log(session, Path.parse("llama/support")).revisions
        assert [row.number for row in both] == [2, 1]
        assert browse.log(session, Path.parse("llama/support"), limit=1).revisions == both[:1]


def test_tags_move_and_go(filled: Database) -> None:
    with filled.write() as session:
        second = revisions.find(session, Reference.parse("llama/support@2"))
        moved = tagging.set_tag(session, second.id, "prod", BOB)
        again = tagging.set_tag(session, second.id, "prod", BOB)
    assert (moved.previous, moved.reference) == ("llama/support@1", "llama/support@2")
    assert again.previous == "llama/support@2"
    assert found(filled, "llama/support@prod") == "llama/support@2"
    with filled.write() as session:
        removed = tagging.remove_tag(session, Path.parse("llama/support"), "prod", BOB)
    assert (removed.reference, removed.previous) == (None, "llama/support@2")
    with pytest.raises(NotFoundError, match="It has no tags"), filled.write() as session:
        tagging.remove_tag(session, Path.parse("llama/support"), "prod", BOB)
    with pytest.raises(UsageError, match="Tag 'main'"), filled.write() as session:
        tagging.set_tag(session, second.id, "main", BOB)
