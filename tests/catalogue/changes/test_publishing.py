"""Publishing: numbers, pinned parents, refusals that leave nothing."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from sqlalchemy import text

from registry.catalogue.changes import deletion
from registry.catalogue.changes import publish as publishing
from registry.catalogue.database import events
from registry.catalogue.database.database import Database
from registry.catalogue.store import blobs
from registry.catalogue.team import tokens
from registry.catalogue.tree import browse, revisions
from registry.errors import ConflictError, IntegrityError, NotFoundError, RegistryError, UnavailableError, UsageError
from registry.reference import Path, Reference
from registry.schemas import CopiedFrom, TargetGroup
from tests.catalogue.rows import TESTER, Writer, blob, digest_of
from tests.kit.statements import statements


def counts(database: Database) -> dict[str, int]:
    tables = ["adapters", "revisions", "revision_files", "revision_targets", "events"]
    with database.read() as session:
        return {table: session.execute(text(f"SELECT count(*) FROM {table}")).scalar_one() for table in tables}


def test_numbers_count_up_and_the_parent_stays_pinned(filled: Database) -> None:
    with filled.read() as session:
        french = revisions.find(session, Reference.parse("llama/support/french"))
        newest = revisions.find(session, Reference.parse("llama/support"))
        files = revisions.files(session, french.id)
    assert (newest.reference, french.reference) == ("llama/support@2", "llama/support/french@1")
    assert (french.parent, newest.parent, newest.parent_id) == ("llama/support@1", "llama", None)
    assert [(file.path, file.digest, file.size) for file in files] == [
        ("adapter_model.safetensors", digest_of("f1"), 2)
    ]
    assert files[0].blocks_digest == digest_of("f1 blocks")
    assert french.created_at.utcoffset() is not None


def test_what_the_adapter_has_already_is_given_back(filled: Database, writer: Writer) -> None:
    before = counts(filled)
    with filled.write() as session:
        row, created = publishing.publish(session, writer.new("llama/support", "s1", None), TESTER)
    assert (row.reference, created) == ("llama/support@1", False)
    assert counts(filled) == before


def test_the_same_manifest_digest_may_stand_in_two_adapters(filled: Database, writer: Writer) -> None:
    new = writer.new("llama/support", "s1", None)
    with filled.write() as session:
        row, created = publishing.publish(session, replace(new, path=Path.parse("llama/other")), TESTER)
    assert (row.reference, created, row.digest) == ("llama/other@1", True, new.digest)


def test_a_deleted_number_is_never_given_again(filled: Database, writer: Writer) -> None:
    with filled.write() as session:
        row = writer.publish(session, "llama/code", "c2")
        for table in ("revision_files", "revision_targets"):
            session.execute(text(f"DELETE FROM {table} WHERE revision_id = :id"), {"id": row.id})
        session.execute(text("DELETE FROM revisions WHERE id = :id"), {"id": row.id})
    with filled.write() as session:
        assert writer.publish(session, "llama/code", "c3").reference == "llama/code@3"


@pytest.mark.parametrize(
    ("path", "parent", "error", "code", "sentence"),
    [
        ("llama/support/new", None, ConflictError, "parent_mismatch", "a revision of llama/support is expected"),
        ("llama/support/new", "llama/code@1", ConflictError, "parent_mismatch", "llama/code@1"),
        ("llama/support/french/new", "llama/support@2", ConflictError, "parent_mismatch", "llama/support/french"),
        ("llama/new", "llama/support@1", ConflictError, "parent_mismatch", "the base model llama is expected"),
        ("llama/suport/new", "llama/support@1", NotFoundError, "not_found", "Did you mean llama/support"),
        ("lama/new", None, NotFoundError, "not_found", "There is no base model lama. Did you mean llama?"),
        ("llama", None, UsageError, "usage", "llama is a base model"),
    ],
)
def test_a_wrong_parent_is_refused_and_nothing_is_left(
    filled: Database,
    writer: Writer,
    path: str,
    parent: str | None,
    error: type[RegistryError],
    code: str,
    sentence: str,
) -> None:
    before = counts(filled)
    with filled.read() as session:
        pinned = revisions.find(session, Reference.parse(parent)) if parent else None
    with pytest.raises(error) as caught, filled.write() as session:
        writer.publish(session, path, "x", pinned)
    assert caught.value.code == code
    assert sentence in str(caught.value)
    assert counts(filled) == before


def test_a_parent_that_is_gone(filled: Database, writer: Writer) -> None:
    with pytest.raises(NotFoundError, match="no longer exists"), filled.write() as session:
        publishing.publish(session, writer.new("llama/support/x", "f1", 999), TESTER)


def test_other_base_weights_than_those_checked_against(filled: Database, writer: Writer) -> None:
    new = writer.new("llama/code", "s1", None, base_digest=digest_of("other"))
    with pytest.raises(ConflictError) as caught, filled.write() as session:
        publishing.publish(session, new, TESTER)
    assert caught.value.code == "other_weights"


def test_a_row_that_points_at_no_bytes_is_impossible(filled: Database, writer: Writer) -> None:
    before = counts(filled)
    with pytest.raises(UnavailableError, match="are no longer stored"), filled.write() as session:
        publishing.publish(session, writer.new("llama/code", "never stored", None), TESTER)
    with pytest.raises(UnavailableError, match="rejected a change"), filled.write() as session:
        session.execute(text("INSERT INTO revision_files VALUES (1, 'x', 'sha256:none')"))
    stored = blobs.FileRef("adapter_model.safetensors", digest_of("s1"))
    missing = blobs.FileRef("adapter_config.json", digest_of("never stored"))
    for files in ((stored, missing), (missing, stored)):
        with pytest.raises(UnavailableError, match=f"The bytes {missing.digest} of"), filled.write() as session:
            publishing.publish(session, writer.new("llama/code", "two files", None, files=files), TESTER)
        with pytest.raises(UnavailableError, match=f"The bytes {missing.digest} of x"), filled.write() as session:
            blobs.require(session, [file.digest for file in files], "x")
    assert counts(filled) == before


def test_a_combination_of_what_is_gone(filled: Database, writer: Writer) -> None:
    with filled.write() as session:
        sources = [writer.publish(session, f"llama/part{number}", f"part {number}") for number in range(3)]
        pins = tuple(publishing.SourcePin(one.id, 0.5) for one in sources)
        new = writer.new("llama/mix", "mix", None, sources=pins)
        blobs.record(session, [blob("mix")])
    with filled.write() as session:
        deletion.delete(session, sources[-1].id, TESTER)
    with pytest.raises(NotFoundError, match="A source of llama/mix was deleted in the meantime"):
        filled.change(lambda session: publishing.publish(session, new, TESTER))


def test_a_manifest_that_is_not_its_digest(filled: Database, writer: Writer) -> None:
    new = replace(writer.new("llama/code", "s1", None), digest=digest_of("something else"))
    with pytest.raises(IntegrityError, match="manifest"), filled.write() as session:
        publishing.publish(session, new, TESTER)


@pytest.mark.parametrize("message", ["a\x00b", "\ud800", "x" * 10_001])
def test_texts_that_no_database_keeps(filled: Database, writer: Writer, message: str) -> None:
    with pytest.raises(UsageError, match="The message"), filled.write() as session:
        writer.publish(session, "llama/code", "c9", message=message)
    with pytest.raises(UsageError, match="The author"), filled.write() as session:
        writer.publish(session, "llama/code", "c9", author=message)
    for place in ("registry", "author"):
        said = CopiedFrom(registry="https://far", reference="llama/x@1", author="ann", created_at=datetime.now(UTC))
        copied = said.model_copy(update={place: message})
        with pytest.raises(UsageError, match="The origin of the copy"), filled.write() as session:
            writer.publish(session, "llama/code", "c9", copied_from=copied)


def test_publishing_is_an_event(filled: Database) -> None:
    with filled.read() as session:
        event = events.recent(session, 1)[0]
        everything = events.recent(session, 100)
    assert (event.action, event.subject, event.actor) == ("publish", "llama/code@1", "tester")
    assert event.detail["parent"] == "llama"
    assert [one.action for one in everything].count("publish") == 5
    with pytest.raises(UsageError, match="1 or more"), filled.read() as session:
        events.recent(session, 0)


def test_blobs_are_noted_once(filled: Database) -> None:
    row = blob("s1")
    many = [blob(f"many {n}") for n in range(1201)]
    with filled.write() as session:
        blobs.record(session, [row, *many])
        blobs.record(session, [*many, row])
    with filled.read() as session:
        assert blobs.get(session, row.digest) == row
        wanted = [one.digest for one in many]
        assert blobs.rows(session, [*wanted, digest_of("unknown")]).keys() == set(wanted)
        with pytest.raises(NotFoundError, match="no blob"):
            blobs.get(session, digest_of("unknown"))
    with pytest.raises(IntegrityError, match="is recorded with"), filled.write() as session:
        blobs.record(session, [replace(row, size=3)])


def test_files_and_targets_are_as_they_were_given(filled: Database, writer: Writer) -> None:
    names = ["adapter_config.json", 'nested/Größe "x".md', "adapter_model.safetensors"]
    groups = (
        TargetGroup(name="k_proj", modules=1, ranks=(4, 8), scalings=(0.1, 2.0)),
        TargetGroup(name="q_proj", modules=22, ranks=(8,), scalings=(1 / 3,)),
    )
    files = tuple(blobs.FileRef(name, digest_of("s1")) for name in names)
    row = filled.change(lambda session: writer.publish(session, "llama/code", "s1", files=files, targets=groups))
    with filled.read() as session:
        assert [file.path for file in revisions.files(session, row.id)] == sorted(names)
        assert browse.targets(session, row.id) == groups
        assert revisions.get(session, row.id) == row
    bare = filled.change(lambda session: writer.publish(session, "llama/code", "s2", files=(), targets=()))
    with filled.read() as session:
        assert revisions.files(session, bare.id) == ()
        assert browse.targets(session, bare.id) == ()
        assert revisions.get(session, bare.id) == bare


def test_a_copy_keeps_its_number_where_it_is_free(filled: Database, writer: Writer) -> None:
    def copy(content: str, number: int) -> int:
        return filled.change(lambda session: writer.publish(session, "llama/code", content, number=number)).number

    assert copy("seventh", 7) == 7  # after @1
    assert copy("third", 3) == 3
    assert copy("taken", 3) == 8
    with filled.read() as session:
        third = revisions.find(session, Reference.parse("llama/code@3")).id
    filled.change(lambda session: deletion.delete(session, third, TESTER))
    assert copy("deleted", 3) == 9
    assert filled.change(lambda session: writer.publish(session, "llama/code", "next")).number == 10
    new = filled.change(lambda session: writer.publish(session, "llama/copied", "first", number=4))
    assert (new.number, new.created_at.tzinfo) == (4, UTC)


def test_many_publish_the_same_and_one_makes_it(filled: Database, writer: Writer) -> None:
    filled.change(lambda session: blobs.record(session, [blob("same")]))
    meet = threading.Barrier(8)

    def publish(_: int) -> tuple[int, bool]:
        new = writer.new("llama/new", "same", None)
        meet.wait(120)
        row, created = filled.change(lambda session: publishing.publish(session, new, TESTER))
        return row.number, created

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(publish, range(8)))
    assert {number for number, _ in answers} == {1}
    assert [created for _, created in answers].count(True) == 1
    assert filled.change(lambda session: writer.publish(session, "llama/new", "other")).number == 2


def test_how_often_the_database_is_asked(filled: Database, writer: Writer, backend: str) -> None:
    """Each statement is a trip to the server and back: PostgreSQL's own BEGIN is one of these."""
    with filled.write() as session:
        session.execute(
            text("UPDATE blobs SET used_at = '2100-01-02 03:04:05.000000'")
        )  # just now, however slow this is
    new, begin = writer.new("llama/code", "s1", None), 1 if backend == "postgresql" else 0
    with statements() as sent:
        filled.change(lambda session: publishing.publish(session, new, TESTER))
    assert len(sent) == (5 if backend == "postgresql" else 8), sent
    with filled.read() as session:
        digest = revisions.find(session, Reference.parse("llama/support")).digest
    for selector in ("", "@1", "@prod", f"@{digest}", f"@{digest[:20]}"):
        with statements() as sent, filled.read() as session:
            revisions.find(session, Reference.parse("llama/support" + selector))
        assert len(sent) == begin + 1, sent
    made = filled.change(lambda session: tokens.create(session, TESTER, "reader"))
    tokens.sign_in(filled, made.secret)
    with statements() as sent:
        tokens.sign_in(filled, made.secret)
    assert len(sent) == 1
