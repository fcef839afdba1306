"""All tags: what they name, since when, what they named before, and how metrics differ; as a token may see them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update
from sqlalchemy.orm import Session

from registry.app import service_app
from registry.catalogue.changes import deletion, rename, retraction, tagging, undeletion
from registry.catalogue.changes.details import annotate
from registry.catalogue.database.database import Database
from registry.catalogue.database.tables import EventRecord, table_of
from registry.catalogue.tree import revisions, tag_moves
from registry.catalogue.tree.tag_moves import TagOrder
from registry.client.remote import RemoteRegistry
from registry.errors import NotFoundError, UsageError
from registry.folders.staging import FetchCache
from registry.operations.table import TAGS
from registry.reference import Path as TreePath
from registry.reference import Reference
from registry.rights import UNLIMITED, Rights
from registry.schemas.frames import csv_of
from registry.schemas.tags import Tags, TagsRequest, TagState
from registry.services.deployment import Deployment
from registry.services.local import LocalRegistry
from registry.services.local_merge import LocalArithmetic
from registry.storage.blobs import BlobStore
from registry.storage.filesystem import FilesystemDriver
from tests.catalogue.rows import BOB, TESTER, Writer, rights
from tests.kit.library import running
from tests.kit.serving import QUICK


def row(session: Session, reference: str) -> revisions.RevisionRow:
    return revisions.find(session, Reference.parse(reference))


def point(database: Database, reference: str, *names: str) -> None:
    def work(session: Session) -> None:
        for name in names:
            tagging.set_tag(session, row(session, reference).id, name, BOB)

    database.change(work)


def measure(database: Database, reference: str, **metrics: float) -> None:
    def work(session: Session) -> None:
        annotate(session, row(session, reference).id, metrics=metrics, annotations={}, principal=TESTER)

    database.change(work)


def listed(database: Database, seen: Rights = UNLIMITED, *, limit: int | None = None, **asked: Any) -> list[TagState]:
    """All tags, and the same page by page."""
    request = TagsRequest(**asked)
    order = TagOrder.parse(request.sort)
    with database.read(seen) as session:
        whole = list(tag_moves.listed(session, request, order, limit=limit))
    if limit is None:
        assert paged(database, seen, request, 1) == paged(database, seen, request, 2) == whole
    return whole


def paged(database: Database, seen: Rights, request: TagsRequest, size: int) -> list[TagState]:
    order = TagOrder.parse(request.sort)
    found: list[TagState] = []
    after: Any = None
    while True:
        with database.read(seen) as session:
            page = tag_moves.listed(session, request, order, after=after, limit=size)
        found += page
        if len(page) < size:
            return found
        after = TAGS.key(order.key(page[-1]))


def names(found: list[TagState]) -> list[str]:
    return [f"{one.path}@{one.tag}" for one in found]


@pytest.fixture
def tagged(filled: Database) -> Database:
    """Tags on three adapters: prod moved from 1 to 2 and got better, stable stays behind, french has its own."""
    point(filled, "llama/support@2", "prod")
    point(filled, "llama/support@1", "stable")
    point(filled, "llama/support/french@1", "release-1", "prod")
    point(filled, "llama/code@1", "r_2")
    measure(filled, "llama/support/french@1", acc=0.25)
    return filled


def test_a_tag_says_what_it_names_since_when_by_whom_and_what_it_named_before(tagged: Database) -> None:
    [prod, stable] = listed(tagged, path="llama/support", tag="*")[:2]
    assert names([prod, stable]) == ["llama/support@prod", "llama/support@stable"]
    assert (prod.reference, prod.previous, prod.newest) == ("llama/support@2", "llama/support@1", "llama/support@2")
    assert (prod.is_outdated, prod.retracted, prod.actor) == (False, False, "bob")
    assert prod.metrics == {"acc": 0.75, "loss": -1.5}
    assert (prod.previous_metrics, prod.changes) == ({"acc": 0.5}, {"acc": 0.25})
    assert (stable.reference, stable.previous, stable.is_outdated) == ("llama/support@1", None, True)
    assert (stable.previous_metrics, stable.changes) == ({}, {})
    with tagged.read() as session:
        moved = tag_moves.of_adapter(session, TreePath.parse("llama/support"))
    assert {one.tag: one.moves[0].at for one in moved} == {"prod": prod.at, "stable": stable.at}


def test_tags_come_by_path_and_name_and_those_that_are_asked_for(tagged: Database) -> None:
    every = [
        "llama/code@r_2", "llama/support@prod", "llama/support@stable", "llama/support/french@prod",
        "llama/support/french@release-1",
    ]  # fmt: skip
    assert names(listed(tagged)) == names(listed(tagged, path="llama")) == every
    assert names(listed(tagged, path="llama/support")) == every[1:]
    assert names(listed(tagged, path="llama/support/french")) == every[3:]
    assert names(listed(tagged, tag="prod")) == [every[1], every[3]]
    assert names(listed(tagged, tag="r*")) == [every[0], every[4]]
    assert names(listed(tagged, tag="r_*")) == names(listed(tagged, tag="r?2")) == [every[0]]
    assert listed(tagged, tag="PROD") == listed(tagged, tag="P*") == listed(tagged, tag="%") == []
    assert names(listed(tagged, outdated=True)) == [every[2]]
    assert names(listed(tagged, actor="bob")) == every
    assert listed(tagged, actor="tester") == []
    assert names(listed(tagged, limit=2)) == every[:2]
    since = listed(tagged, tag="release-1")[0].at
    assert names(listed(tagged, after=since, sort="newest")) == [every[0], every[3], every[4]]
    with pytest.raises(NotFoundError, match="Did you mean llama/support,"):
        listed(tagged, path="llama/suport")
    with pytest.raises(UsageError):
        listed(tagged, actor="a\0")
    with pytest.raises(UsageError):
        listed(tagged, tag="\0")


def test_tags_are_ordered_by_when_they_were_set_by_metrics_and_by_how_these_changed(tagged: Database) -> None:
    by_age = ["llama/support@prod", "llama/support@stable", "llama/support/french@release-1",
              "llama/support/french@prod", "llama/code@r_2"]  # fmt: skip
    assert names(listed(tagged, sort="oldest")) == by_age
    assert names(listed(tagged, sort="newest")) == by_age[::-1]
    best = ["llama/support@prod", "llama/support@stable", "llama/support/french@prod",
            "llama/support/french@release-1"]  # fmt: skip
    assert names(listed(tagged, sort="max:acc")) == best
    assert names(listed(tagged, sort="min:acc")) == [*best[2:], best[1], best[0]]
    assert listed(tagged, sort="max:none") == []
    point(tagged, "llama/support@2", "stable")
    point(tagged, "llama/support@1", "stable")  # worse than what it named before
    assert names(listed(tagged, sort="min:change:acc")) == [best[1], best[0]]
    assert names(listed(tagged, sort="max:change:acc")) == [best[0], best[1]]
    for wrong in ("acc", "max:", "max:change:", "newest:acc"):
        with pytest.raises(UsageError, match="malformed"):
            TagOrder.parse(wrong)


def test_a_metric_of_any_size_is_compared(tagged: Database) -> None:
    measure(tagged, "llama/support@1", huge=-1.7e308)
    measure(tagged, "llama/support@2", huge=1.7e308)
    [prod] = listed(tagged, sort="max:change:huge")
    assert (prod.metrics["huge"], prod.previous_metrics["huge"]) == (1.7e308, -1.7e308)
    assert "huge" not in prod.changes


def test_a_token_with_scopes_sees_its_part(tagged: Database) -> None:
    french = ["llama/support/french@prod", "llama/support/french@release-1"]
    scoped = rights("reader", "llama/support/french")
    conditions: tuple[dict[str, Any], ...] = (
        {},
        {"path": "llama"},
        {"sort": "oldest", "tag": "*"},
        {"sort": "min:acc"},
    )
    for asked in conditions:
        assert sorted(names(listed(tagged, scoped, **asked))) == french
    with pytest.raises(NotFoundError):
        listed(tagged, scoped, path="llama/code")
    both = rights("writer", "llama/support/french/legal", "llama/code")
    assert names(listed(tagged, both)) == ["llama/code@r_2"]
    assert listed(tagged, rights("reader", "llama/support/french/legal")) == []


def test_what_went_with_its_revision_and_came_back_is_there_since_then(tagged: Database, writer: Writer) -> None:
    tagged.change(lambda session: deletion.delete(session, row(session, "llama/support@2").id, TESTER, with_tags=True))
    assert names(listed(tagged, path="llama/support"))[0] == "llama/support@stable"
    [stable] = listed(tagged, tag="stable")
    assert stable.newest == "llama/support@1"
    reference = Reference.parse("llama/support@2")
    before = listed(tagged, tag="r_2")[0].at
    assert before is not None
    tagged.change(lambda session: undeletion.undo(session, reference, before, TESTER))
    [prod] = listed(tagged, tag="prod", path="llama/support", actor="tester")
    assert (prod.reference, prod.previous, prod.actor, prod.changes) == ("llama/support@2", None, "tester", {})
    assert prod.at is not None
    assert prod.at > before
    point(tagged, "llama/support@1", "prod")
    prod = listed(tagged, tag="prod", path="llama/support", actor="bob")[0]
    assert (prod.previous, prod.changes) == ("llama/support@2", {"acc": -0.25})


def test_what_a_tag_named_before_is_told_where_it_is_deleted(tagged: Database) -> None:
    point(tagged, "llama/support@1", "stable", "prod")
    tagged.change(lambda session: deletion.delete(session, row(session, "llama/support@2").id, TESTER, with_tags=True))
    prod = listed(tagged, tag="prod", path="llama/support")[0]
    assert (prod.previous, prod.previous_metrics, prod.changes) == ("llama/support@2", {}, {})


def test_a_tag_says_that_what_it_names_was_retracted(tagged: Database) -> None:
    def work(session: Session) -> None:
        retraction.retract(session, row(session, "llama/support@1").id, "leaked", TESTER)

    tagged.change(work)
    gone = [f"{one.path}@{one.tag}" for one in listed(tagged) if one.retracted]
    assert gone == ["llama/support@stable", "llama/support/french@prod", "llama/support/french@release-1"]


def test_old_names_are_listed_where_they_are_asked_for(tagged: Database) -> None:
    old, new = TreePath.parse("llama/support"), TreePath.parse("llama/help")
    tagged.change(lambda session: rename.rename(session, old, new, TESTER))
    assert names(listed(tagged, tag="stable")) == ["llama/help@stable"]
    [here] = listed(tagged, tag="stable")
    assert (here.at, here.actor, here.previous) == (None, None, None)  # no event tells of the new name
    assert names(listed(tagged, tag="stable", old_names=True)) == ["llama/help@stable", "llama/support@stable"]
    assert names(listed(tagged, path="llama/support", tag="stable")) == ["llama/support@stable"]
    found = names(listed(tagged, sort="newest"))
    assert found == ["llama/code@r_2", "llama/help@prod", "llama/help@stable", "llama/help/french@prod",
                     "llama/help/french@release-1"]  # fmt: skip
    assert names(listed(tagged, sort="oldest")) == found  # what is not known comes last


def test_a_tag_of_which_no_event_tells_is_listed(tagged: Database) -> None:
    events = table_of(EventRecord)
    with tagged.write() as session:
        session.execute(update(events).where(events.c.action == "tag").values(action="annotate"))
    assert [one.at for one in listed(tagged)] == [None] * 5
    assert listed(tagged, actor="bob") == []


def test_a_key_of_another_order_is_refused(tagged: Database) -> None:
    keys: dict[str | None, Any] = {None: None, "newest": listed(tagged, limit=1)[0].at, "max:acc": 0.5}
    for sort in keys:
        for of, value in keys.items():
            fits = (of is None and sort != "max:acc") or of == sort
            request = TagsRequest(sort=sort)
            with tagged.read() as session:
                ask = (session, request, TagOrder.parse(sort))
                if fits:
                    tag_moves.listed(*ask, after=(value, "llama/support", "prod"))
                    continue
                with pytest.raises(UsageError, match="another order"):
                    tag_moves.listed(*ask, after=(value, "llama/support", "prod"))


def test_a_service_says_the_same_page_by_page_and_to_a_token_its_part(
    tagged: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("registry.client.calls.MOST", 2)
    cache, store = FetchCache(tmp_path / "cache"), BlobStore(FilesystemDriver(tmp_path / "store"))
    local = LocalRegistry(Deployment(tagged, store, TESTER, "here"), lambda: cache)
    secret = local.create_token("reader", scopes=["llama/support/french"]).secret
    everything: tuple[dict[str, Any], ...] = (
        {}, {"path": "llama/support"}, {"tag": "*prod*"}, {"sort": "newest"}, {"sort": "min:change:acc"},
        {"sort": "max:acc", "limit": 3}, {"outdated": True}, {"actor": "bob", "after": "7d"},
    )  # fmt: skip
    with (
        running(service_app(local, anonymous="read")) as url,
        RemoteRegistry(url, None, cache=cache, arithmetic=LocalArithmetic, retry=QUICK) as remote,
        RemoteRegistry(url, secret, cache=cache, arithmetic=LocalArithmetic, retry=QUICK) as scoped,
    ):
        for asked in everything:
            assert remote.tags(**asked) == local.tags(**asked) != ()
        assert names(list(scoped.tags("llama"))) == ["llama/support/french@prod", "llama/support/french@release-1"]
        with pytest.raises(NotFoundError):
            scoped.tags("llama/code")
        wrong: tuple[dict[str, Any], ...] = ({"sort": "acc"}, {"path": "llama/support@1"})
        for asked in wrong:
            with pytest.raises(UsageError) as here:
                local.tags(**asked)
            with pytest.raises(UsageError) as there:
                remote.tags(**asked)
            assert str(here.value) == str(there.value)


def test_tags_are_a_frame_a_table_and_csv(tagged: Database) -> None:
    found = Tags(listed(tagged, path="llama/support"))
    frame = found.to_pandas()
    assert list(frame.columns) == [
        "path", "tag", "reference", "newest", "retracted", "at", "actor", "previous", "metric.acc", "metric.loss",
        "before.acc", "change.acc",
    ]  # fmt: skip
    assert list(frame["reference"]) == [one.reference for one in found]
    assert list(frame["change.acc"].dropna()) == [0.25]
    html = found._repr_html_()
    assert "<td>llama/support@prod</td><td>llama/support@2</td><td></td>" in html
    assert "acc=0.75 (+0.25), loss=-1.5" in html
    rows = csv_of(*Tags.described.values(found)).splitlines()
    assert rows[0].split(",") == list(frame.columns)
    assert rows[1].startswith("llama/support,prod,llama/support@2,llama/support@2,False,")
    assert rows[1].endswith(",0.75,-1.5,0.5,0.25")
    assert Tags(()).to_pandas().columns[-1] == "previous"
