"""The life of a tree: deleted, retracted, protected; what is refused and what remains."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from registry.catalogue.changes import deletion, retraction, tagging
from registry.catalogue.database import events
from registry.catalogue.database.database import Database
from registry.catalogue.tree import bases, browse, nodes, revisions, search
from registry.catalogue.tree.tag_moves import subtree
from registry.errors import ConflictError, NotAllowedError, NotFoundError, RetractedError, UsageError
from registry.reference import Path, Reference
from registry.rights import Principal
from registry.schemas import Deleted, Retracted
from registry.schemas.requests import SearchRequest
from registry.schemas.usage import Use
from tests.catalogue.rows import BOB, ON_POSTGRESQL, TESTER, Writer, rights

WRITER = Principal("wim", rights("writer"))
WAITING = text("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()")


def key(session: Session, reference: str) -> int:
    return revisions.find(session, Reference.parse(reference)).id


def on(reference: str, act: Callable[..., Deleted | Retracted], *arguments: object) -> Callable[[Session], object]:
    return lambda session: act(session, key(session, reference), *arguments)


def on_key(act: Callable[..., Retracted], *arguments: object) -> Callable[[Session, int], object]:
    return lambda session, found: act(session, found, *arguments)


def waits(database: Database) -> bool:
    with database.read() as session:  # PostgreSQL tells a transaction the same all the time
        return bool(session.scalar(WAITING))


def beside(
    first: Callable[[Session], object], second: Callable[[Session], object], database: Database
) -> Future[object]:
    """What comes of ``second``, which waits for a row that ``first`` holds."""
    with ThreadPoolExecutor(1) as pool:
        with database.write() as session:
            first(session)
            late = pool.submit(database.change, second)
            while not late.done() and not waits(database):
                time.sleep(0.01)
        wait([late])
    return late


@ON_POSTGRESQL
@pytest.mark.parametrize("act", [on_key(retraction.retract, "bad", BOB), on_key(retraction.undo, BOB)])
def test_a_retraction_beside_a_delete(filled: Database, act: Callable[[Session, int], object]) -> None:
    with filled.read() as session:
        found = key(session, "llama/code@1")
    late = beside(lambda session: deletion.delete(session, found, BOB), lambda session: act(session, found), filled)
    assert isinstance(late.exception(), NotFoundError)


@ON_POSTGRESQL
def test_a_pattern_is_unprotected_once(filled: Database) -> None:
    filled.change(lambda session: tagging.protect(session, "llama", "prod", BOB))

    def undo(session: Session) -> object:
        return tagging.unprotect(session, "llama", "prod", BOB)

    assert isinstance(beside(undo, undo, filled).exception(), NotFoundError)


def delete(database: Database, reference: str, who: Principal = BOB, *, with_tags: bool = False) -> Deleted:
    return database.change(lambda session: deletion.delete(session, key(session, reference), who, with_tags=with_tags))


def test_deleting_leaves_the_event_and_the_number(filled: Database, writer: Writer) -> None:
    with filled.write() as session:
        digest = revisions.find(session, Reference.parse("llama/support@2")).digest
        tagging.set_tag(session, key(session, "llama/support@2"), "next", TESTER)
    deleted = delete(filled, "llama/support@2", with_tags=True)
    assert deleted == Deleted(reference="llama/support@2", digest=digest, tags=("llama/support@next",), use=Use())
    with filled.read() as session:
        assert [one.number for one in browse.log(session, Path.parse("llama/support")).revisions] == [1]
        with pytest.raises(NotFoundError, match="has no tag next"):
            key(session, "llama/support@next")
        (event,) = events.recent(session, 1)
        for table in ("revision_files", "revision_targets", "metrics", "annotations", "tags"):
            orphans = f"SELECT count(*) FROM {table} WHERE revision_id NOT IN (SELECT id FROM revisions)"
            assert session.execute(text(orphans)).scalar_one() == 0
    assert (event.action, event.subject, event.actor, event.token) == ("delete", "llama/support@2", "bob", "tok_bob")
    assert (event.detail["digest"], event.detail["tags"]) == (digest, ["next"])
    assert filled.change(lambda session: writer.publish(session, "llama/support", "s3")).number == 3
    with pytest.raises(NotFoundError, match="has no revision 2"):
        delete(filled, "llama/support@2", with_tags=True)


def test_what_something_was_trained_on_stays(filled: Database, writer: Writer) -> None:
    with pytest.raises(ConflictError) as caught:
        delete(filled, "llama/support@1")
    assert caught.value.code == "has_children"
    assert str(caught.value).startswith(
        "llama/support@1 can't be deleted: llama/support/french@1 was trained on it. Retract it"
    )
    with filled.write() as session:
        parent = revisions.find(session, Reference.parse("llama/support@1"))
        for count in range(9):
            writer.publish(session, f"llama/support/n{count}", f"n{count}", parent)
    with pytest.raises(ConflictError, match=r"llama/support/n6@1 and 2 more were trained on it"):
        delete(filled, "llama/support@1")


def test_an_adapter_without_revisions_is_not_there_but_its_numbers_are_taken(filled: Database, writer: Writer) -> None:
    delete(filled, "llama/support/french/legal")
    delete(filled, "llama/support/french")
    delete(filled, "llama/code")
    with filled.read() as session:
        tree = nodes.tree(session)
        assert [(node.path, node.children) for node in tree.roots[0].children] == [("llama/support", ())]
        assert bases.summary(session, "llama").adapters == 1
        assert subtree(session, Path.parse("llama")) == ("llama/support@1", "llama/support@2")
        for gone in ("llama/code", "llama/code@1", "llama/cod"):
            with pytest.raises(NotFoundError) as caught:
                key(session, gone)
            path = gone.partition("@")[0]
            assert str(caught.value) == f"There is no adapter {path}. Did you mean llama/support?"
        with pytest.raises(NotFoundError, match=r"There is no adapter llama/support/french\."):
            browse.log(session, Path.parse("llama/support/french/legal"))
        assert search.search(session, SearchRequest(text="french")) == ()
    with pytest.raises(NotFoundError, match=r"There is no adapter llama/code\."):
        filled.change(lambda session: writer.publish(session, "llama/code/x", "x"))
    assert filled.change(lambda session: writer.publish(session, "llama/code", "c2")).number == 2


def test_retracting_shows_all_that_it_takes_down(filled: Database) -> None:
    with filled.write() as session:
        tagging.set_tag(session, key(session, "llama/support/french/legal"), "stage", TESTER)
    answer = filled.change(lambda s: retraction.retract(s, key(s, "llama/support@1"), "made of bad data", BOB))
    assert answer == Retracted(
        reference="llama/support@1",
        reason="made of bad data",
        descendants=("llama/support/french@1", "llama/support/french/legal@1"),
        tags=("llama/support@prod", "llama/support/french/legal@stage"),
        use=Use(),
    )
    with filled.read() as session:
        log = browse.log(session, Path.parse("llama/support")).revisions
        assert [one.retracted is not None for one in log] == [False, True]
        legal = browse.summary(session, key(session, "llama/support/french/legal")).retracted
        (event,) = events.recent(session, 1)
        tree = nodes.tree(session).roots[0]
    assert legal is not None
    assert (legal.reference, legal.reason, legal.actor) == ("llama/support@1", "made of bad data", "bob")
    assert (event.action, event.subject, event.at >= legal.at) == ("retract", "llama/support@1", True)
    french = tree.children[1].children[0].revision
    assert french is not None
    assert french.retracted == legal


def test_a_lineage_with_something_retracted_is_refused(filled: Database) -> None:
    filled.change(lambda session: retraction.retract(session, key(session, "llama/support@1"), "bad data", BOB))
    with filled.read() as session:
        whole = revisions.lineage(session, key(session, "llama/support/french/legal"))
        itself = revisions.lineage(session, key(session, "llama/support@1"))
        retraction.check(revisions.lineage(session, key(session, "llama/support@2")))
        retraction.check(())
    with pytest.raises(
        RetractedError,
        match=r"^llama/support/french/legal@1 was trained on llama/support@1: llama/support@1 was retracted by bob on "
        r"\d{4}-\d\d-\d\d: bad data$",
    ) as caught:
        retraction.check(whole)
    assert caught.value.code == "retracted"
    with pytest.raises(RetractedError, match=r"^llama/support@1 was retracted by bob"):
        retraction.check(itself)


def test_the_nearest_retraction_is_shown(filled: Database) -> None:
    for reference, reason in (("llama/support@1", "far"), ("llama/support/french", "near")):
        filled.change(on(reference, retraction.retract, reason, BOB))
    with filled.read() as session:
        legal = browse.summary(session, key(session, "llama/support/french/legal")).retracted
        lineage = revisions.lineage(session, key(session, "llama/support/french/legal"))
    assert legal is not None
    assert legal.reason == "near"
    with pytest.raises(RetractedError, match="near"):
        retraction.check(lineage)


def test_undoing_and_doing_again(filled: Database) -> None:
    def count() -> int:
        with filled.read() as session:
            return len(events.recent(session, 100))

    once = filled.change(on("llama/code", retraction.retract, "one", BOB))
    before = count()
    assert filled.change(on("llama/code", retraction.retract, "one", TESTER)) == once
    assert count() == before
    filled.change(on("llama/code", retraction.retract, "two", TESTER))
    with filled.read() as session:
        shown = browse.summary(session, key(session, "llama/code")).retracted
        assert shown is not None
        assert (shown.reason, shown.actor) == ("two", "tester")
    undone = filled.change(on("llama/code", retraction.undo, BOB))
    assert undone == Retracted(reference="llama/code@1", reason=None, descendants=(), tags=())
    assert filled.change(on("llama/code", retraction.undo, BOB)) == undone
    assert count() == before + 2
    with filled.read() as session:
        assert browse.summary(session, key(session, "llama/code")).retracted is None
        retraction.check(revisions.lineage(session, key(session, "llama/code")))
        assert events.recent(session, 1)[0].detail == {"reason": "two"}


@pytest.mark.long_on("postgresql")
@pytest.mark.parametrize("reason", ["", "  \n", "a\x00b", "x" * 10_001])
def test_a_retraction_needs_a_reason(filled: Database, reason: str) -> None:
    with pytest.raises(UsageError, match="reason"):
        filled.change(on("llama/code", retraction.retract, reason, BOB))


def test_what_is_gone_can_not_be_retracted(filled: Database) -> None:
    for act in (lambda s: retraction.retract(s, 999, "x", BOB), lambda s: retraction.undo(s, 999, BOB)):
        with pytest.raises(NotFoundError, match="no longer exists"):
            filled.change(act)


def test_protected_tags_are_moved_by_admins_only(filled: Database, writer: Writer) -> None:
    support = Path.parse("llama/support")
    assert [one.pattern for one in filled.change(lambda s: tagging.protect(s, "llama", "prod", BOB))] == ["prod"]
    both = filled.change(lambda session: tagging.protect(session, "llama", "release-*", BOB))
    assert [one.pattern for one in both] == ["prod", "release-*"]
    refused: list[Callable[[Session], object]] = [
        lambda session: tagging.set_tag(session, key(session, "llama/support@2"), "prod", WRITER),
        lambda session: tagging.set_tag(session, key(session, "llama/code"), "release-1.0", WRITER),
        lambda session: tagging.remove_tag(session, support, "prod", WRITER),
        lambda session: writer.publish(session, "llama/code", "c2", tag="prod", principal=WRITER),
    ]
    for act in refused:
        with pytest.raises(NotAllowedError, match=r"The tag \S+ of llama/\S+ is protected by the pattern") as caught:
            filled.change(act)
        assert caught.value.code == "protected_tag"
    filled.change(lambda session: tagging.set_tag(session, key(session, "llama/support@2"), "releases", WRITER))
    filled.change(lambda session: tagging.set_tag(session, key(session, "llama/support@2"), "prod", BOB))
    with pytest.raises(NotAllowedError, match="protected"):
        delete(filled, "llama/support@2", WRITER)
    assert delete(filled, "llama/support@2", with_tags=True).tags == ("llama/support@prod", "llama/support@releases")
    filled.change(lambda session: tagging.unprotect(session, "llama", "prod", BOB))
    filled.change(lambda session: tagging.set_tag(session, key(session, "llama/support@1"), "prod", WRITER))


def test_patterns_are_of_one_base_model(filled: Database, writer: Writer) -> None:
    with filled.write() as session:
        writer.base(session, "bert")
        tagging.protect(session, "bert", "prod", BOB)
        tagging.protect(session, "bert", "prod", BOB)
        tagging.set_tag(session, key(session, "llama/support@2"), "prod", WRITER)
        assert tagging.patterns(session, "llama") == ()
        assert [one.action for one in events.recent(session, 99)].count("protect tag") == 1
        with pytest.raises(NotFoundError, match="'prod' is not protected at llama: the protected patterns are none"):
            tagging.unprotect(session, "llama", "prod", BOB)
        with pytest.raises(NotFoundError, match="no base model lama"):
            tagging.protect(session, "lama", "prod", BOB)
        for bad in ("", "PROD", "a b", "x" * 65, "a/b"):
            with pytest.raises(UsageError, match="can't match a tag"):
                tagging.protect(session, "llama", bad, BOB)
