"""What a token may not see does not exist for it: each answer is that of a registry in which it really isn't there."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Final

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from registry.catalogue.changes import deletion, details, publish, retraction, tagging
from registry.catalogue.changes.details import annotate
from registry.catalogue.database import events
from registry.catalogue.database.database import Database, sqlite_url
from registry.catalogue.database.events import EventFilter, EventPosition
from registry.catalogue.store import blobs
from registry.catalogue.team import tokens
from registry.catalogue.tree import bases, browse, nodes, repo_rows, revisions, tag_moves
from registry.catalogue.tree.cards import uses
from registry.catalogue.tree.nodes import Section
from registry.catalogue.tree.search import search
from registry.catalogue.tree.search_query import SearchPosition
from registry.catalogue.tree.tag_moves import subtree
from registry.errors import NotFoundError, RegistryError
from registry.reference import Path as TreePath
from registry.reference import Reference
from registry.rights import UNLIMITED, Rights
from registry.schemas.requests import SearchRequest
from registry.schemas.usage import Counted, UseKey
from tests.catalogue.rows import BOB, TESTER, Writer, digest_of, rights

WHEN: Final = datetime.now(UTC)
SCOPE: Final = rights("admin", "llama/support")


def fill(database: Database, writer: Writer, *, hidden: bool) -> None:
    """A registry, with or without what lies outside of the scope ``llama/support``."""
    with database.write() as session:
        writer.base(session, "llama")
        tagging.protect(session, "llama", "prod", TESTER)
        if hidden:
            writer.base(session, "bert")
            tagging.protect(session, "bert", "prod", TESTER)
            writer.publish(session, "llama/code", "c1", tag="stage", metrics={"acc": 0.9}, notes={"team": "secret"})
            writer.publish(session, "llama/code/python", "p1", revisions.get(session, 1), tag="only-hidden")
            writer.publish(session, "llama/support-2", "t1", tag="prod")  # stands next to the scope in every order
            writer.publish(session, "llama/support0", "u1")
            writer.publish(session, "bert/support", "b1", tag="prod")
        support = writer.publish(session, "llama/support", "s1", tag="prod", metrics={"acc": 0.5})
        french = writer.publish(session, "llama/support/french", "f1", support, notes={"team": "Straße"}, rank=16)
        legal = writer.publish(session, "llama/support/french/legal", "l1", french)
        writer.publish(session, "llama/support", "s2", metrics={"acc": 0.75})
        if hidden:
            writer.publish(session, "llama/code", "c2", tag="dev")
            hidden_row = revisions.find(session, Reference.parse("llama/code"))
            retraction.retract(session, hidden_row.id, "a secret reason", TESTER)
            deletion.delete(session, hidden_row.id, TESTER, with_tags=True)
        retraction.retract(session, legal.id, "bad data", TESTER)
        seen, others = ("llama/support", "llama/support/french"), ("llama/code", "llama/code/python", "bert/support")
        for used in (*seen, *others) if hidden else seen:
            details.count_uses(session, {UseKey(used, 1, WHEN.date(), "fetch", f"tok of {used}"): Counted(3, WHEN)})
        for table, column in (("base_models", "created_at"), ("revisions", "created_at"), ("events", "at")):
            session.execute(text(f"UPDATE {table} SET {column} = '2026-01-02 03:04:05.000000'"))
        session.execute(
            text("UPDATE revisions SET retracted_at = '2026-01-02 03:04:05' WHERE retracted_at IS NOT NULL")
        )


@pytest.fixture
def bare(tmp_path: Path, template: Path, writer: Writer) -> Iterator[Database]:
    """The registry without what is hidden; a file of SQLite is as good as any."""
    shutil.copy(template, tmp_path / "bare.sqlite")
    database = Database(sqlite_url(tmp_path / "bare.sqlite"))
    fill(database, writer, hidden=False)
    yield database
    database.dispose()


@pytest.fixture
def whole(database: Database, writer: Writer) -> Database:
    fill(database, writer, hidden=True)
    return database


def path(where: str) -> TreePath:
    return TreePath.parse(where)


def key(session: Session, reference: str) -> int:
    return revisions.find(session, Reference.parse(reference)).id


PLACES: Final = (
    "llama",
    "llama/support",
    "llama/support/french",
    "llama/support/none",
    "llama/code",
    "llama/code/python",
    "llama/cod",
    "llama/support-2",
    "llama/support-3",
    "llama/zzz",
    "bert",
    "bert/support",
    "bart",
)
REFERENCES: Final = (
    *PLACES[1:],
    "llama/support@1",
    "llama/support@3",
    "llama/support@prod",
    "llama/support@stage",
    "llama/support@only-hidden",
    "llama/support/french/legal",
    "llama/code@1",
    "llama/code@stage",
)
SEARCHES: Final[tuple[dict[str, Any], ...]] = (
    {},
    {"limit": 2},
    {"after": SearchPosition(TreePath.parse("llama/support"))},
    {"sort": "max:acc"},
    {"all_revisions": True},
    {"all_revisions": True, "sort": "min:acc", "after": SearchPosition(TreePath.parse("llama/support"), 2, 0.0)},
    {"all_revisions": True, "sort": "min:loss", "limit": 1},
    {"tag": "prod"},
    {"tag": "dev"},
    {"metric": "acc>0.6"},
    {"base": "llama"},
    {"base": "bert"},
    {"base": "brt"},
    {"text": "secret"},
    {"text": "s"},
    {"target": "q_proj"},
    {"path": "llama"},
    {"path": "llama/code", "depth": 1},
    {"depth": 1},
    {"author": "ann"},
)


def seen_values(row: Any) -> Any:
    """A value without the keys of rows, which no answer shows."""
    keys = {"id": 0, "adapter_id": 0, "parent_id": 0, "base_id": 0, "manifest": "", "digest": ""}
    return replace(row, **{name: value for name, value in keys.items() if hasattr(row, name)})


def about(session: Session, reference: str) -> Any:
    row = revisions.find(session, Reference.parse(reference))
    shown = browse.summary(session, row.id).model_copy(update={"digest": ""})
    entries = [entry.model_copy(update={"digest": ""}) for entry in browse.lineage_entries(session, row.id)]
    around = (
        nodes.of_revision(session, row.id),
        tag_moves.histories(session, row, shown.tags),
        uses(session, [row.id]).together,
    )
    files, targets = revisions.files(session, row.id), browse.targets(session, row.id)
    return seen_values(row), shown, entries, files, targets, around


def plain(answer: Any) -> Any:
    """An answer without digests of revisions: they hold keys of parents in these tests."""
    if hasattr(answer, "model_dump"):
        return plain(answer.model_dump())
    if isinstance(answer, dict):
        return {name: plain(value) for name, value in answer.items() if name != "digest"}
    if isinstance(answer, (list, tuple)):
        return [plain(one) for one in answer]
    return answer


def everything() -> dict[str, Callable[[Session], Any]]:
    """Every function that reads, and those that change something in what is seen, asked for what is there and not."""
    asked: dict[str, Callable[[Session], Any]] = {
        "whole tree": nodes.tree,
        "bases": bases.summaries,
        "children of a base": lambda session: nodes.of_base(session, "llama"),
        "children of a hidden base": lambda session: nodes.of_base(session, "bert"),
        "list a retraction": lambda session: retraction.listing(session, key(session, "llama/support@1"), ""),
        "list a deletion": lambda session: deletion.preview(session, key(session, "llama/support@2"), BOB),
        "list a hidden deletion": lambda session: deletion.preview(session, key(session, "llama/code@1"), BOB),
        "bases page": lambda session: bases.summaries(session, after="a", limit=1),
        "events": lambda session: events.recent(session, 100),
        "list of the Hub": lambda session: [
            one if isinstance(one, str) else one.path for one in repo_rows.adapters_listed(session, after="", limit=100)
        ],
        "events page": lambda session: events.page(session, 2).events,
        "events of a kind": lambda session: events.recent(session, 100, EventFilter(kind="publish")),
        "refused events": lambda session: events.recent(session, 100, EventFilter(kind="refused")),
        "events of an actor": lambda session: events.page(session, 2, None, EventFilter(actor="tester")).events,
        "events of nobody": lambda session: events.recent(session, 100, EventFilter(actor="nobody")),
        "visible": lambda session: blobs.visible(
            session,
            blobs.rows(
                session,
                map(digest_of, ["s1", "f1", "c1", "p1", "b1", "bert config.json", "llama config.json", "llama table"]),
            ),
        ),
        "delete a parent": lambda session: deletion.delete(session, key(session, "llama/support@1"), BOB),
        "delete": lambda session: deletion.delete(session, key(session, "llama/support@2"), BOB),
        "retract": lambda session: retraction.retract(session, key(session, "llama/support@1"), "why", BOB),
        "undo": lambda session: retraction.undo(session, key(session, "llama/support/french/legal"), BOB),
    }
    at_places: dict[str, Callable[[Session, str], Any]] = {
        "tree": lambda session, where: nodes.tree(session, Section(path(where))),
        "log": lambda session, where: browse.log(session, path(where)),
        "page": lambda session, where: browse.log(session, path(where), before=2, limit=1),
        "subtree": lambda session, where: subtree(session, path(where)),
        "base": bases.summary,
        "base row": lambda session, where: replace(bases.get(session, where), id=0),
        "base entry": browse.base_entry,
        "patterns": tagging.patterns,
        "untag": lambda session, where: tagging.remove_tag(session, path(where), "prod", BOB),
        "undo of a tag": lambda session, where: tagging.undo(session, path(where), "prod", BOB),
        "undo of none": lambda session, where: tagging.undo(session, path(where), "only-hidden", BOB),
        "events": lambda session, where: events.page(session, 1, None, EventFilter(path(where))).events,
        "untag none": lambda session, where: tagging.remove_tag(session, path(where), "stag", BOB),
    }
    at_references: dict[str, Callable[[Session, str], Any]] = {
        "about": about,
        "tag if": lambda session, ref: tagging.set_tag(session, key(session, ref), "prod", BOB, expected="@1"),
        "tag": lambda session, ref: tagging.set_tag(session, key(session, ref), "new", BOB),
        "annotate": lambda session, ref: annotate(
            session, key(session, ref), metrics={"acc": 1}, annotations={}, principal=BOB
        ),
    }
    for questions, about_what in ((at_places, PLACES), (at_references, REFERENCES)):
        asked |= {
            f"{name} {one}": partial(_with, question, one) for name, question in questions.items() for one in about_what
        }
    for conditions in SEARCHES:
        page = {name: value for name, value in conditions.items() if name in {"after", "limit"}}
        request = SearchRequest(**{name: value for name, value in conditions.items() if name not in page})
        asked[f"search {conditions}"] = partial(search, request=request, **page)
    return asked


def _with(question: Callable[[Session, str], Any], what: str, session: Session) -> Any:
    return question(session, what)


def answers(database: Database, seen: Rights) -> dict[str, Any]:
    said: dict[str, Any] = {}
    for name, ask in everything().items():
        with database.write(seen) as session:
            try:
                said[name] = plain(ask(session))
            except RegistryError as error:
                said[name] = (type(error), error.code, str(error))
            session.rollback()
    return said


@pytest.mark.long_on("postgresql")
def test_a_scope_is_like_a_registry_without_the_rest(whole: Database, bare: Database) -> None:
    expected, found = answers(bare, UNLIMITED), answers(whole, SCOPE)
    assert found == expected
    # And the test would show it if there was something to see.
    all_of_it = answers(whole, UNLIMITED)
    assert len([name for name, answer in all_of_it.items() if answer != expected[name]]) > 40
    assert "secret" in str(all_of_it)
    assert "secret" not in str([answer for name, answer in found.items() if "secret" not in name])


def test_a_scope_inside_the_tree_shows_the_lineage_above_and_no_more(whole: Database) -> None:
    with whole.read(rights("reader", "llama/support/french")) as session:
        (root,) = nodes.tree(session).roots
        (french,) = root.children
        assert (root.path, french.path, french.name) == ("llama", "llama/support/french", "support/french")
        assert [node.name for node in french.children] == ["legal"]
        assert french.revision is not None
        assert (french.revision.parent, french.revision.behind) == ("llama/support@1", False)
        entries = browse.lineage_entries(session, key(session, "llama/support/french"))
        assert [(one.reference, one.newest) for one in entries] == [
            ("llama", None),
            ("llama/support@1", None),
            ("llama/support/french@1", 1),
        ]
        assert bases.summary(session, "llama").adapters == 2
        assert subtree(session, path("llama")) == ("llama/support/french@1", "llama/support/french/legal@1")
        assert [one.path for one in search(session, SearchRequest(metric="acc"))] == []
        for hidden in ("llama/support", "llama/support@1", "llama/support/none"):
            with pytest.raises(NotFoundError, match=r"There is no adapter llama/support\."):
                revisions.find(session, Reference.parse(hidden))
        with pytest.raises(NotFoundError, match=r"There is no adapter llama/support/french/none\."):
            revisions.find(session, Reference.parse("llama/support/french/none"))
        lineage = revisions.lineage(session, key(session, "llama/support/french/legal"))
        assert lineage[0].reference == "llama/support@1"
        assert revisions.files(session, lineage[0].id)[0].digest == digest_of("s1")
    with whole.read() as session:
        assert browse.summary(session, key(session, "llama/support/french")).behind


def test_a_retracted_ancestor_shows_whether_it_is_seen_or_not(whole: Database) -> None:
    with whole.write() as session:
        retraction.retract(session, key(session, "llama/support@1"), "bad data", TESTER)
    with whole.read(rights("reader", "llama/support/french")) as session:
        shown = browse.summary(session, key(session, "llama/support/french")).retracted
    assert shown is not None
    assert (shown.reference, shown.reason, shown.actor) == ("llama/support@1", "bad data", "tester")


def test_what_may_be_pinned_above_a_scope(whole: Database, writer: Writer) -> None:
    french = path("llama/support/french")
    with whole.write() as session:
        newest = revisions.find(session, Reference.parse("llama/support@2"))
        assert [row.number for row in revisions.pinnable(session, french)] == [2, 1]
    with whole.write(rights("writer", "llama/support/french")) as session:
        (known,) = revisions.pinnable(session, french)
        assert known.number == 1
        assert revisions.pinnable(session, french, digest=newest.digest) == (newest,)
        assert revisions.pinnable(session, french, digest=digest_of("guessed")) == ()
        assert revisions.pinnable(session, path("llama/support")) == ()
        published = writer.publish(session, "llama/support/french", "f2", known, principal=BOB)
        assert (published.reference, published.parent) == ("llama/support/french@2", "llama/support@1")
        with pytest.raises(NotFoundError, match=r"There is no adapter llama/nothing\."):
            publish.publish(session, writer.new("llama/nothing/x", "f2", None), BOB)


def test_several_scopes_and_a_base_model(whole: Database) -> None:
    with whole.read(rights("reader", "bert", "llama/code/python")) as session:
        assert [one.name for one in bases.summaries(session)] == ["bert", "llama"]
        assert subtree(session, path("bert")) == ("bert/support@1",)
        assert subtree(session, path("llama")) == ("llama/code/python@1",)
        assert {one.subject for one in events.recent(session, 100)} == {
            "llama",
            "bert",
            "bert/support",
            "bert/support@1",
            "llama/code/python",
            "llama/code/python@1",
        }


@pytest.mark.parametrize(
    ("seen", "expected"),
    [
        (rights("admin"), ["token create", "refused", "token revoke"]),
        (rights("writer"), []),
        (rights("admin", "llama"), []),
    ],
)
def test_refusals_and_tokens_are_for_admins_without_scopes(whole: Database, seen: Rights, expected: list[str]) -> None:
    with whole.write() as session:
        made = tokens.create(session, TESTER, "reader")
        events.record_denial(session, "delete", "llama/support@1", BOB, NotFoundError("no"))
        tokens.revoke(session, made.token.id, TESTER)
    with whole.read(seen) as session:
        found = [
            one for one in events.recent(session, 100) if one.action in {"refused", "token create", "token revoke"}
        ]
    assert [one.action for one in reversed(found)] == expected
    if expected:
        refused = found[1]
        assert (refused.actor, refused.token, refused.source) == ("bob", "tok_bob", "192.0.2.7")
        assert refused.detail == {"tried": "delete", "code": "not_found", "why": "no"}


def test_pages_of_events_tell_nothing_of_what_happens_elsewhere(whole: Database, bare: Database) -> None:
    """Neither in what they hold nor in where they go on, and new events don't shift them."""
    for size in (1, 2, 5):
        pages = {name: _pages(database, seen, size) for name, database, seen in (
            ("bare", bare, SCOPE), ("whole", whole, SCOPE)
        )}  # fmt: skip
        assert [[one.subject for one in page.events] for page in pages["whole"]] == [
            [one.subject for one in page.events] for page in pages["bare"]
        ]
        for page, other in zip(pages["whole"], pages["bare"], strict=True):
            if page.next is None or other.next is None:
                assert page.next is other.next
                continue
            assert page.next == EventPosition(page.events[-1].at, other.next.place)
        with whole.read(SCOPE) as session:
            assert [one for page in pages["whole"] for one in page.events] == list(events.recent(session, 1000))


def _pages(database: Database, seen: Rights, size: int) -> list[events.EventPage]:
    with database.read(seen) as session:
        pages = [events.page(session, size)]
        while pages[-1].next is not None:
            pages.append(events.page(session, size, pages[-1].next))
        return pages
