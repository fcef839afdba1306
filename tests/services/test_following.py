"""Following events: a folder and a service alike go on exactly where somebody stopped."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import delete, insert

from registry.catalogue.database.tables import EventRecord
from registry.client.remote import RemoteRegistry
from registry.errors import NotAllowedError, NotFoundError, UsageError
from registry.folders.staging import FetchCache
from registry.http import streams
from registry.operations.following import START
from registry.operations.registry import Registry
from registry.reference import Path as TreePath
from registry.rights import Principal, Rights
from registry.schemas.protocol import cursor_to, key_of
from registry.schemas.team import FollowedEvent
from registry.services import following
from registry.services.local import LocalRegistry
from tests.kit import plain_base, write_adapter
from tests.kit.serving import QUICK, ServedRegistry, open_http

EVENTS = [("base add", "tiny"), ("publish", "tiny/one@1"), ("tag", "tiny/one"), ("publish", "tiny/two@1")]


@pytest.fixture(params=["folder", "service"])
def team(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Registry]:
    base = plain_base(tmp_path / "base")
    opened = LocalRegistry.open(tmp_path / "registry", cache_folder=tmp_path / "cache", actor="anna")
    opened.add_base("tiny", base.folder)
    for seed, name in enumerate(("one", "two")):
        folder = write_adapter(tmp_path / name, base, list(base.modules)[:1], r=1, seed=seed)
        opened.publish(folder, f"tiny/{name}", tags=["prod"] if name == "one" else [])
    if request.param == "folder":
        with opened:
            yield opened
        return
    opened.close()
    with open_http(tmp_path) as served:
        yield served


def local(team: Registry) -> LocalRegistry:
    found = team.local if isinstance(team, ServedRegistry) else team
    assert isinstance(found, LocalRegistry)
    return found


def told(events: list[FollowedEvent]) -> list[tuple[str, str]]:
    return [(event.action, event.subject) for event in events]


def all_of(team: Registry, since: str, kind: str | None = None) -> list[FollowedEvent]:
    with team.follow_events("tiny", since=since, once=True, kind=kind) as found:
        return list(found)


def test_each_cursor_leads_on_from_its_event(team: Registry) -> None:
    every = all_of(team, START)
    assert told(every) == EVENTS
    assert [FollowedEvent.model_fields.keys() - {"cursor"}] == [type(team.events()[0]).model_fields.keys()]
    assert [one.model_dump(exclude={"cursor"}) for one in reversed(every)] == [
        one.model_dump() for one in team.events("tiny")
    ]
    for place, event in enumerate(every):
        assert all_of(team, event.cursor) == every[place + 1 :]
        assert all_of(team, event.cursor, kind="publish") == [
            one for one in every[place + 1 :] if one.action == "publish"
        ]
    assert len({event.cursor for event in every}) == len(every)


def test_new_events_come_after_those_that_are_there(team: Registry) -> None:
    with team.follow_events("tiny", last=2) as events, team.follow_events("tiny/one") as new:
        begun = new.cursor
        assert told([next(events), next(events)]) == EVENTS[2:]
        team.tag("tiny/two", "other")
        team.tag("tiny/one", "next")
        assert told([next(events), next(events)]) == [("tag", "tiny/two"), ("tag", "tiny/one")]
        assert told([next(new)]) == [("tag", "tiny/one")]
        assert events.cursor == new.cursor != begun
        events.close()
        assert list(events) == []
    assert told(all_of(team, begun)) == [("tag", "tiny/two"), ("tag", "tiny/one")]


def test_a_beginning_before_anything_happens_loses_nothing(team: Registry) -> None:
    """A program that begins, looks, and then follows: what happens between is not lost."""
    with team.follow_events(kind="tag") as events:
        begun = events.cursor
    team.tag("tiny/two", "other")
    with team.follow_events(kind="tag", since=begun, once=True) as events:
        assert told(list(events)) == [("tag", "tiny/two")]


@pytest.mark.parametrize(
    ("cursor", "why"),
    [
        ("", "is malformed"),
        ("yesterday", "is malformed"),
        ("%00", "is malformed"),
        (cursor_to(17), "is malformed"),
        (cursor_to(["2026-01-02T03:04:05+00:00", -1]), "is malformed"),
        (cursor_to(["2026-01-02T03:04:05+00:00", 1]), "is of no event that is here"),
    ],
)
def test_a_cursor_that_no_event_gave_is_refused(team: Registry, cursor: str, why: str) -> None:
    with pytest.raises(UsageError, match=why):
        team.follow_events(since=cursor)


def test_a_cursor_whose_event_was_removed_is_refused(team: Registry) -> None:
    """What came after it may have been removed with it."""
    first, *_ = all_of(team, START)
    with local(team).deployment.database.write() as session:
        session.execute(delete(EventRecord).where(EventRecord.at == first.at))
    with pytest.raises(UsageError, match="its event was removed or lost"):
        team.follow_events(since=first.cursor)


def test_what_else_is_refused(team: Registry) -> None:
    with pytest.raises(UsageError, match="There is no kind of event 'published'"):
        team.follow_events(kind="published")
    with pytest.raises(NotFoundError):
        team.follow_events("tiny/none")
    with pytest.raises(UsageError, match="leave the number 3 of the newest ones out"):
        team.follow_events(since=START, last=3)
    with pytest.raises(UsageError, match="last is -1"):
        team.follow_events(last=-1)


def test_a_cursor_tells_a_token_nothing_of_what_it_does_not_see(team: Registry) -> None:
    def cursors() -> list[str]:
        owner = local(team)
        scoped = owner.with_principal(Principal("ben", Rights("reader", (TreePath.parse("tiny/one"),))))
        found = all_of_scope(scoped)
        assert told(found) == EVENTS[:3]
        with scoped.follow_events() as now:
            return [*(event.cursor for event in found), now.cursor]

    def all_of_scope(scoped: LocalRegistry) -> list[FollowedEvent]:
        with scoped.follow_events(since=START, once=True) as events:
            return list(events)

    before = cursors()
    for number in range(30):
        team.tag("tiny/two", f"t{number}")
        team.untag("tiny/two", f"t{number}")
    assert cursors() == before
    assert before[-1] == before[-2]  # to begin now is to go on from the last one that is seen
    blind = local(team).with_principal(Principal("eve", Rights("reader", (TreePath.parse("other"),))))
    with blind.follow_events() as events:
        assert events.cursor == START


def test_many_events_come_in_parts(team: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following, "_MOST", 7)
    with local(team).deployment.database.write() as session:
        at = session.query(EventRecord).first()
        assert at is not None
        row = {"at": at.at, "action": "tag", "actor": "bob", "detail": {}}
        session.execute(insert(EventRecord), [{**row, "subject": f"tiny/one@{number}"} for number in range(50)])
    found = all_of(team, START)
    assert [one.subject for one in found[4:]] == [f"tiny/one@{number}" for number in range(50)]
    assert all_of(team, found[20].cursor) == found[21:]
    assert [key_of(one.cursor)[1] for one in found[4:]] == list(range(2, 52))  # type: ignore[index]


def test_who_is_not_allowed_any_more_is_told_while_it_follows(
    team: Registry, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    if not isinstance(team, ServedRegistry):
        pytest.skip("a folder knows no tokens")
    monkeypatch.setattr(streams, "_CHECKED", 0.0)
    token = team.create_token("reader")
    there = RemoteRegistry(team.url, token.secret, cache=FetchCache(tmp_path / "other"), retry=QUICK)
    with closing(there) as reader, reader.follow_events("tiny") as events:
        team.revoke_token(token.token.id)
        with pytest.raises(NotAllowedError, match="revoked") as caught:
            next(events)
    assert caught.value.code == "bad_token"
