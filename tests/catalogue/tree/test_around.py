"""What lies around a revision: what was trained on it, and what its tags pointed at, as a token may see it."""

from __future__ import annotations

from sqlalchemy.orm import Session

from registry.catalogue.changes import deletion, tagging, undeletion
from registry.catalogue.database.database import Database
from registry.catalogue.database.tables import EventRecord, Tag
from registry.catalogue.tree import nodes, revisions, tag_moves
from registry.reference import Path as TreePath
from registry.reference import Reference
from registry.rights import UNLIMITED
from registry.schemas.tags import Children, TagHistory
from tests.catalogue.rows import BOB, TESTER, Writer, rights


def row(session: Session, reference: str) -> revisions.RevisionRow:
    return revisions.find(session, Reference.parse(reference))


def set_tag(database: Database, reference: str, tag: str) -> None:
    database.change(lambda session: tagging.set_tag(session, row(session, reference).id, tag, BOB))


def below(database: Database, reference: str, *scopes: str) -> list[tuple[str, int, str]]:
    with database.read() as session:
        parent = row(session, reference).id
    with database.read(rights("reader", *scopes) if scopes else UNLIMITED) as session:
        found = nodes.of_revision(session, parent)
    assert found.total == len(found.adapters)
    return [(one.path, one.revisions, one.newest) for one in found.adapters]


def test_children_are_adapters_with_what_is_pinned(filled: Database, writer: Writer) -> None:
    with filled.write() as session:
        first, second = row(session, "llama/support@1"), row(session, "llama/support@2")
        writer.publish(session, "llama/support/french", "f2", first)
        writer.publish(session, "llama/support/french", "f3", second)
        writer.publish(session, "llama/support/german", "g1", first)
    french = ("llama/support/french", 2, "llama/support/french@2")
    german = ("llama/support/german", 1, "llama/support/german@1")
    assert below(filled, "llama/support@1") == [french, german]
    assert below(filled, "llama/support@2") == [("llama/support/french", 1, "llama/support/french@3")]
    assert below(filled, "llama/code@1") == []
    assert below(filled, "llama/support@1", "llama/support/german", "llama/code") == [german]
    assert below(filled, "llama/support@1", "llama/code") == []
    filled.change(lambda session: deletion.delete(session, row(session, "llama/support/german@1").id, TESTER))
    assert below(filled, "llama/support@1") == [french]


def test_children_of_a_base_model_are_those_directly_on_it(filled: Database) -> None:
    with filled.read() as session:
        found = nodes.of_base(session, "llama")
        assert [(one.path, one.revisions) for one in found.adapters] == [("llama/code", 1), ("llama/support", 2)]
    with filled.read(rights("reader", "llama/support/french")) as session:
        assert nodes.of_base(session, "llama") == Children(total=0, adapters=())


def test_many_children_are_counted_and_not_all_listed(filled: Database, writer: Writer) -> None:
    with filled.write() as session:
        parent = row(session, "llama/code")
        for count in range(nodes.LISTED + 3):
            writer.publish(session, f"llama/code/c{count:02}", f"child {count}", parent)
        found = nodes.of_revision(session, parent.id)
    assert found.total == nodes.LISTED + 3
    assert [one.path for one in found.adapters] == [f"llama/code/c{count:02}" for count in range(nodes.LISTED)]


def moves(database: Database, reference: str, *scopes: str) -> list[tuple[str, str | None, list[object]]]:
    with database.read(rights("reader", *scopes) if scopes else UNLIMITED) as session:
        found = row(session, reference)
        now = [one.name for one in session.query(Tag).filter_by(revision_id=found.id)]
        histories = tag_moves.histories(session, found, now)
    return [(one.tag, one.points_at, [(move.old, move.new) for move in one.moves]) for one in histories]


def test_the_history_of_tags_that_point_or_pointed_at_a_revision(filled: Database) -> None:
    one, two = "llama/support@1", "llama/support@2"
    set_tag(filled, two, "prod")
    set_tag(filled, two, "only-two")
    set_tag(filled, "llama/support/french@1", "prod")
    prod = ("prod", two, [(one, two), (None, one)])
    assert moves(filled, one) == [prod]
    assert moves(filled, two) == [("only-two", two, [(None, two)]), prod]
    filled.change(lambda session: tagging.remove_tag(session, TreePath.parse("llama/support"), "prod", TESTER))
    assert moves(filled, one) == [("prod", None, [(two, None), (one, two), (None, one)])]
    assert moves(filled, one, "llama/support") == moves(filled, one)


def test_a_tag_goes_and_comes_back_with_its_revision(filled: Database) -> None:
    two = "llama/support@2"
    set_tag(filled, two, "stage")
    with filled.write() as session:
        deletion.delete(session, row(session, two).id, TESTER, with_tags=True)
        undeletion.undo(session, Reference.parse(two), session.get_one(EventRecord, 1).at, TESTER)
    assert moves(filled, two) == [("stage", two, [(None, two), (two, None), (None, two)])]


def test_undoing_a_tag_that_came_back_with_others_removes_it(filled: Database) -> None:
    """Each of them moved with its revision; what it named before that is not what it goes back to."""
    one, two, path = "llama/support@1", "llama/support@2", TreePath.parse("llama/support")
    names = ("best", "prod", "stage")
    for tag in names:
        set_tag(filled, one, tag)
        set_tag(filled, two, tag)
    with filled.write() as session:
        deletion.delete(session, row(session, two).id, TESTER, with_tags=True)
        gone = [tag_moves.last(session, path, tag) for tag in names]
        assert [(move.old, move.new) for move in gone if move] == [(two, None)] * 3
        undeletion.undo(session, Reference.parse(two), session.get_one(EventRecord, 1).at, TESTER)
        for tag in names:
            undone = tagging.undo(session, path, tag, TESTER)
            assert (undone.previous, undone.reference) == (two, None)


def test_histories_are_bounded_and_say_who(filled: Database) -> None:
    for count in range(tag_moves.LISTED + 1):
        set_tag(filled, f"llama/support@{1 + count % 2}", "busy")
        set_tag(filled, "llama/support@1", f"t{count:02}")
    with filled.read() as session:
        found = row(session, "llama/support@1")
        names = [f"t{count:02}" for count in range(tag_moves.LISTED + 1)]
        histories = tag_moves.histories(session, found, names)
        busy = tag_moves.histories(session, found, [])
    assert [one.tag for one in histories] == names[: tag_moves.LISTED]
    (longest,) = [one for one in busy if one.tag == "busy"]
    assert len(longest.moves) == tag_moves.LISTED
    assert longest.moves[0].actor == "bob"
    assert [move.at for move in longest.moves] == sorted((move.at for move in longest.moves), reverse=True)


def test_a_tag_that_no_event_tells_of_still_points(filled: Database) -> None:
    with filled.write() as session:
        for event in session.query(EventRecord).filter_by(action="tag"):
            session.delete(event)
        found = row(session, "llama/support@1")
        session.flush()
        assert tag_moves.histories(session, found, ["prod"]) == (
            TagHistory(tag="prod", points_at="llama/support@1", moves=()),
        )
