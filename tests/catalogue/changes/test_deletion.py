"""Deletion as a mark: nothing that reads shows it, undoing gives all of it back, and ending it is for good."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import pytest
from sqlalchemy import event, text
from sqlalchemy.orm import Session

from registry.catalogue.changes import deletion, materialise, new_base, publish, tagging, undeletion
from registry.catalogue.database import events
from registry.catalogue.database.database import Database, sqlite_url
from registry.catalogue.store import blobs, materialisations, purge, unreferenced
from registry.catalogue.tree import bases, browse, nodes, repo_rows, revisions
from registry.errors import ConflictError, NotAllowedError, NotFoundError, UsageError
from registry.reference import Path as TreePath
from registry.reference import Reference
from registry.rights import Principal
from registry.schemas import Deleted, DeletedTree
from registry.schemas.usage import Use
from tests.catalogue.changes.test_removal import beside, delete, key
from tests.catalogue.database import test_visibility
from tests.catalogue.rows import BOB, ON_POSTGRESQL, ON_SQLITE, TESTER, Writer, blob, digest_of, rights

ALL: Final = rights("admin", "llama", "bert", "gone")  # scopes: what only they make a session see is known of blobs too
LONG_AGO: Final = datetime(2000, 1, 1, tzinfo=UTC)
FAR: Final = datetime(2100, 1, 1, tzinfo=UTC)
SUPPORT: Final = TreePath.parse("llama/support")
WRITER: Final = Principal("wim", rights("writer"))


def undo(database: Database, reference: str, since: datetime = LONG_AGO, who: Principal = BOB) -> Deleted:
    return database.change(lambda session: undeletion.undo(session, Reference.parse(reference), since, who))


def delete_tree(database: Database, path: str) -> DeletedTree:
    return database.change(lambda s: deletion.delete_tree(s, TreePath.parse(path), BOB, with_tags=True))


def delete_base(database: Database, name: str, *, recursive: bool = True) -> DeletedTree:
    return database.change(lambda session: new_base.delete(session, name, BOB, recursive=recursive))


def end_all(database: Database) -> tuple[str, ...]:
    return database.change(lambda session: purge.purge(session, purge.expired(session, FAR, 99), purge.GRACE_OVER, BOB))


def rows(database: Database, table: str, where: str = "1 = 1") -> int:
    with database.read() as session:
        return int(session.execute(text(f"SELECT count(*) FROM {table} WHERE {where}")).scalar_one())


# ------------------------------------------------------------------ no read shows it


def fill(database: Database, writer: Writer, *, deleted: bool) -> None:
    """A registry; with or without what was there too, and was deleted."""
    with database.write() as session:
        writer.base(session, "llama")
        tagging.protect(session, "llama", "prod", TESTER)
        support = writer.publish(session, "llama/support", "s1", tag="prod", metrics={"acc": 0.5})
        french = writer.publish(session, "llama/support/french", "f1", support, notes={"team": "Straße"}, rank=16)
        writer.publish(session, "llama/support/french/legal", "l1", french)
        writer.publish(session, "llama/support", "s2", metrics={"acc": 0.75})
        if deleted:
            writer.base(session, "bert")
            tagging.protect(session, "bert", "prod", TESTER)
            writer.base(session, "gone")
            writer.publish(session, "bert/support", "b1", tag="prod")
            third = writer.publish(session, "llama/support", "s3 secret", tag="stage", metrics={"acc": 0.9}, rank=64)
            writer.publish(session, "llama/support/french", "f2 secret", third, notes={"team": "secret"}, tag="dev")
            code = writer.publish(session, "llama/code", "c1 secret", tag="only-hidden")
            writer.publish(session, "llama/code/python", "p1 secret", code)
            _materialise(session, third.id)
        for table, column in (("base_models", "created_at"), ("revisions", "created_at"), ("events", "at")):
            session.execute(text(f"UPDATE {table} SET {column} = '2026-01-02 03:04:05.000000'"))
    if deleted:
        database.change(lambda s: deletion.delete(s, key(s, "llama/support/french@2"), TESTER, with_tags=True))
        database.change(lambda s: deletion.delete(s, key(s, "llama/support@3"), TESTER, with_tags=True))
        delete_tree(database, "llama/code")
        delete_base(database, "gone", recursive=False)
        delete_base(database, "bert")


def _materialise(session: Session, revision_id: int) -> None:
    blobs.record(session, [blob("made of a secret")])
    materialise.add(
        session,
        materialise.NewMaterialisation(
            meaning=materialisations.MaterialisationKey(revision_id, digest_of("plan"), 1),
            kind="lora",
            rendering=digest_of("rendering"),
            plan={},
            numerics="n",
            notices=(),
            files=(blobs.FileRef("adapter_model.safetensors", digest_of("made of a secret")),),
        ),
        FAR,
        TESTER,
    )


@pytest.fixture
def without(tmp_path: Path, template: Path, writer: Writer) -> Iterator[Database]:
    """The registry in which what was deleted has never been; a file of SQLite is as good as any."""
    shutil.copy(template, tmp_path / "without.sqlite")
    database = Database(sqlite_url(tmp_path / "without.sqlite"))
    fill(database, writer, deleted=False)
    yield database
    database.dispose()


def _of_repos(session: Session) -> Any:
    """What the views of the Hub ask, of every place."""
    said: list[Any] = []
    for place in test_visibility.PLACES:
        path = TreePath.parse(place)
        if not path.is_base:
            said.append((place, [row[:3] for row in repo_rows.numbered(session, path)]))
            said.append([name for name, _ in repo_rows.tags(session, path)])
            said.append([row.number for row in repo_rows.served(session, path, "published", limit=10)])
            said.append(len(revisions.digests(session, path)))
            said.append([row.number for row in _or_nothing(lambda: revisions.pinnable(session, path))])  # noqa: B023
            said.append(repo_rows.kept_by_others(session, path, "lora", numerics="other", artifact_format=1))
        said += [repo_rows.is_number_below(session, path.base, number) for number in (1, 2, 3)]
        said += [repo_rows.is_tag_below(session, path.base, tag) for tag in ("prod", "stage", "only-hidden")]
    said.append([row.reference for row in materialisations.listing(session)])
    said.append(materialisations.containing(session, digest_of("made of a secret")))
    said += [unreferenced.takes_down(session, digest_of(one)) for one in ("s1", "s3 secret", "b1", "bert table")]
    return said


def _or_nothing(ask: Callable[[], Any]) -> Any:
    try:
        return ask()
    except NotFoundError:
        return ()


@pytest.mark.long_on("postgresql")
def test_every_read_answers_as_if_it_had_never_been(database: Database, writer: Writer, without: Database) -> None:
    """All that `test_sight` asks, which is every function that reads, and what the views of the Hub ask."""
    fill(database, writer, deleted=True)
    expected, found = (
        {name: said for name, said in test_visibility.answers(one, ALL).items() if "events" not in name}
        for one in (without, database)
    )
    assert found == expected
    with without.read() as bare, database.read() as session:
        assert test_visibility.plain(_of_repos(session)) == test_visibility.plain(_of_repos(bare))
    assert "secret" not in str([answer for name, answer in found.items() if "secret" not in name])
    assert rows(database, "revisions", "deleted_at IS NOT NULL") == 5


@pytest.mark.long
@pytest.mark.slow  # the test of the test above it
def test_a_read_would_show_it_if_it_were_not_deleted(database: Database, writer: Writer, without: Database) -> None:
    fill(database, writer, deleted=True)
    with database.write() as session:
        session.execute(text("UPDATE revisions SET deleted_at = NULL"))
        session.execute(text("UPDATE base_models SET deleted_at = NULL"))
    expected, found = test_visibility.answers(without, ALL), test_visibility.answers(database, ALL)
    assert len([name for name, answer in found.items() if answer != expected[name]]) > 40


def test_events_of_what_is_deleted_stay_readable(database: Database, writer: Writer) -> None:
    fill(database, writer, deleted=True)
    end_all(database)
    with database.read() as session:
        told = {(one.action, one.subject) for one in events.recent(session, 99)}
    for action in ("publish", "delete", "purge"):
        assert (action, "llama/support@3") in told
    assert ("base delete", "bert") in told


# ------------------------------------------------------------------ undoing


def test_an_undo_gives_back_all_but_materialisations(filled: Database) -> None:
    with filled.write() as session:
        found = key(session, "llama/support@2")
        tagging.set_tag(session, found, "next", TESTER)
        tagging.set_tag(session, found, "stays", TESTER)
        _materialise(session, found)
        before = browse.summary(session, found)
    deleted = delete(filled, "llama/support@2", with_tags=True)
    assert deleted.tags == ("llama/support@next", "llama/support@stays")
    filled.change(lambda session: tagging.set_tag(session, key(session, "llama/support@1"), "next", TESTER))
    given = undo(filled, f"llama/support@{deleted.digest[:20]}")
    assert given == Deleted(
        reference="llama/support@2",
        digest=deleted.digest,
        tags=("llama/support@stays",),
        undone=True,
        tags_elsewhere=("llama/support@next",),
    )
    with filled.read() as session:
        assert browse.summary(session, found) == before.model_copy(update={"tags": ("stays",)})
        assert revisions.find(session, Reference.parse("llama/support@next")).number == 1
        assert materialisations.find(session, [found]) == ()
        assert [one.action for one in events.recent(session, 1)] == ["delete undo"]
    again = undo(filled, "llama/support@2")
    assert again == given.model_copy(update={"tags": (), "tags_elsewhere": ()})
    with filled.read() as session:
        assert [one.action for one in events.recent(session, 2)] == ["delete undo", "tag"]


def test_what_a_parent_is_deleted_of_comes_back_after_it(filled: Database) -> None:
    for reference in ("llama/support/french/legal@1", "llama/support/french@1"):
        delete(filled, reference)
    with pytest.raises(ConflictError, match=r"trained on llama/support/french@1, which is deleted") as refused:
        undo(filled, "llama/support/french/legal@1")
    assert refused.value.code == "parent_deleted"
    undo(filled, "llama/support/french@1")
    undo(filled, "llama/support/french/legal@1")
    with filled.read() as session:
        assert len(revisions.lineage(session, key(session, "llama/support/french/legal@1"))) == 3


def _restored(database: Database, path: str) -> DeletedTree:
    return database.change(lambda s: undeletion.undo_tree(s, TreePath.parse(path), LONG_AGO, BOB))


def test_every_parent_of_a_tree_is_looked_for(filled: Database, writer: Writer) -> None:
    """More of them than one statement asks for, all there, and then the last one deleted too."""
    with filled.write() as session:
        for number in range(1, 6):
            parent = writer.publish(session, "llama/top", f"top {number}")
            writer.publish(session, "llama/top/below", f"below {number}", parent)
    gone = delete_tree(filled, "llama/top/below")
    assert _restored(filled, "llama/top/below").revisions == gone.revisions
    delete_tree(filled, "llama/top/below")
    delete(filled, "llama/top@5")
    with pytest.raises(ConflictError, match="below@5 was trained on llama/top@5, which is deleted") as refused:
        _restored(filled, "llama/top/below")
    assert refused.value.code == "parent_deleted"


def test_every_source_of_a_combination_is_looked_for(filled: Database, writer: Writer) -> None:
    with filled.write() as session:
        parts = [writer.publish(session, f"llama/part{number}", f"part {number}") for number in range(1, 6)]
        for number in range(1, 4):
            pins = tuple(publish.SourcePin(one.id, 1.0) for one in parts[: number + 2])  # only the last is of all five
            writer.publish(session, "llama/mix", f"mix {number}", sources=pins)
    gone = delete_tree(filled, "llama/mix")
    assert _restored(filled, "llama/mix").revisions == gone.revisions
    delete_tree(filled, "llama/mix")
    delete(filled, "llama/part5@1")
    with pytest.raises(ConflictError, match="is combined of llama/part5@1, which is deleted") as refused:
        _restored(filled, "llama/mix")
    assert refused.value.code == "parent_deleted"


def test_what_was_materialised_of_each_revision_of_a_tree_goes(filled: Database) -> None:
    with filled.write() as session:
        keys = [key(session, f"llama/support/{name}@1") for name in ("french", "french/legal")]
        keys += [key(session, "llama/support@1"), key(session, "llama/code@1")]
        for one in (keys[-1], keys[1]):
            _materialise(session, one)
        for chosen in (keys, keys[::-1]):
            assert {row.reference for row in materialisations.find(session, chosen)} == {
                "llama/code@1",
                "llama/support/french/legal@1",
            }
    delete_tree(filled, "llama/support")
    with filled.read() as session:
        assert [row.reference for row in materialisations.find(session, keys)] == ["llama/code@1"]
    assert rows(filled, "materialisations") == 1


def test_an_undo_that_comes_too_late(filled: Database) -> None:
    delete(filled, "llama/code@1")
    with pytest.raises(NotFoundError, match="grace period is over"):
        undo(filled, "llama/code@1", datetime.now(UTC) + timedelta(seconds=1))
    with (
        pytest.raises(NotFoundError, match=r"llama/code was deleted on .* grace period is over"),
        filled.write() as new,
    ):
        undeletion.undo_tree(new, TreePath.parse("llama/code"), datetime.now(UTC) + timedelta(seconds=1), BOB)
    assert end_all(filled) == ("llama/code@1",)
    assert end_all(filled) == ()
    with pytest.raises(
        NotFoundError, match=r"There is no adapter llama/code\..*There is no deleted revision to restore"
    ):
        undo(filled, "llama/code@1")
    for table in ("revision_files", "revision_targets", "metrics", "annotations", "tags"):
        assert rows(filled, table, "revision_id NOT IN (SELECT id FROM revisions)") == 0


def test_a_protected_tag_comes_back_by_admins_only(filled: Database) -> None:
    filled.change(lambda session: tagging.set_tag(session, key(session, "llama/code"), "prod", TESTER))
    delete(filled, "llama/code@1", with_tags=True)
    filled.change(lambda session: tagging.protect(session, "llama", "prod", BOB))
    with pytest.raises(NotAllowedError) as refused:
        undo(filled, "llama/code@1", who=WRITER)
    assert refused.value.code == "protected_tag"
    assert undo(filled, "llama/code@1").tags == ("llama/code@prod",)


def test_a_scope_does_not_see_what_is_deleted_elsewhere(filled: Database) -> None:
    delete(filled, "llama/code@1")
    for seen in (rights("admin", "llama/support"), rights("admin", "bert")):
        with pytest.raises(NotFoundError), filled.write(seen) as session:
            undeletion.undo(session, Reference.parse("llama/code@1"), LONG_AGO, BOB)


def test_a_whole_adapter_goes_and_comes_back_at_once(filled: Database, writer: Writer) -> None:
    delete(filled, "llama/support/french/legal@1")
    with filled.read() as session:
        listed = deletion.listing(session, SUPPORT)
        before = nodes.tree(session)
    with pytest.raises(ConflictError, match="llama/support@prod") as refused:
        filled.change(lambda session: deletion.delete_tree(session, SUPPORT, BOB))
    assert refused.value.code == "tagged"
    gone = delete_tree(filled, "llama/support")
    assert gone == listed.model_copy(update={"done": True})
    assert gone.revisions == ("llama/support@1", "llama/support/french@1", "llama/support@2")
    with pytest.raises(NotFoundError):
        delete_tree(filled, "llama/support")
    with pytest.raises(NotFoundError, match=r"no adapter llama/support\."):
        filled.change(lambda session: writer.publish(session, "llama/support/new", "n1"))

    def give_back(path: str) -> DeletedTree:
        return filled.change(lambda s: undeletion.undo_tree(s, TreePath.parse(path), LONG_AGO, BOB))

    with pytest.raises(ConflictError, match="llama/support@1, which is deleted"):
        give_back("llama/support/french")
    given = give_back("llama/support")
    assert (given.revisions, given.tags, given.undone) == (gone.revisions, ("llama/support@prod",), True)
    with filled.read() as session:
        assert nodes.tree(session) == before
    assert give_back("llama/support").revisions == ("llama/support/french/legal@1",)  # what went before that
    with pytest.raises(NotFoundError, match="nothing to restore"):
        give_back("llama/support")


# ------------------------------------------------------------------ the same again


def test_the_same_content_is_a_new_number_and_ends_the_undo(filled: Database, writer: Writer) -> None:
    gone = delete_tree(filled, "llama/support")
    assert "llama/support/french/legal@1" in gone.revisions
    again = filled.change(lambda session: writer.publish(session, "llama/support", "s1"))
    assert again.reference == "llama/support@3"
    with pytest.raises(NotFoundError, match="has no revision 1"):
        undo(filled, "llama/support@1")
    with pytest.raises(NotFoundError):  # it was trained on that one
        undo(filled, "llama/support/french@1")
    assert undo(filled, "llama/support@2").undone
    assert rows(filled, "revisions", "deleted_at IS NOT NULL") == 0
    with filled.read() as session:
        purged = [one for one in events.recent(session, 99) if one.action == "purge"]
    assert {one.detail["why"] for one in purged} == {purge.SAME_AGAIN}
    assert len(purged) == 3


def test_numbers_are_never_given_twice(filled: Database, writer: Writer) -> None:
    delete(filled, "llama/support@2")

    def copy(content: str, number: int) -> int:
        return filled.change(lambda session: writer.publish(session, "llama/support", content, number=number)).number

    assert copy("a", 2) == 3  # deleted
    end_all(filled)
    assert copy("b", 2) == 4  # and gone


# ------------------------------------------------------------------ base models


def test_a_base_model_goes_alone_or_with_all_below_it(filled: Database, writer: Writer) -> None:
    filled.change(lambda session: writer.base(session, "bert"))
    assert delete_base(filled, "bert", recursive=False) == DeletedTree(path="bert", revisions=(), tags=(), use=Use())
    with pytest.raises(ConflictError, match=r"llama/support@1.* depend on it") as refused:
        delete_base(filled, "llama", recursive=False)
    assert refused.value.code == "has_children"
    filled.change(lambda session: tagging.protect(session, "llama", "rel-*", BOB))
    delete(filled, "llama/code@1")
    with filled.read() as session:
        before = nodes.tree(session)
    gone = delete_base(filled, "llama")
    assert (len(gone.revisions), gone.tags, gone.protected_tags) == (4, ("llama/support@prod",), ("rel-*",))
    with filled.read() as session:
        assert bases.summaries(session) == ()
        assert nodes.tree(session).roots == ()
        with pytest.raises(NotFoundError, match="no base model llama"):
            bases.get(session, "llama")
        with pytest.raises(NotFoundError, match="no base model llama"):
            tagging.patterns(session, "llama")
    for reference in ("llama/code@1", "llama/support@1"):
        with pytest.raises(ConflictError, match="base delete llama --undo"):
            undo(filled, reference)
    given = filled.change(lambda session: new_base.undo(session, "llama", LONG_AGO, BOB))
    assert (given.revisions, given.tags) == (gone.revisions, gone.tags)
    with filled.read() as session:
        assert nodes.tree(session) == before
        assert [one.pattern for one in tagging.patterns(session, "llama")] == ["rel-*"]
    assert undo(filled, "llama/code@1").undone  # deleted by itself, before


def test_the_name_of_a_deleted_base_model_is_free(filled: Database, writer: Writer) -> None:
    filled.change(lambda session: tagging.protect(session, "llama", "rel-*", BOB))
    delete_base(filled, "llama")
    filled.change(lambda session: writer.base(session, "llama", "v"))
    with filled.read() as session:
        assert bases.get(session, "llama").digest == digest_of("v")
        assert bases.summary(session, "llama").adapters == 0
        assert tagging.patterns(session, "llama") == ()
        (base,) = session.execute(text("SELECT name FROM base_models")).scalars()
    assert base == "llama"
    assert rows(filled, "revisions") == 0
    assert filled.change(lambda s: new_base.undo(s, "llama", LONG_AGO, BOB)).revisions == ()  # it is there
    new = filled.change(lambda s: writer.publish(s, "llama/support", "s1", base_digest=digest_of("v")))
    assert new.number == 3  # what @1 and @2 meant is in people's scripts


@pytest.mark.parametrize("adapters", [True, False])
def test_a_base_model_past_its_grace(filled: Database, writer: Writer, adapters: bool) -> None:
    name = "llama" if adapters else "bert"
    filled.change(lambda session: writer.base(session, "bert"))
    delete_base(filled, name)

    def end(before: datetime) -> tuple[int | None, bool]:
        return filled.change(lambda s: purge.purge_base(s, name, purge.GRACE_OVER, BOB, before=before))

    assert end(LONG_AGO) == (None, False)
    with filled.read() as session:
        assert purge.expired_bases(session, FAR) == (name,)
        assert purge.expired_bases(session, LONG_AGO) == ()
        foreseen = {row.digest for row in unreferenced.unneeded(session, FAR, foreseen=True)}
    key_that_stays, gone = end(FAR)
    assert (gone, key_that_stays is not None) == (True, adapters)
    with filled.read() as session:
        assert purge.expired_bases(session, FAR) == ()
        assert {row.digest for row in unreferenced.unneeded(session, FAR)} == foreseen
    assert digest_of(f"{name} w model.safetensors") in foreseen
    assert end(FAR)[1] is False
    with pytest.raises(NotFoundError, match=f"no base model {name}"):
        filled.change(lambda s: new_base.undo(s, name, LONG_AGO, BOB))
    filled.change(lambda session: writer.base(session, name, "v"))
    assert rows(filled, "base_models") == 2


def test_blobs_of_what_is_deleted_are_needed_until_the_end(filled: Database) -> None:
    delete(filled, "llama/code@1")
    with filled.read() as session:
        assert unreferenced.unneeded(session, FAR) == ()
        assert unreferenced.count_in_grace(session, LONG_AGO) == 1
        assert unreferenced.count_in_grace(session, FAR) == 0
        assert [row.digest for row in unreferenced.unneeded(session, FAR, foreseen=True)] == [digest_of("c1")]
    with filled.read(rights("writer", "llama")) as session:
        assert blobs.visible(session, [digest_of("c1"), digest_of("s1")]) == {digest_of("s1")}
    end_all(filled)
    with filled.read() as session:
        assert [row.digest for row in unreferenced.unneeded(session, FAR)] == [digest_of("c1")]


def test_a_prefix_has_to_mean_one(filled: Database) -> None:
    with filled.write() as session:
        for number in (1, 2):
            session.execute(text("UPDATE revisions SET digest = :digest WHERE number = :number AND adapter_id = 1"),
                            {"digest": "sha256:" + "a" * 60 + f"{number:04}", "number": number})  # fmt: skip
    delete(filled, "llama/support@2")
    with pytest.raises(UsageError, match="several revisions"):
        undo(filled, "llama/support@sha256:aaaaaaaa")


# ------------------------------------------------------------------ two at once


def publishing_on(writer: Writer, database: Database, parent: str) -> Callable[[Session], object]:
    with database.read() as session:
        above = revisions.find(session, Reference.parse(parent))
    path = f"{above.path}/new"
    return lambda session: writer.publish(session, path, "new", above)


def deleting(database: Database, reference: str) -> Callable[[Session], object]:
    with database.read() as session:
        found = key(session, reference)
    return lambda session: deletion.delete(session, found, BOB, with_tags=True)


@ON_POSTGRESQL
def test_nothing_is_published_on_what_is_being_deleted(filled: Database, writer: Writer) -> None:
    child = publishing_on(writer, filled, "llama/code@1")
    late = beside(deleting(filled, "llama/code@1"), child, filled)
    assert isinstance(late.exception(), NotFoundError)
    assert rows(filled, "revisions", "message = 'message of new'") == 0


@ON_POSTGRESQL
def test_what_something_is_being_published_on_is_not_deleted(filled: Database, writer: Writer) -> None:
    child = publishing_on(writer, filled, "llama/code@1")
    late = beside(child, deleting(filled, "llama/code@1"), filled)
    error = late.exception()
    assert isinstance(error, ConflictError)
    assert error.code == "has_children"


@ON_POSTGRESQL
def test_no_tag_comes_to_name_what_is_being_deleted(filled: Database) -> None:
    with filled.read() as session:
        found = key(session, "llama/code@1")
    late = beside(deleting(filled, "llama/code@1"), lambda s: tagging.set_tag(s, found, "prod", BOB), filled)
    assert isinstance(late.exception(), NotFoundError)
    assert rows(filled, "tags", f"revision_id = {found}") == 0


@ON_POSTGRESQL
def test_what_is_being_tagged_is_not_deleted(filled: Database) -> None:
    with filled.read() as session:
        found = key(session, "llama/code@1")
    late = beside(
        lambda session: tagging.set_tag(session, found, "prod", BOB),
        lambda session: deletion.delete(session, found, BOB),
        filled,
    )
    error = late.exception()
    assert isinstance(error, ConflictError)
    assert error.code == "tagged"


@ON_POSTGRESQL
def test_an_undo_beside_a_collector(filled: Database) -> None:
    delete(filled, "llama/code@1")

    def give_back(session: Session) -> object:
        return undeletion.undo(session, Reference.parse("llama/code@1"), LONG_AGO, BOB)

    def end(session: Session) -> object:
        return purge.purge(session, purge.expired(session, FAR, 9), purge.GRACE_OVER, BOB)

    assert beside(give_back, end, filled).result() == ()
    delete(filled, "llama/code@1")
    assert isinstance(beside(end, give_back, filled).exception(), NotFoundError)


@ON_POSTGRESQL
def test_an_undo_beside_the_same_content(filled: Database, writer: Writer) -> None:
    delete(filled, "llama/code@1")

    def give_back(session: Session) -> object:
        return undeletion.undo(session, Reference.parse("llama/code@1"), LONG_AGO, BOB)

    def again(session: Session) -> tuple[str, bool]:
        blobs.record(session, [blob("c1")])
        row, created = publish.publish(session, writer.new("llama/code", "c1", None), BOB)
        return row.reference, created

    assert beside(give_back, again, filled).result() == ("llama/code@1", False)
    delete(filled, "llama/code@1")
    assert isinstance(beside(again, give_back, filled).exception(), NotFoundError)


@ON_POSTGRESQL
def test_an_undo_beside_the_delete_of_its_parent(filled: Database) -> None:
    delete(filled, "llama/support/french/legal@1")

    def give_back(session: Session) -> object:
        return undeletion.undo(session, Reference.parse("llama/support/french/legal@1"), LONG_AGO, BOB)

    refused = beside(give_back, deleting(filled, "llama/support/french@1"), filled).exception()
    assert isinstance(refused, ConflictError)
    delete(filled, "llama/support/french/legal@1")
    refused = beside(deleting(filled, "llama/support/french@1"), give_back, filled).exception()
    assert isinstance(refused, ConflictError)
    assert refused.code == "parent_deleted"


@ON_POSTGRESQL
def test_nothing_is_published_below_a_base_model_that_is_being_deleted(filled: Database, writer: Writer) -> None:
    def gone(session: Session) -> object:
        return new_base.delete(session, "llama", BOB, recursive=True)

    def below(session: Session) -> object:
        return writer.publish(session, "llama/code", "c9")

    late = beside(below, gone, filled).result()
    assert isinstance(late, DeletedTree)
    assert "llama/code@2" in late.revisions
    filled.change(lambda session: new_base.undo(session, "llama", LONG_AGO, BOB))
    assert isinstance(beside(gone, below, filled).exception(), NotFoundError)
    assert rows(filled, "revisions", "deleted_at IS NULL") == 0


@ON_POSTGRESQL
def test_what_is_published_meanwhile_goes_with_the_tree(filled: Database, writer: Writer) -> None:
    child = publishing_on(writer, filled, "llama/code@1")
    late = beside(
        child, lambda s: deletion.delete_tree(s, TreePath.parse("llama/code"), BOB, with_tags=True), filled
    ).result()
    assert isinstance(late, DeletedTree)
    assert late.revisions == ("llama/code@1", "llama/code/new@1")


@ON_SQLITE
def test_a_tree_of_more_revisions_than_a_statement_takes_values(
    database: Database, writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Deleted, given back, deleted again and removed for good: 90 revisions where a statement takes 60 values."""
    monkeypatch.setattr(blobs, "AT_ONCE", 20)

    def fill(session: Session) -> None:
        writer.base(session, "llama")
        top = writer.publish(session, "llama/top", "top")
        for number in range(89):
            writer.publish(session, "llama/top/below", f"content {number}", top, tag=f"t{number}")

    database.change(fill)

    def narrow(connection: sqlite3.Connection, *_: object) -> None:
        connection.setlimit(sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER, 60)

    with database.read() as session:
        engine = session.connection().engine
    event.listen(engine, "checkout", narrow)
    below, everything = TreePath.parse("llama/top/below"), TreePath.parse("llama/top")
    assert len(delete_tree(database, str(below)).revisions) == 89
    given = database.change(lambda session: undeletion.undo_tree(session, below, LONG_AGO, BOB))
    assert (len(given.revisions), len(given.tags)) == (89, 89)
    assert len(delete_tree(database, str(everything)).revisions) == 90
    assert len(end_all(database)) == 90
