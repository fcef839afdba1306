"""Replicas write a row of themselves; one that is silent is told from one that answers."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, Final

from sqlalchemy import update

from registry.catalogue.database.database import Database
from registry.catalogue.database.team_tables import ReplicaRecord
from registry.catalogue.team import sessions
from registry.schemas.jobs import Replica, ReplicaFigures

NOW: Final = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)


def replica(name: str, **changes: Any) -> Replica:
    fields: dict[str, Any] = {
        "id": name,
        "host": "here",
        "process": 17,
        "worker": None,
        "version": "0.2.0",
        "processor": None,
        "numerics": None,
        "started_at": NOW,
        "seen_at": NOW,
        "answers": True,
        "figures": ReplicaFigures(cache_hits=3, pool_most=None),
    }
    return Replica(**fields | changes)


def listed(database: Database, now: datetime = NOW) -> list[Replica]:
    with database.read() as session:
        return list(sessions.listing(session, now))


def test_a_replica_writes_its_own_row_again_and_again(database: Database) -> None:
    one = replica("b", worker=1, process=18, processor="AMD EPYC", numerics="0123456789abcdef")
    two = replica("a", host="there")
    for each in (one, two):
        database.change(lambda session, each=each: sessions.note(session, each))  # type: ignore[misc]
    assert listed(database) == [one, two]  # by host and process
    later = one.model_copy(update={"seen_at": NOW + timedelta(seconds=30), "figures": ReplicaFigures(cache_hits=9)})
    database.change(lambda session: sessions.note(session, later))
    assert listed(database) == [later, two]
    database.change(lambda session: sessions.remove(session, "a"))
    assert listed(database) == [later]


def test_one_that_wrote_nothing_for_a_while_does_not_answer_and_is_forgotten_after_a_day(database: Database) -> None:
    database.change(lambda session: sessions.note(session, replica("killed")))
    assert [one.answers for one in listed(database, NOW + timedelta(seconds=89))] == [True]
    assert [one.answers for one in listed(database, NOW + timedelta(seconds=90))] == [False]
    for hours, kept in ((23, ["alive", "killed"]), (25, ["alive"])):
        seen = replica("alive", seen_at=NOW + timedelta(hours=hours))
        database.change(lambda session, seen=seen: sessions.note(session, seen))  # type: ignore[misc]
        assert [one.id for one in listed(database)] == kept


def test_what_a_replica_of_another_version_tells_is_read_as_far_as_it_is_known(database: Database) -> None:
    database.change(lambda session: sessions.note(session, replica("newer")))
    with database.write() as session:
        session.execute(update(ReplicaRecord).values(figures={"jobs": 2, "dreams": 7}))
    assert listed(database)[0].figures == ReplicaFigures(jobs=2)
