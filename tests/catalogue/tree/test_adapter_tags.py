"""Tags of several adapters at once: all of them wherever they point, of many the first, and who serves them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session

from registry.catalogue.changes import followers, retraction, tagging
from registry.catalogue.changes.followers import LEASE
from registry.catalogue.database.database import Database
from registry.catalogue.database.tables import Adapter, Revision, Tag
from registry.catalogue.tree import adapter_tags, revisions, tag_moves
from registry.catalogue.tree.adapter_tags import AdapterTags, Serving, TagPlace
from registry.catalogue.tree.tag_moves import TagOrder
from registry.reference import Path, Reference
from registry.rights import UNLIMITED, Principal, Rights
from registry.schemas.running import NameReport, ReportRequest
from registry.schemas.tags import TagsRequest
from tests.catalogue.rows import BOB, TESTER, rights
from tests.kit.statements import READS, statements

PATHS = ("llama/support", "llama/support/french", "llama/code", "llama/nothing")
NOW = datetime.now(UTC)


def point(database: Database, reference: str, *names: str) -> None:
    def work(session: Session) -> None:
        key = revisions.find(session, Reference.parse(reference)).id
        for name in names:
            tagging.set_tag(session, key, name, BOB)

    database.change(work)


@pytest.fixture
def tagged(filled: Database) -> Database:
    """Tags on both revisions of support, one of french, and none of code."""
    point(filled, "llama/support@2", "beta", "next")
    point(filled, "llama/support/french@1", "live")
    return filled


def first(database: Database, seen: Rights = UNLIMITED) -> dict[str, AdapterTags]:
    with database.read(seen) as session:
        return adapter_tags.of_adapters(session, PATHS)


def test_all_tags_of_some_adapters_come_at_once(tagged: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    with tagged.read() as session:
        rows = session.execute(
            select(Adapter.path, Tag.name, Revision.number)
            .join(Tag, Tag.adapter_id == Adapter.id)
            .join(Revision, Revision.id == Tag.revision_id)
        ).all()
    found = first(tagged)
    told = sorted((path, tag.name, tag.number) for path, of in found.items() for tag in of.first)
    assert told == sorted(map(tuple, rows))
    assert {path: of.total for path, of in found.items()} == {"llama/support": 3, "llama/support/french": 1}
    assert {tag.number for tag in found["llama/support"].first} == {1, 2}
    monkeypatch.setattr("registry.catalogue.store.blobs.AT_ONCE", 500)
    with statements(*READS) as sent:
        first(tagged)
    assert len(sent) == 2  # not one for each adapter


def test_of_many_tags_the_protected_come_first(tagged: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    tagged.change(lambda session: tagging.protect(session, "llama", "prod", TESTER))
    tagged.change(lambda session: tagging.protect(session, "llama", "b*", TESTER))  # a pattern, and no name
    monkeypatch.setattr(adapter_tags, "FIRST", 1)
    found = first(tagged)["llama/support"]
    assert found.first == (TagPlace("prod", 1, protected=True), TagPlace("beta", 2, protected=False))
    assert found.total == 3


def test_tags_out_of_scope_do_not_exist(tagged: Database) -> None:
    scoped = rights("reader", "llama/support/french")
    assert first(tagged, scoped).keys() == {"llama/support/french"}
    with tagged.read(scoped) as session:
        assert adapter_tags.names(session, None) == (("live", 1),)
    with tagged.read() as session:
        assert adapter_tags.names(session, None) == (("beta", 1), ("live", 1), ("next", 1), ("prod", 1))
        assert adapter_tags.names(session, Path.parse("llama/code")) == ()
    point(tagged, "llama/code@1", "prod")
    with tagged.read() as session:
        assert adapter_tags.names(session, None)[0] == ("prod", 2)


def report(database: Database, number: int, *names: tuple[str, int | None], after: float = 0.0) -> None:
    said = tuple(NameReport(name=name, serves=serves) for name, serves in names)
    request = ReportRequest(id=f"{number:032x}", kind="vllm", name=f"engine {number}", names=said)
    by = Principal("serving", UNLIMITED, token="tok_serving")
    at = NOW + timedelta(seconds=after)
    database.change(lambda session: followers.report(session, followers.read(request, by), by, at))


def test_who_serves_a_tag_is_counted_by_what_it_names(tagged: Database) -> None:
    prod, live = "llama/support@prod", "llama/support/french@live"
    report(tagged, 1, (prod, 1), (live, 1))
    report(tagged, 2, (prod, 2))
    report(tagged, 3, (prod, None))
    report(tagged, 4, ("llama/support", 1), ("llama/support@1", 1))  # other names
    asked = {("llama/support", "prod"): 1, ("llama/support/french", "live"): 1, ("llama/support", "next"): 2}
    with tagged.read() as session:
        assert adapter_tags.serving(session, asked, NOW) == {prod: Serving(1, 2), live: Serving(1, 0)}
        withdrawn = asked | {("llama/support", "prod"): None}  # as of what is retracted: nothing is to be served
        assert adapter_tags.serving(session, withdrawn, NOW)[prod] == Serving(1, 2)
        assert adapter_tags.serving(session, asked, NOW + LEASE + timedelta(seconds=1)) == {}


def test_chosen_tags_of_an_adapter_are_told_as_in_the_list(tagged: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    point(tagged, "llama/support@2", "prod")
    key = Reference.parse("llama/support/french@1")
    tagged.change(lambda session: retraction.retract(session, revisions.find(session, key).id, "wrong", TESTER))
    request = TagsRequest(path="llama/support")
    with tagged.read() as session:
        whole = tag_moves.listed(session, request, TagOrder())
        some = tag_moves.listed(session, request, TagOrder(), only=["prod", "next", "live", "none"])
    assert some == tuple(one for one in whole if one.path == "llama/support" and one.tag in ("prod", "next"))
    assert some[1].previous == "llama/support@1"
    monkeypatch.setattr(tag_moves, "_RECENT", 1)
    with tagged.read() as session:
        [known, unknown] = tag_moves.listed(session, request, TagOrder(), only=["prod", "next"])[::-1]
    assert (known.tag, known.previous, known.actor) == ("prod", "llama/support@1", "bob")
    assert (unknown.tag, unknown.at, unknown.actor) == ("next", None, None)  # older than the newest event


def test_a_page_of_tags_reads_the_events_of_its_adapters_alone(tagged: Database) -> None:
    with tagged.read() as session, statements(*READS) as sent:
        tag_moves.listed(session, TagsRequest(), TagOrder(), limit=2)
    [(_, chosen)] = [(text, bound) for text, bound in sent if "max(events.id)" in text]
    assert "llama/support" in str(chosen)
    assert "llama/support/french" not in str(chosen)
