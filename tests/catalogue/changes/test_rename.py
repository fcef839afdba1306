"""Renaming: new rows say what the old ones say, old names go on, and what is retracted is retracted under all names."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import select, text
from sqlalchemy.orm import Session

from registry.catalogue.changes import deletion, new_base, rename, retraction, tagging, undeletion
from registry.catalogue.database import events
from registry.catalogue.database.database import Database
from registry.catalogue.database.tables import Adapter
from registry.catalogue.store import purge
from registry.catalogue.tree import bases, browse, nodes, old_names, revisions, search
from registry.catalogue.tree.nodes import Section
from registry.catalogue.tree.tag_moves import subtree
from registry.errors import ConflictError, NotFoundError, RetractedError, UsageError
from registry.reference import Path, Reference
from registry.rights import Principal
from registry.schemas import Tree
from registry.schemas.labels import ProtectedTagLeft, Renamed
from registry.schemas.requests import SearchRequest
from tests.catalogue.changes.test_removal import beside, key
from tests.catalogue.rows import BOB, ON_POSTGRESQL, TESTER, Writer, rights

SUPPORT, HELP = Path.parse("llama/support"), Path.parse("llama/help")
EPOCH = datetime(2000, 1, 1, tzinfo=UTC)


def to_help(database: Database) -> Renamed:
    return database.change(lambda session: rename.rename(session, SUPPORT, HELP, BOB))


def renamed(database: Database, old: str, new: str) -> Renamed:
    return database.change(lambda session: rename.rename(session, Path.parse(old), Path.parse(new), BOB))


def said(session: Session, path: str) -> list[Any]:
    """Everything about a path that names may not change, with the base model's name and the adapter's path left out."""
    found = []
    for summary in browse.log(session, Path.parse(path)).revisions:
        row = revisions.find(session, Reference.parse(summary.reference))
        found.append(
            (
                summary.model_dump(exclude={"reference", "path", "parent", "renamed_to"}),
                summary.parent.partition("@")[2],
                row.manifest,
                [(file.path, file.digest) for file in revisions.files(session, row.id)],
                browse.targets(session, row.id),
            )
        )
    return found


def names(tree: Tree) -> list[str]:
    """All paths of a tree."""
    rest, found = list(tree.roots), []
    while rest:
        node = rest.pop(0)
        found.append(node.path)
        rest = [*node.children, *rest]
    return found


def test_the_new_name_says_what_the_old_one_says(filled: Database) -> None:
    with filled.read() as session:
        before = {path: said(session, path) for path in ("llama/support", "llama/support/french")}
        legal = said(session, "llama/support/french/legal")
    assert to_help(filled) == Renamed(path="llama/support", renamed_to="llama/help", adapters=3, revisions=4)
    with filled.read() as session:
        for path, told in before.items():
            assert said(session, path) == told
            assert said(session, path.replace("support", "help")) == told
        assert said(session, "llama/help/french/legal") == legal
        lineage = revisions.lineage(session, key(session, "llama/help/french/legal"))
        assert [row.reference for row in lineage] == [
            "llama/help@1",
            "llama/help/french@1",
            "llama/help/french/legal@1",
        ]
        old = revisions.lineage(session, key(session, "llama/support/french/legal"))
        assert [row.digest for row in old] == [row.digest for row in lineage]
        assert {row.id for row in old}.isdisjoint({row.id for row in lineage})
        rows = session.execute(select(Adapter.path, Adapter.name, Adapter.parent_id, Adapter.id)).all()
        keys = {row.id: row.path for row in rows}
        for row in rows:
            above, _, name = row.path.rpartition("/")
            assert row.name == name
            assert keys.get(row.parent_id) == (above if "/" in above else None)


def test_the_parent_above_is_what_was_trained_on(filled: Database, writer: Writer) -> None:
    renamed(filled, "llama/support/french", "llama/support/fr")
    with filled.write() as session:
        found = browse.summary(session, key(session, "llama/support/fr"))
        assert (found.parent, found.behind) == ("llama/support@1", True)
        child = writer.publish(
            session, "llama/support/fr", "f2", revisions.find(session, Reference.parse("llama/support@2"))
        )
        assert child.reference == "llama/support/fr@2"
        assert browse.log(session, Path.parse("llama/support/french")).revisions[0].number == 1


def test_lists_leave_old_names_out(filled: Database) -> None:
    to_help(filled)
    new = ["llama", "llama/code", "llama/help", "llama/help/french", "llama/help/french/legal"]
    old = [path.replace("help", "support") for path in new[2:]]
    with filled.read() as session:
        assert names(nodes.tree(session)) == names(nodes.tree(session, Section(Path("llama")))) == new
        assert names(nodes.tree(session, with_old_names=True)) == [*new, *old]
        assert names(nodes.tree(session, Section(SUPPORT))) == old  # asked for by its name
        assert [one.path for one in search.search(session, SearchRequest())] == new[1:]
        assert [one.path for one in search.search(session, SearchRequest(old_names=True))] == [*new[1:], *old]
        assert subtree(session, Path("llama")) == (
            "llama/code@1",
            "llama/help@1",
            "llama/help@2",
            "llama/help/french@1",
            "llama/help/french/legal@1",
        )
        assert [one.path for one in search.search(session, SearchRequest(path="llama/support"))] == old
        assert [one.path for one in search.search(session, SearchRequest(base="llama", path="llama/support"))] == old
        assert len(subtree(session, SUPPORT)) == 4
        assert bases.summary(session, "llama").adapters == 4
        told = {one.path: one.renamed_to for one in search.search(session, SearchRequest(old_names=True))}
        assert told == dict.fromkeys(new[1:]) | {path: path.replace("support", "help") for path in old}


def test_nothing_can_be_published_to_an_old_name(filled: Database, writer: Writer) -> None:
    to_help(filled)
    with filled.write() as session:
        found = revisions.find(session, Reference.parse("llama/support@2"))
        for path, parent in (("llama/support", None), ("llama/support/new", found), ("llama/support/french", found)):
            new = path.replace("support", "help")
            with pytest.raises(ConflictError, match=f"publish to {new} instead") as caught:
                writer.publish(session, path, "x", parent)
            assert caught.value.code == "renamed"
        assert writer.publish(session, "llama/help", "s3").number == 3
        assert writer.publish(session, "llama/supported", "s1").number == 1


def test_the_same_again_and_another(filled: Database) -> None:
    first = to_help(filled)
    assert to_help(filled) == first.model_copy(update={"already": True})
    with pytest.raises(ConflictError, match="was already renamed, to llama/help: rename that") as caught:
        renamed(filled, "llama/support", "llama/aid")
    assert caught.value.code == "renamed"
    with pytest.raises(UsageError, match="llama/help already has this name"):
        renamed(filled, "llama/help", "llama/help")
    with pytest.raises(NotFoundError, match="There is no adapter llama/nothing"):
        renamed(filled, "llama/nothing", "llama/something")
    with filled.read() as session:
        assert [(one.action, one.subject, one.detail) for one in events.recent(session, 2)] == [
            ("rename", "llama/help", {"from": "llama/support", "revisions": 4}),
            ("rename", "llama/support", {"to": "llama/help", "revisions": 4}),
        ]


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ("llama/support", "llama/code", "llama/code already exists"),
        ("llama/help", "llama/support", "llama/support is an old name, which goes on"),
        ("llama/help/fr", "llama/help/gone", "revisions of llama/help/gone were deleted, and their numbers are never"),
        ("llama/help/fr", "llama/help/french", "llama/help/french is an old name"),
    ],
)
def test_a_name_that_is_or_was_used_is_refused(filled: Database, writer: Writer, old: str, new: str, why: str) -> None:
    if old != "llama/support":
        to_help(filled)
        renamed(filled, "llama/help/french", "llama/help/fr")
        with filled.write() as session:
            above = revisions.find(session, Reference.parse("llama/help@2"))
            deletion.delete(session, writer.publish(session, "llama/help/gone", "g", above).id, BOB)
    with pytest.raises(ConflictError, match=why) as caught:
        renamed(filled, old, new)
    assert caught.value.code == "name_taken"


def test_a_path_that_would_be_too_long(filled: Database, writer: Writer) -> None:
    deep = f"llama/support/french/{'a' * 30}"
    with filled.write() as session:
        parent = revisions.find(session, Reference.parse("llama/support/french@1"))
        writer.publish(session, deep, "d", parent)
    with pytest.raises(UsageError, match=f"Path 'llama/{'b' * 64}/french/a*' is not allowed.*may have 96 ch") as caught:
        renamed(filled, "llama/support", f"llama/{'b' * 64}")
    assert caught.value.code == "bad_name"


def test_renamed_twice(filled: Database) -> None:
    renamed(filled, "llama/support/french", "llama/support/fr")
    to_help(filled)
    renamed(filled, "llama/help", "llama/aid")
    with filled.read() as session:
        newest = {
            "llama/support": "llama/aid",
            "llama/help": "llama/aid",
            "llama/support/french": "llama/aid/fr",
            "llama/support/fr": "llama/aid/fr",
            "llama/support/fr/legal": "llama/aid/fr/legal",
            "llama/support/french/legal": "llama/aid/fr/legal",
            "llama/help/fr": "llama/aid/fr",
            "llama/aid": None,
        }
        assert {path: old_names.new_name(session, Path.parse(path)) for path in newest} == newest
        assert names(nodes.tree(session)) == ["llama", "llama/aid", "llama/aid/fr", "llama/aid/fr/legal", "llama/code"]
        with pytest.raises(NotFoundError):  # an old name gets no other one
            key(session, "llama/help/french")


def test_protected_tags_are_left_to_those_who_may_set_them(filled: Database, writer: Writer) -> None:
    with filled.write() as session:
        tagging.protect(session, "llama", "prod*", BOB)
        tagging.set_tag(session, key(session, "llama/support@2"), "nightly", TESTER)
    answer = to_help(filled)
    assert answer.tags_left == (ProtectedTagLeft(reference="llama/help@1", tag="prod"),)
    with filled.read() as session:
        assert [one.tags for one in browse.log(session, HELP).revisions] == [("nightly",), ()]
        assert [one.tags for one in browse.log(session, SUPPORT).revisions] == [("nightly",), ("prod",)]
    with filled.write() as session:  # labels of the two are their own
        tagging.set_tag(session, key(session, "llama/support@1"), "nightly", TESTER)
        assert browse.log(session, HELP).revisions[0].tags == ("nightly",)


def test_deleted_revisions_are_not_copied_and_their_numbers_stay_taken(filled: Database, writer: Writer) -> None:
    filled.change(lambda session: deletion.delete(session, key(session, "llama/support@2"), BOB))
    assert to_help(filled).revisions == 3
    with filled.read() as session:
        assert [one.number for one in browse.log(session, HELP).revisions] == [1]
    with filled.write() as session:
        assert writer.publish(session, "llama/help", "s3").number == 3
        undeletion.undo(session, Reference.parse("llama/support@2"), EPOCH, BOB)
        assert [one.number for one in browse.log(session, SUPPORT).revisions] == [2, 1]
        assert [one.number for one in browse.log(session, HELP).revisions] == [3, 1]


def is_available(session: Session, reference: str) -> bool:
    try:
        retraction.check(revisions.lineage(session, key(session, reference)))
    except RetractedError:
        return False
    return True


@pytest.mark.parametrize(("named", "other"), [("llama/support", "llama/help"), ("llama/help", "llama/support")])
def test_what_is_retracted_under_one_name_is_so_under_both(
    filled: Database, writer: Writer, named: str, other: str
) -> None:
    to_help(filled)
    with filled.write() as session:
        new = writer.publish(
            session, "llama/help/new", "n", revisions.find(session, Reference.parse("llama/help@1"))
        ).reference
        answer = retraction.retract(session, key(session, f"{named}@1"), "poisoned", BOB)
        assert answer.reference == f"{named}@1"
        below = [f"{path}{rest}@1" for path in (named, other) for rest in ("/french", "/french/legal")]
        assert sorted(answer.descendants) == sorted([f"{other}@1", new, *below])
        assert answer.tags == ("llama/help@prod", "llama/support@prod")
        for reference in (f"{named}@1", f"{other}@1", new, *below):
            assert not is_available(session, reference)
        assert is_available(session, f"{named}@2")
        assert is_available(session, f"{other}@2")
        subjects = [one.subject for one in events.recent(session, 2)]
        assert sorted(subjects) == ["llama/help@1", "llama/support@1"]
    with filled.write() as session:
        retraction.undo(session, key(session, f"{other}@1"), BOB)
        for reference in (f"{named}@1", f"{other}@1", new, *below):
            assert is_available(session, reference)


def test_what_was_retracted_before_stays_so(filled: Database) -> None:
    filled.change(lambda session: retraction.retract(session, key(session, "llama/support@1"), "poisoned", BOB))
    to_help(filled)
    with filled.write() as session:
        found = browse.summary(session, key(session, "llama/help/french")).retracted
        assert found is not None
        assert (found.reference, found.reason, found.actor) == ("llama/help@1", "poisoned", "bob")


def test_what_an_older_program_retracted_under_one_name_only(filled: Database) -> None:
    """It knows of no other names; the same retraction again reaches them."""
    to_help(filled)
    with filled.write() as session:
        one = key(session, "llama/support@1")
        session.execute(text("UPDATE revisions SET retracted_reason = 'bad' WHERE id = :id"), {"id": one})
        assert is_available(session, "llama/help@1")
        retraction.retract(session, one, "bad", BOB)
        assert not is_available(session, "llama/help@1")


def test_the_same_content_again_under_the_new_name(filled: Database, writer: Writer) -> None:
    """Deleted there, retracted under the old name: neither an undo nor publishing it again makes it available."""
    to_help(filled)
    with filled.write() as session:
        content = revisions.find(session, Reference.parse("llama/help@2"))
        deletion.delete(session, content.id, BOB)
        retraction.retract(session, key(session, "llama/support@2"), "poisoned", BOB)
    with filled.write() as session:
        undeletion.undo(session, Reference.parse("llama/help@2"), EPOCH, BOB)
        assert not is_available(session, "llama/help@2")
        deletion.delete(session, content.id, BOB)
        purge.purge(session, [content.id], purge.GRACE_OVER, BOB)
    with filled.write() as session:
        manifest = revisions.find(session, Reference.parse("llama/support@2")).manifest
        with pytest.raises(RetractedError, match="under an older name, where it was retracted by bob"):
            writer.publish(session, "llama/help", "s2", None, manifest=manifest, digest=content.digest)
    with filled.write() as session:
        retraction.undo(session, key(session, "llama/support@2"), BOB)
        again = writer.publish(session, "llama/help", "s2", None, manifest=manifest, digest=content.digest)
        assert again.reference == "llama/help@3"
        retraction.retract(session, key(session, "llama/support@2"), "poisoned", BOB)
        assert not is_available(session, "llama/help@3")


@ON_POSTGRESQL
@pytest.mark.parametrize("renames_first", [True, False])
def test_a_retraction_beside_a_rename(filled: Database, renames_first: bool) -> None:
    with filled.read() as session:
        found = key(session, "llama/support@1")

    def retract(session: Session) -> object:
        return retraction.retract(session, found, "poisoned", BOB)

    def move(session: Session) -> object:
        return rename.rename(session, SUPPORT, HELP, BOB)

    first, second = (move, retract) if renames_first else (retract, move)
    assert beside(first, second, filled).exception() is None
    with filled.read() as session:
        assert not is_available(session, "llama/support@1")
        assert not is_available(session, "llama/help/french@1")


@ON_POSTGRESQL
@pytest.mark.parametrize("path", ["llama/support", "llama/support/new", "llama/help"])
@pytest.mark.parametrize("number", [None, 7])
@pytest.mark.parametrize("renames_first", [True, False])
def test_a_publish_beside_a_rename(
    filled: Database, writer: Writer, path: str, number: int | None, renames_first: bool
) -> None:
    with filled.read() as session:
        parent = revisions.find(session, Reference.parse("llama/support@2")) if path.endswith("new") else None

    def publish(session: Session) -> object:
        return writer.publish(session, path, "beside", parent, number=number).reference

    def move(session: Session) -> object:
        return rename.rename(session, SUPPORT, HELP, BOB)

    if not renames_first:
        moved = beside(publish, move, filled).exception()
        with filled.read() as session:
            if path == "llama/help":
                assert isinstance(moved, ConflictError)
                assert old_names.new_name(session, SUPPORT) is None
            else:
                assert moved is None
                assert len(said(session, path)) == len(said(session, path.replace("support", "help")))
        return
    late = beside(move, publish, filled)
    if path == "llama/help":  # as the next one of what is called so now
        assert late.result() == f"llama/help@{number or 3}"
        return
    refused = late.exception()
    assert isinstance(refused, ConflictError)
    assert refused.code == "renamed"
    with filled.read() as session:
        assert [len(said(session, one)) for one in ("llama/support", "llama/help")] == [2, 2]


# Base models


def test_a_base_model(filled: Database, writer: Writer) -> None:
    with filled.write() as session:
        tagging.protect(session, "llama", "prod", BOB)
    with filled.read() as session:
        before = {path: said(session, f"llama/{path}") for path in ("code", "support", "support/french")}
        old = bases.get(session, "llama")
    llama, other = Path("llama"), Path("llama-1b")
    answer = filled.change(lambda session: rename.rename_base(session, llama, other, BOB))
    assert (answer.adapters, answer.revisions) == (4, 5)
    assert answer.tags_left == (ProtectedTagLeft(reference="llama-1b/support@1", tag="prod"),)
    with filled.write() as session:
        new = bases.get(session, "llama-1b")
        same = ("digest", "table_digest", "files_digest", "files", "index", "table", "notices", "size")
        assert [getattr(new, name) for name in same] == [getattr(old, name) for name in same]
        for path, told in before.items():
            now = said(session, f"llama-1b/{path}")
            for (summary, *rest), (summary_before, *rest_before) in zip(now, told, strict=True):
                assert summary | {"tags": ()} == summary_before | {"tags": ()}
                assert rest == rest_before or summary["rank"] == 8
        assert [one.name for one in bases.summaries(session)] == ["llama-1b"]
        told_bases = bases.summaries(session, with_old_names=True)
        assert [(one.name, one.renamed_to, one.adapters) for one in told_bases] == [
            ("llama", "llama-1b", 4),
            ("llama-1b", None, 4),
        ]
        assert [one.pattern for one in tagging.patterns(session, "llama-1b")] == ["prod"]
        lineage = revisions.lineage(session, key(session, "llama-1b/support/french/legal"))
        assert lineage[0].path == "llama-1b/support"
        assert {row.base for row in lineage} == {"llama-1b"}
        assert names(nodes.tree(session))[0] == "llama-1b"
        assert search.search(session, SearchRequest(base="llama"))[0].path == "llama/code"
        with pytest.raises(ConflictError, match="publish to llama-1b/new instead"):
            writer.publish(session, "llama/new", "x")
        with pytest.raises(ConflictError, match="publish to llama-1b/code instead"):
            writer.publish(session, "llama/code", "x")
        assert writer.publish(session, "llama-1b/code", "c2").number == 2
        retraction.retract(session, key(session, "llama/code@1"), "bad", BOB)
        assert not is_available(session, "llama-1b/code@1")
    again = filled.change(lambda session: rename.rename_base(session, llama, other, BOB))
    assert again.already
    with filled.write() as session:
        with pytest.raises(ConflictError, match="llama already exists"):
            rename.rename_base(session, other, llama, BOB)
        with pytest.raises(UsageError, match="llama-1b already has this name"):
            rename.rename_base(session, other, other, BOB)


def test_a_name_that_another_base_model_takes(filled: Database, writer: Writer) -> None:
    """Old names of what is gone for good are old names no longer, and nobody is sent to other weights."""
    llama, other = Path("llama"), Path("llama-1b")
    filled.change(lambda session: rename.rename_base(session, llama, other, BOB))
    filled.change(lambda session: new_base.delete(session, "llama-1b", BOB, recursive=True))
    with filled.write() as session:
        assert [one.name for one in bases.summaries(session)] == ["llama"]  # what is there is listed
        assert names(nodes.tree(session))[:2] == ["llama", "llama/code"]
        with pytest.raises(ConflictError, match="was already renamed, to llama-1b, which is deleted"):
            rename.rename_base(session, llama, other, BOB)
        writer.base(session, "third")
        with pytest.raises(ConflictError, match="is the name of a base model that was deleted"):
            rename.rename_base(session, Path("third"), other, BOB)
        writer.base(session, "llama-1b", "v")
        assert old_names.new_name(session, llama) is None
        assert writer.publish(session, "llama/code", "c2").number == 2
        (again,) = [one for one in bases.summaries(session) if one.name == "llama"]
        assert (again.renamed_to, again.adapters) == (None, 4)


# What a token may not see

HIDING = Principal("hid", rights("writer", "llama/support"))


def test_a_token_of_the_old_path_keeps_what_it_had(filled: Database, writer: Writer) -> None:
    limited = HIDING.rights
    with filled.read(limited) as session:
        before = names(nodes.tree(session)), search.search(session, SearchRequest()), bases.summaries(session)
        told = [(one.action, one.subject, one.detail) for one in events.recent(session, 99)]
    to_help(filled)
    filled.change(lambda session: rename.rename_base(session, Path("llama"), Path("llama-1b"), BOB))
    with filled.read(limited) as session:
        assert (names(nodes.tree(session)), search.search(session, SearchRequest()), bases.summaries(session)) == before
        now = [(one.action, one.subject, one.detail) for one in events.recent(session, 99)]
        assert now[2:] == told
        assert now[:2] == [("base rename", "llama", {"revisions": 5}), ("rename", "llama/support", {"revisions": 4})]
        assert old_names.new_name(session, SUPPORT) is None
    with filled.write(limited) as session:
        with pytest.raises(ConflictError, match="was renamed, so nothing can be published to") as caught:
            writer.publish(session, "llama/support", "x")
        assert "help" not in str(caught.value)
        assert "llama-1b" not in str(caught.value)
        answer = retraction.retract(session, key(session, "llama/support@1"), "poisoned", HIDING)
        assert answer.descendants == ("llama/support/french@1", "llama/support/french/legal@1")
        assert answer.tags == ("llama/support@prod",)
    with filled.read() as session:
        assert not is_available(session, "llama-1b/help@1")


def test_whoever_sees_both_names_sees_what_a_rename_was(filled: Database) -> None:
    to_help(filled)
    with filled.read(rights("reader", "llama/help")) as session:
        assert names(nodes.tree(session)) == ["llama", "llama/help", "llama/help/french", "llama/help/french/legal"]
        assert [(one.subject, one.detail) for one in events.recent(session, 1)] == [("llama/help", {"revisions": 4})]
    with filled.read(rights("reader", "llama/help", "llama/support/french")) as session:
        assert old_names.new_name(session, Path.parse("llama/support/french")) == "llama/help/french"
        assert "llama/support/french" not in names(nodes.tree(session))
