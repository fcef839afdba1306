"""Uses of revisions: what is added is counted, by whoever adds it, and read back against a count of its own."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from registry.catalogue.changes import deletion, details
from registry.catalogue.database.database import Database
from registry.catalogue.database.team_tables import LoadRecord, UseRecord
from registry.catalogue.store import purge
from registry.catalogue.tree import revisions
from registry.catalogue.tree.cards import loaded, uses
from registry.reference import Path, Reference
from registry.schemas.usage import RECENT_DAYS, Counted, Load, RevisionUse, Use, UseKey
from tests.catalogue.rows import TESTER

NOW = datetime.now(UTC)
FRENCH = ("llama/support/french", 1)
SUPPORT = ("llama/support", 2)


def key(session: Session, revision: tuple[str, int]) -> int:
    return revisions.find(session, Reference.parse("{}@{}".format(*revision))).id


def one_use(revision: tuple[str, int], at: datetime, interface: str = "fetch", who: str = "tok_a") -> UseKey:
    return UseKey(*revision, at.date(), interface, who)


def write(database: Database, *batch: tuple[UseKey, int, datetime]) -> None:
    counted = {key: Counted(count, at) for key, count, at in batch}
    database.change(lambda session: details.count_uses(session, counted))


def test_what_was_never_used_says_so(filled: Database) -> None:
    with filled.read() as session:
        found = uses(session, [key(session, FRENCH)])
    assert found.together == Use(last_used_at=None, uses=0, by_interface={}, tokens=0)
    assert found.each == {}


def test_batches_add_up_and_the_latest_time_stays(filled: Database) -> None:
    earlier = NOW - timedelta(minutes=1)
    write(filled, (one_use(FRENCH, NOW), 2, NOW), (one_use(FRENCH, NOW, "hub", "tok_b"), 1, earlier))
    write(filled, (one_use(FRENCH, NOW), 3, earlier), (one_use(SUPPORT, NOW, "vllm"), 1, NOW))
    with filled.read() as session:
        french, support = key(session, FRENCH), key(session, SUPPORT)
        found = uses(session, [french, support])
        rows = session.scalar(select(func.count()).select_from(UseRecord))
    assert found.each[french] == Use(last_used_at=NOW, uses=6, by_interface={"fetch": 5, "hub": 1}, tokens=2)
    assert found.together == Use(last_used_at=NOW, uses=7, by_interface={"fetch": 5, "hub": 1, "vllm": 1}, tokens=2)
    assert [one.reference for one in found.named({support: "b", french: "a"})] == ["b", "a"]
    assert found.named({french: "x"}) == (RevisionUse(reference="x", **dict(found.each[french])),)
    assert rows == 3


def test_days_that_are_no_longer_recent_leave_only_the_last_time(filled: Database) -> None:
    first, before = NOW - timedelta(days=RECENT_DAYS - 1), NOW - timedelta(days=RECENT_DAYS)
    write(filled, (one_use(FRENCH, first), 4, first), (one_use(FRENCH, before, who="tok_b"), 9, before))
    write(filled, (one_use(SUPPORT, before), 2, before))
    with filled.read() as session:
        french, support = key(session, FRENCH), key(session, SUPPORT)
        found = uses(session, [french, support])
    assert found.each[french] == Use(last_used_at=first, uses=4, by_interface={"fetch": 4}, tokens=1)
    assert found.each[support] == Use(last_used_at=before, uses=0, by_interface={}, tokens=0)
    assert found.together.last_used_at == first


def test_counts_are_forgotten_after_their_time(filled: Database) -> None:
    kept, old = NOW - details.USES_KEPT, NOW - details.USES_KEPT - timedelta(days=1)
    write(filled, (one_use(FRENCH, kept), 1, kept), (one_use(FRENCH, old), 1, old))
    filled.change(lambda session: details.forget_uses(session, NOW))
    with filled.read() as session:
        assert session.scalars(select(UseRecord.day)).all() == [kept.date()]


def test_loads_are_one_row_a_token_a_revision_and_an_hour_and_are_forgotten(filled: Database) -> None:
    hour = NOW.replace(minute=0, second=0, microsecond=0)
    old = hour - details.LOADS_KEPT - timedelta(hours=1)
    batch = [
        Load(*revision, who, at, weights)
        for revision in (FRENCH, SUPPORT, ("llama/none", 1))
        for who in ("tok_a", "tok_b")
        for at in (hour, hour - timedelta(hours=1), old)
        for weights in (True, False)
    ]
    for _ in range(2):
        filled.change(lambda session: details.count_loads(session, batch))
    with filled.read() as session:
        assert session.scalar(select(func.count()).select_from(LoadRecord)) == 24
        told = loaded(session, Path.parse("llama/support"), "tok_a", NOW - timedelta(days=31))
        assert sorted(told) == [(2, False), (2, True)]
        assert loaded(session, Path.parse("llama/support"), "tok_c", old) == ()
    filled.change(lambda session: details.forget_uses(session, NOW))
    with filled.read() as session:
        assert {*session.scalars(select(LoadRecord.hour))} == {hour, hour - timedelta(hours=1)}


def test_uses_of_what_is_gone_are_dropped_and_of_what_is_deleted_kept(filled: Database) -> None:
    write(filled, (one_use(("llama/none", 1), NOW), 1, NOW), (one_use(("llama/support", 9), NOW), 1, NOW))
    with filled.write() as session:
        code = key(session, ("llama/code", 1))
        deletion.delete(session, code, TESTER)
    write(filled, (one_use(("llama/code", 1), NOW), 1, NOW), (one_use(FRENCH, NOW), 1, NOW))
    with filled.read() as session:
        assert set(session.scalars(select(UseRecord.revision_id))) == {code, key(session, FRENCH)}
    filled.change(lambda session: purge.purge(session, [code], purge.GRACE_OVER, TESTER))
    with filled.read() as session:
        assert session.scalars(select(UseRecord.revision_id)).all() == [key(session, FRENCH)]


def test_replicas_that_write_the_same_rows_lose_nothing(filled: Database) -> None:
    keys = [one_use(revision, NOW, interface) for revision in (FRENCH, SUPPORT) for interface in ("fetch", "hub")]

    def replica(turn: int) -> None:
        for count in range(10):
            write(filled, *((key, 1, NOW) for key in (keys if (turn + count) % 2 else reversed(keys))))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(replica, range(4)))
    with filled.read() as session:
        assert set(session.scalars(select(UseRecord.count))) == {40}


EACH = st.tuples(
    st.sampled_from([FRENCH, SUPPORT]),
    st.integers(0, 60),
    st.sampled_from(["fetch", "hub", "vllm"]),
    st.sampled_from(["tok_a", "tok_b", "ann"]),
)


@settings(
    max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], deadline=None
)
@given(st.lists(st.lists(EACH, max_size=6), max_size=4))
def test_what_is_read_is_what_was_noted(
    filled: Database, batches: list[list[tuple[tuple[str, int], int, str, str]]]
) -> None:
    filled.change(lambda session: details.forget_uses(session, NOW + timedelta(days=9999)))
    for batch in batches:
        counted: dict[UseKey, int] = {}
        for revision, age, interface, who in batch:
            one = one_use(revision, NOW - timedelta(days=age), interface, who)
            counted[one] = counted.get(one, 0) + 1
        write(filled, *((one, count, datetime.combine(one.day, NOW.timetz())) for one, count in counted.items()))
    every = [one for batch in batches for one in batch]
    with filled.read() as session:
        for revision in (FRENCH, SUPPORT):
            found = uses(session, [key(session, revision)]).together
            recent = [one for one in every if one[0] == revision and one[1] < 30]
            ages = [one[1] for one in every if one[0] == revision]
            assert found.last_used_at == (NOW - timedelta(days=min(ages)) if ages else None)
            assert found.uses == len(recent)
            assert found.tokens == len({one[3] for one in recent})
            assert found.by_interface == {
                name: sum(one[2] == name for one in recent) for name in sorted({one[2] for one in recent})
            }
