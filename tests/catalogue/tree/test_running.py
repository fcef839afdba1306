"""What runs: states against what names point at, pages that give what the whole list gives, and what a token sees."""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import pytest

from registry.catalogue.changes import deletion, followers, retraction, tagging
from registry.catalogue.changes.followers import KEPT, LEASE
from registry.catalogue.database.database import Database, sqlite_url
from registry.catalogue.tree import revisions, running
from registry.catalogue.tree.running import Now, Place
from registry.errors import NotFoundError
from registry.reference import Reference
from registry.rights import UNLIMITED, Principal, Rights
from registry.schemas.running import NameReport, ReportRequest, Running
from tests.catalogue.rows import ON_SQLITE, TESTER, Writer, rights

NOW: Final = datetime.now(UTC)
SUPPORT: Final = Principal("serving", rights("reader", "llama/support"), token="tok_serving")


def report(database: Database, number: int, by: Principal, *names: tuple[Any, ...], after: float = 0.0) -> None:
    fields = ("name", "serves", "wants", "code", "error")
    said = tuple(NameReport(**dict(zip(fields, one, strict=False))) for one in names)
    request = ReportRequest(id=f"{number:032x}", kind="vllm", name=f"vllm=http://10.0.0.{number}:8000", names=said)
    at = NOW + timedelta(seconds=after)
    said_by = followers.read(request, by)
    database.change(lambda session: followers.report(session, said_by, by, at))


def listed(
    database: Database,
    ref: str | None = None,
    *,
    by: Rights = UNLIMITED,
    who: str = "nobody",
    after: float = 0.0,
    place: Place | None = None,
    limit: int = 1 << 20,
    unserved: bool = False,
) -> list[tuple[Place, Running]]:
    at = NOW + timedelta(seconds=after)
    now, reference = Now(at, at - KEPT), None if ref is None else Reference.parse(ref)
    with database.read(by) as session:
        if unserved:
            return running.unserved(session, reference, now, place, limit)
        return running.followed(session, reference, who, now, place, limit)


def states(database: Database, ref: str | None = None, **more: Any) -> list[tuple[str | None, str, str | None]]:
    return [(one.name, one.state, one.points_at) for _, one in listed(database, ref, **more)]


def change(database: Database, what: Any, ref: str, *more: Any, **options: Any) -> None:
    database.change(
        lambda session: what(session, revisions.find(session, Reference.parse(ref)).id, *more, TESTER, **options)
    )


def test_a_name_is_in_place_then_behind_then_failed_then_lost(filled: Database) -> None:
    change(filled, tagging.set_tag, "llama/support@1", "prod")
    report(filled, 1, TESTER, ("llama/support@prod", 1, 1))
    assert states(filled) == [("llama/support@prod", "in_place", "llama/support@1")]
    change(filled, tagging.set_tag, "llama/support@2", "prod")
    ((_, one),) = listed(filled)
    assert (one.state, one.points_at, one.serves, one.wants) == (
        "behind", "llama/support@2", "llama/support@1", "llama/support@1",
    )  # fmt: skip
    assert one.moved_at is not None
    assert abs(one.moved_at - datetime.now(UTC)) < timedelta(minutes=5)
    report(filled, 1, TESTER, ("llama/support@prod", 1, 2, "engine_limits", "Rank 32 is too much."))
    assert states(filled) == [("llama/support@prod", "failed", "llama/support@2")]
    report(filled, 1, TESTER, ("llama/support@prod", 2, 2, "late", "Half a second late."))
    assert states(filled) == [("llama/support@prod", "in_place", "llama/support@2")], "it serves what it should"
    end = LEASE.total_seconds()
    assert states(filled, after=end - 1)[0][1] == "in_place"
    assert states(filled, after=end)[0][1] == "lost"
    report(filled, 1, TESTER, ("llama/support@prod", 2, 2), after=end + 5)
    assert states(filled, after=end + 5)[0][1] == "in_place"


def test_names_of_each_form_point_at_what_they_mean(filled: Database) -> None:
    change(filled, tagging.set_tag, "llama/support@1", "prod")
    digest = "llama/support@sha256:0123456789"
    report(
        filled, 1, TESTER,
        ("llama/support", 1, 1), ("llama/support@prod", 1, 1), ("llama/support@1", 1, 1), (digest, 1, 1),
        ("llama/support@none", 1, 1), ("llama/support@9", None, 9), ("llama/nothing", 1, 1),
    )  # fmt: skip
    assert states(filled) == [
        ("llama/nothing", "behind", None),  # it serves what is not there
        ("llama/support", "behind", "llama/support@2"),
        ("llama/support@1", "in_place", "llama/support@1"),
        ("llama/support@9", "in_place", None),  # nothing is to be served, and nothing is
        ("llama/support@none", "behind", None),
        ("llama/support@prod", "in_place", "llama/support@1"),
        (digest, "in_place", "llama/support@1"),
    ]


def test_what_was_retracted_or_deleted_is_to_be_dropped(filled: Database) -> None:
    """Also what was trained on it: french@1 stands on support@1."""
    change(filled, tagging.set_tag, "llama/support@1", "prod")
    names = [("llama/support@prod", 1, 1), ("llama/support/french", 1, 1), ("llama/code", 1, 1)]
    report(filled, 1, TESTER, *names)
    change(filled, retraction.retract, "llama/support@1", "bad data")
    change(filled, deletion.delete, "llama/code@1", with_tags=True)
    found = {one.name: one for _, one in listed(filled)}
    assert {name: (one.state, one.points_at, one.withdrawn) for name, one in found.items()} == {
        "llama/support@prod": ("behind", None, "retracted"),
        "llama/support/french": ("behind", None, "retracted"),
        "llama/code": ("behind", None, "deleted"),
    }
    report(filled, 1, TESTER, *[(name, None, None, "retracted", "It was retracted.") for name, *_ in names])
    assert {one.state for _, one in listed(filled)} == {"in_place"}


def test_a_path_a_name_and_a_revision_select_what_they_say(filled: Database) -> None:
    change(filled, tagging.set_tag, "llama/support@1", "prod")
    report(filled, 1, TESTER, ("llama/support@prod", 1), ("llama/support/french", 1), ("llama/code", 1))
    report(filled, 2, TESTER, ("llama/support", 2), ("llama/support@1", None))

    def names(ref: str) -> list[str | None]:
        return [one.name for _, one in listed(filled, ref)]

    assert names("llama/support") == ["llama/support", "llama/support@1", "llama/support@prod", "llama/support/french"]
    assert names("llama") == ["llama/code", *names("llama/support")]
    assert names("llama/support@prod") == ["llama/support@prod"]
    assert names("llama/support@1") == ["llama/support@1", "llama/support@prod"], "follows it, or serves it"
    assert names("llama/support@2") == ["llama/support"]
    with filled.read() as session:
        digest = revisions.find(session, Reference.parse("llama/support@2")).digest
    assert names(f"llama/support@{digest}") == ["llama/support"]
    assert names("bert") == names("llama/sup") == []
    with pytest.raises(NotFoundError):
        names("llama/support@sha256:00000000")


def test_pages_give_what_the_whole_list_gives(filled: Database) -> None:
    chance = random.Random(5)
    paths = ["llama/support", "llama/support/french", "llama/support/french/legal", "llama/code", "llama/code-2"]
    for number in range(1, 9):
        names = {f"{path}{chance.choice(['', '@prod', '@1', '@2', '@stage'])}" for path in chance.sample(paths, 3)}
        report(filled, number, TESTER, *[(name, 1, 1) for name in names] if number % 4 else ())
    whole = listed(filled)
    assert [one.name for _, one in whole][:2] == [None, None], "first what follows nothing"
    assert len(whole) == 2 + 6 * 3
    for size in (1, 2, 3, 7):
        pages, place = [], None
        while page := listed(filled, place=place, limit=size):
            assert len(page) <= size
            pages += page
            place = page[-1][0]
        assert pages == whole


def test_metrics_count_what_the_list_shows(filled: Database) -> None:
    chance = random.Random(6)
    change(filled, tagging.set_tag, "llama/support@2", "prod")
    change(filled, retraction.retract, "llama/code@1", "bad data")
    names = ["llama/support@prod", "llama/support", "llama/support@1", "llama/code", "llama/support@sha256:00000000"]
    for number in range(30):
        said = [
            (name, chance.choice([None, 1, 2]), 2, *chance.choice([(), (None, f"{number}"), ("code", None)]))
            for name in chance.sample(names, 3)
        ]
        report(filled, number, TESTER, *said, after=number)
    for after in (0.0, 45.0, 1e5):
        at = NOW + timedelta(seconds=after)
        with filled.read() as session:
            counted = dict(running.counts(session, Now(at, at - KEPT)))
        shown = [one for _, one in listed(filled, after=after)]
        assert counted["followed_names"] == {
            state: sum(one.state == state for one in shown) for state in ("in_place", "behind", "failed", "lost")
        }
        followers_shown = {one.follower for one in shown}
        live = sum(one.lease_until > at for one in followers_shown if one is not None)
        assert counted["followers"] == {"live": live, "lost": len(followers_shown) - live}


def test_nobody_serves_what_is_protected_by_its_name_or_followed_elsewhere(filled: Database, writer: Writer) -> None:
    database = filled
    with database.write() as session:
        tagging.protect(session, "llama", "prod", TESTER)
        tagging.protect(session, "llama", "release-*", TESTER)
        writer.base(session, "bert")
        writer.publish(session, "bert/a", "ba", tag="prod")
    for path, tag in (("support", "prod"), ("support", "stage"), ("support/french", "stage"), ("code", "release-1")):
        change(database, tagging.set_tag, f"llama/{path}@1", tag)
    assert states(database, unserved=True) == [("llama/support@prod", "unserved", "llama/support@1")]
    report(database, 1, TESTER, ("llama/support@stage", 1, 1), ("llama/support@prod", None, 1, "full", "No room."))
    assert states(database, unserved=True) == [
        ("bert/a@prod", "unserved", "bert/a@1"),  # prod is followed elsewhere
        ("llama/support@prod", "unserved", "llama/support@1"),  # followed, and not served
        ("llama/support/french@stage", "unserved", "llama/support/french@1"),
    ]
    assert [name for name, *_ in states(database, "llama/support@prod", unserved=True)] == ["llama/support@prod"]
    assert [name for name, *_ in states(database, "bert", unserved=True)] == ["bert/a@prod"]
    end = LEASE.total_seconds()  # who is lost serves nothing that is known of
    assert {name for name, *_ in states(database, after=end, unserved=True)} == {"llama/support@prod"}
    place, pages = None, []
    while page := listed(database, place=place, limit=1, unserved=True):
        pages += page
        place = page[-1][0]
    assert pages == listed(database, unserved=True)


@pytest.fixture
def bare(tmp_path: Path, filled_template: Path) -> Iterator[Database]:
    """The same registry, to which nothing that a scope hides is reported."""
    shutil.copy(filled_template, tmp_path / "bare.sqlite")
    database = Database(sqlite_url(tmp_path / "bare.sqlite"))
    yield database
    database.dispose()


@ON_SQLITE
def test_what_a_token_may_not_see_does_not_run_for_it(filled: Database, bare: Database) -> None:
    """Every list is that of a registry in which nothing outside of the scope is followed."""
    everything = Principal("ops", UNLIMITED, token="tok_ops")
    for database, hidden in ((bare, False), (filled, True)):
        for path, tag in (("support", "prod"), ("support", "secret"), ("support/french", "prod"), ("code", "prod")):
            change(database, tagging.set_tag, f"llama/{path}@1", tag)
        report(
            database, 1, everything, ("llama/support@prod", 1, 1), *([("llama/code@secret", 1, 1)] if hidden else [])
        )
        report(database, 2, SUPPORT, ("llama/support/french@prod", 1, 1), ("llama/code", 1, 1))
        if hidden:
            report(
                database, 3, everything, ("llama/code@prod", 1, 1), ("llama/support-2@prod", 1), ("llama/support0", 1)
            )
            report(database, 4, everything)  # follows nothing
            report(database, 5, everything, ("bert/support@prod", 1))
            change(database, retraction.retract, "llama/code@1", "a secret reason")
    for scope in (SUPPORT.rights, rights("admin", "llama/support"), rights("writer", "llama/support/french")):
        for ref in (None, "llama", "llama/support", "llama/support@prod", "llama/code", "llama/code@prod", "bert"):
            for unserved in (False, True):
                for after in (0.0, 31.0):
                    seen = [_shown(filled, scope, ref, after, unserved), _shown(bare, scope, ref, after, unserved)]
                    assert seen[0] == seen[1], (scope, ref, unserved, after)
    assert "secret" not in str(listed(filled, by=SUPPORT.rights, unserved=True)), "that it is followed elsewhere"
    mine = [one.name for _, one in listed(filled, by=SUPPORT.rights, who="tok_serving")]
    assert mine == ["llama/support@prod", "llama/support/french@prod"]


def _shown(database: Database, scope: Rights, ref: str | None, after: float, unserved: bool) -> list[Any]:
    found = listed(database, ref, by=scope, after=after, unserved=unserved)
    return [one.model_copy(update={"moved_at": None}) for _, one in found]


@ON_SQLITE
def test_a_follower_that_follows_nothing_is_seen_by_its_own_token_and_by_those_that_see_all(filled: Database) -> None:
    report(filled, 1, SUPPORT)
    assert states(filled) == [(None, "in_place", None)]
    assert states(filled, by=SUPPORT.rights) == []
    assert states(filled, by=SUPPORT.rights, who="tok_serving") == [(None, "in_place", None)]
    assert states(filled, "llama/support") == []
