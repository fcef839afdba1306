"""Reports of followers: rows of their own, at most so many, and none of names outside the scopes of their token."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import pytest
from sqlalchemy import event, func, select

from registry.catalogue.changes import followers
from registry.catalogue.changes.followers import KEPT, LEASE
from registry.catalogue.database.database import Database
from registry.catalogue.database.team_tables import FollowedRecord, FollowerRecord
from registry.catalogue.tree import running
from registry.catalogue.tree.running import Now
from registry.errors import ConflictError, UsageError
from registry.rights import Principal
from registry.schemas.running import MAX_FOLLOWERS, NameReport, Reported, ReportRequest, Running
from tests.catalogue.rows import TESTER, rights

NOW: Final = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)
SCOPED: Final = Principal("serving", rights("reader", "llama/support"), token="tok_serving")


def an_id(number: int) -> str:
    return f"{number:032x}"


def reported(
    database: Database,
    *names: NameReport,
    by: Principal = TESTER,
    number: int = 1,
    after: timedelta = timedelta(),
    **more: Any,
) -> Reported:
    fields: dict[str, Any] = {"id": an_id(number), "kind": "folder", "name": f"folder=/{number}", "version": "1"}
    request = ReportRequest(names=names, **fields | more)
    said = followers.read(request, by)
    return database.change(lambda session: followers.report(session, said, by, NOW + after))


def listed(database: Database, after: timedelta = timedelta()) -> list[Running]:
    now = NOW + after
    with database.read() as session:
        found = running.followed(session, None, "nobody", Now(now, now - KEPT), None, 1 << 20)
    return [one for _, one in found]


def serving(name: str, serves: int | None = 1, **more: Any) -> NameReport:
    return NameReport(name=name, serves=serves, **{"wants": serves, **more})


def rows(database: Database) -> int:
    with database.read() as session:
        return session.scalar(select(func.count()).select_from(FollowerRecord)) or 0


def test_a_report_says_what_is_served_and_since_when_and_the_next_one_replaces_it(filled: Database) -> None:
    answer = reported(filled, serving("llama/support@prod", 1), serving("llama/code", 1))
    assert answer == Reported(lease=30.0, again=10.0)
    later, moved = timedelta(seconds=10), timedelta(seconds=20)
    reported(filled, serving("llama/support@prod", 1), serving("llama/code", 1), after=later)
    assert {one.since for one in listed(filled, later)} == {NOW}, "the same as before since then"
    reported(filled, serving("llama/support@prod", 1, wants=2), serving("llama/code", 1), after=later)
    assert {one.since for one in listed(filled, later)} == {NOW}, "another one is wanted, and the same is served"
    reported(filled, serving("llama/support@prod", 2, code="slow", error="half of it"), after=moved)
    (one,) = listed(filled, moved)  # the name that was not said any more is gone
    assert (one.name, one.serves, one.since) == ("llama/support@prod", "llama/support@2", NOW + moved)
    assert (one.code, one.error, one.wants) == ("slow", "half of it", "llama/support@2")
    assert one.follower is not None
    assert (one.follower.started_at, one.follower.seen_at) == (NOW, NOW + moved)
    assert one.follower.lease_until == NOW + moved + LEASE
    reported(filled, serving("llama/support@prod", None), after=moved)
    assert [(one.serves, one.since) for one in listed(filled, moved)] == [(None, None)]


def test_a_report_that_says_the_same_writes_one_row(filled: Database) -> None:
    names = [serving(f"llama/support@t{number}") for number in range(100)]
    reported(filled, *names)
    written: list[str] = []

    def note(_a: Any, _b: Any, statement: str, *_: Any) -> None:
        written.append(statement.split(maxsplit=1)[0])

    event.listen(filled._engine, "before_cursor_execute", note)
    reported(filled, *names, after=timedelta(seconds=10))
    assert [word for word in written if word in {"UPDATE", "INSERT", "DELETE"}] == ["UPDATE"]
    assert len([word for word in written if word == "SELECT"]) == 1
    written.clear()
    reported(filled, *names[:-1], serving("llama/support@t99", 2), after=timedelta(seconds=20))
    assert [word for word in written if word in {"UPDATE", "INSERT", "DELETE"}] == ["UPDATE", "DELETE", "INSERT"]
    assert len(listed(filled, timedelta(seconds=20))) == 100


def test_goodbye_forgets_a_follower_with_its_names_and_twice_is_once(filled: Database) -> None:
    reported(filled, serving("llama/code"))
    reported(filled, serving("llama/code"), number=2)
    for _ in range(2):
        assert reported(filled, gone=True).lease == 0.0
    (left,) = listed(filled)
    assert left.follower is not None
    assert left.follower.name == "folder=/2"
    with filled.read() as session:
        assert session.scalar(select(func.count()).select_from(FollowedRecord)) == 1


def test_an_id_names_the_row_of_its_own_token_only(filled: Database) -> None:
    """So that nobody can write to another's row, end it, or find out that it is there."""
    other = Principal("other", rights("reader"), token="tok_other")
    reported(filled, serving("llama/support@prod", 1), by=SCOPED)
    reported(filled, serving("llama/support@prod", 2), by=other)
    assert reported(filled, by=TESTER, gone=True).lease == 0.0
    assert reported(filled, by=other, gone=True).lease == 0.0
    (one,) = listed(filled)
    assert one.follower is not None
    assert (one.follower.actor, one.follower.token, one.serves) == ("serving", "tok_serving", "llama/support@1")


def test_of_names_outside_the_scopes_nothing_is_kept_whether_they_exist_or_not(filled: Database) -> None:
    outside = ["llama/code", "llama/nothing@prod", "llama/support2", "llama/support-2@1", "bert/support@prod"]
    inside = ["llama/support", "llama/support/french@prod", "llama/support/never@3"]
    answer = reported(filled, *map(serving, [*outside, *inside]), by=SCOPED)
    assert answer.left_out == tuple(outside)
    assert [one.name for one in listed(filled)] == inside
    assert [one.withdrawn for one in listed(filled)] == [None, None, "deleted"]


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["llama"], "base model"),
        (["llama/support", "llama/support"], "1 names twice"),
        (["Llama/support"], "capital letters"),
        (["llama/support@3:0.5"], "weight"),
    ],
)
def test_a_report_that_makes_no_sense_is_refused_whole(filled: Database, names: list[str], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        reported(filled, serving("llama/code"), *map(serving, names))
    assert rows(filled) == 0


def test_texts_that_no_database_keeps_are_refused(filled: Database) -> None:
    for field in ("name", "version"):
        more: dict[str, Any] = {field: "a\0b"}
        with pytest.raises(UsageError, match="plain text"):
            reported(filled, **more)
    with pytest.raises(UsageError, match="plain text"):
        reported(filled, serving("llama/code", error="\0"))


def test_a_token_has_at_most_so_many_live_followers_and_lost_ones_make_room(filled: Database) -> None:
    for number in range(MAX_FOLLOWERS):
        reported(filled, number=number, by=SCOPED, after=timedelta(seconds=number / 10))
    with pytest.raises(ConflictError) as refused:
        reported(filled, number=1000, by=SCOPED, after=timedelta(seconds=20))
    assert refused.value.code == "too_many_followers"
    assert rows(filled) == MAX_FOLLOWERS
    reported(filled, number=1000, by=TESTER, after=timedelta(seconds=20))  # another's does not count
    reported(filled, number=3, by=SCOPED, after=timedelta(seconds=20))  # one that is known goes on
    over = LEASE + timedelta(seconds=0.05)  # the lease of the first has ended, which gives way
    reported(filled, number=1000, by=SCOPED, after=over)
    assert rows(filled) == MAX_FOLLOWERS + 1
    with filled.read() as session:
        ids = session.scalars(select(FollowerRecord.id).where(FollowerRecord.who == "tok_serving")).all()
    assert an_id(0) not in ids


def test_one_that_starts_again_takes_the_place_of_the_one_that_was_lost(filled: Database) -> None:
    same: dict[str, Any] = {"name": "vllm=http://10.0.0.7:8000", "kind": "vllm"}
    reported(filled, serving("llama/code"), number=1, **same)
    reported(filled, serving("llama/code"), number=2, by=SCOPED, **same)
    reported(filled, serving("llama/code"), number=3, **same)  # both live: both are shown
    assert rows(filled) == 3
    reported(filled, serving("llama/code"), number=4, after=LEASE, **same)
    with filled.read() as session:
        ids = session.scalars(select(FollowerRecord.id).order_by(FollowerRecord.id)).all()
    assert ids == [an_id(2), an_id(4)], "another token's stays: it may be another one of this name"


def test_those_that_are_long_gone_are_not_listed_and_are_removed(filled: Database) -> None:
    reported(filled, serving("llama/code"), number=1)
    shown = LEASE + KEPT - timedelta(seconds=1)
    assert [one.state for one in listed(filled, shown)] == ["lost"]
    assert listed(filled, LEASE + KEPT) == []
    reported(filled, serving("llama/code"), number=2, by=SCOPED, after=LEASE + KEPT)
    assert rows(filled) == 1


def test_many_report_at_once(filled: Database) -> None:
    """New ones and known ones of one token and of several, together: none fails, and every row is the last one's."""
    errors: list[BaseException] = []
    tokens = [Principal(f"t{number}", rights("reader"), token=f"tok_{number}") for number in range(5)]

    def work(number: int) -> None:
        try:
            for turn in range(1, 3):
                names = [serving(f"llama/support@t{place}", turn) for place in range(20)]
                reported(filled, *names, number=number, by=tokens[number % 5], after=timedelta(seconds=turn))
        except BaseException as error:  # noqa: BLE001 - raised below
            errors.append(error)

    threads = [threading.Thread(target=work, args=[number]) for number in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    found = listed(filled, timedelta(seconds=2))
    assert len(found) == 50 * 20
    assert {one.serves for one in found} == {"llama/support@2"}
    assert {one.since for one in found} == {NOW + timedelta(seconds=2)}
