"""Retention rules: what a run deletes and what stays, alike in process and over HTTP; undo, rights, renaming."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Final

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from registry.catalogue.changes import publish
from registry.catalogue.store import blobs
from registry.errors import ConflictError, NotAllowedError, NotFoundError, UsageError
from registry.progress import SILENT
from registry.reference import Path as TreePath
from registry.rights import Principal, Rights, Role
from registry.schemas.requests import RunRetentionRequest
from registry.services.local import LocalRegistry
from registry.services.upkeep import retention as services
from registry.services.upkeep.collect import collect
from tests.kit import plain_base, write_adapter
from tests.kit.places import KINDS, Place, open_place
from tests.kit.registries import ON_HTTP
from tests.kit.serving import ServedRegistry

COUNT: Final = 9
"""Revisions of net/one: @1 to @9, with acc rising to @4 and falling again; @2 is tagged, @3 has a child."""
ACC: Final = (0.1, 0.2, 0.3, 0.9, 0.8, 0.3, 0.2, 0.1, 0.1)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("retention")
    base = plain_base(root / "base", {"a.weight": (24, 16)})
    for seed in range(COUNT + 3):
        write_adapter(root / f"adapter{seed}", base, ["a"], r=1, seed=seed)
    filled = LocalRegistry.open(root / "registry")
    fill(filled, root)
    filled.close()
    return root


def fill(registry: LocalRegistry, folders: Path) -> None:
    registry.add_base("net", folders / "base")
    for number, acc in enumerate(ACC, start=1):
        registry.publish(folders / f"adapter{number - 1}", "net/one", metrics={"acc": acc})
        if number == 3:
            registry.publish(folders / f"adapter{COUNT}", "net/one/child", parent="net/one@3")
    registry.tag("net/one@2", "stable")


@pytest.fixture(params=KINDS)
def place(request: pytest.FixtureRequest, folders: Path, tmp_path: Path) -> Iterator[Place]:
    with open_place(request, tmp_path / "registry", template=folders / "registry") as opened:
        if request.param == "team":
            fill(opened.registry, folders)
        yield opened


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is asked of many revisions is asked of one after another: none may be left out, or it would be deleted."""
    monkeypatch.setattr(blobs, "AT_ONCE", 1)


EMBEDDED = pytest.mark.parametrize("place", ["embedded"], indirect=True)
Any_ = LocalRegistry | ServedRegistry


@pytest.fixture(params=["local", ON_HTTP])
def registry(request: pytest.FixtureRequest, folders: Path, tmp_path: Path) -> Iterator[Any_]:
    """The same registry, in process and as a client of its service sees it."""
    with open_place(request, tmp_path / "registry", kind="embedded", template=folders / "registry") as opened:
        if request.param == "local":
            yield opened.registry
            return
        served = ServedRegistry(opened.registry, tmp_path / "served")
        yield served
        served.close()


def numbers(registry: Any_, path: str = "net/one") -> list[int]:
    return sorted(one.number for one in registry.log(path).revisions)


def acting(place: Place, role: Role, *scopes: str) -> LocalRegistry:
    return place.registry.with_principal(Principal("eve", Rights(role, tuple(map(TreePath.parse, scopes)))))


def test_a_rule_is_set_shown_run_undone_and_removed(registry: Any_) -> None:
    told = registry.set_retention("net/one", keep_last=2, keep_every=6, keep_best=["max:acc:1"])
    assert told.revisions == ("net/one@1", "net/one@5", "net/one@7")
    assert (told.kept, told.done, told.tags) == (6, False, ())
    counts = {one.reason: one.revisions for one in told.reasons}
    assert counts == {"newest": 1, "last": 2, "every": 1, "best": 1, "tagged": 1, "children": 1}
    assert registry.retention("net/one") == told
    assert registry.run_retention("net/one", dry_run=True) == told
    assert numbers(registry) == [1, 2, 3, 4, 5, 6, 7, 8, 9]

    ran = registry.run_retention("net/one")
    assert (ran.revisions, ran.kept, ran.done) == (told.revisions, 6, True)
    assert ran.until is not None
    assert numbers(registry) == [2, 3, 4, 6, 8, 9]
    assert registry.run_retention("net/one").revisions == ()
    gone = registry.events(path="net/one", kind="delete")
    assert [(one.subject, one.detail["why"]) for one in gone[::-1]] == [
        (reference, "the retention rule") for reference in told.revisions
    ]

    assert registry.clear_retention("net/one") == told.rule
    back = registry.delete_tree("net/one", undo=True)
    assert back.revisions == told.revisions
    assert numbers(registry) == [1, 2, 3, 4, 5, 6, 7, 8, 9]
    with pytest.raises(NotFoundError, match="net/one has no retention rule, so all its revisions are kept"):
        registry.run_retention("net/one")
    actions = [one.action for one in registry.events(path="net/one") if one.action.startswith("retention")]
    assert actions == ["retention clear", "retention set"]


def test_tags_go_only_where_the_rule_says_so(registry: Any_) -> None:
    registry.protect_tag("net", "prod*")
    registry.tag("net/one@5", "prod-eu")
    told = registry.set_retention("net/one", keep_last=1, keep_tagged=False)
    assert told.tags == ("net/one@stable",)
    assert registry.run_retention("net/one").tags == ("net/one@stable",)
    assert numbers(registry) == [3, 5, 9]  # the child's parent, the protected tag, the newest
    assert registry.delete("net/one@2", undo=True).tags == ("net/one@stable",)


def test_what_is_refused(registry: Any_) -> None:
    attempts: list[tuple[Callable[[], object], type[Exception], str]] = [
        (lambda: registry.set_retention("net/one"), UsageError, "would delete all revisions but the newest"),
        (lambda: registry.set_retention("net/one", keep_best=["acc"]), UsageError, "max:METRIC:N or min:METRIC:N"),
        (lambda: registry.set_retention("net/one", keep_last=0), UsageError, "keep_last is 0"),
        (lambda: registry.set_retention("net", keep_last=1), UsageError, "net is a base model"),
        (lambda: registry.set_retention("net/onne", keep_last=1), NotFoundError, "Did you mean"),
        (lambda: registry.retention("net/one"), NotFoundError, "has no retention rule"),
        (lambda: registry.clear_retention("net/one"), NotFoundError, "has no retention rule"),
        (lambda: registry.run_retention("net/other"), NotFoundError, "There is no adapter"),
    ]
    for attempt, kind, sentence in attempts:
        with pytest.raises(kind, match=sentence):
            attempt()
    assert numbers(registry) == list(range(1, COUNT + 1))


def test_what_combinations_are_made_of_and_what_is_materialised_stays(place: Place, folders: Path) -> None:
    registry = place.registry
    registry.combine({"net/one@5": 0.5, "net/one@6": 0.5}, "net/mixed")
    registry.materialise("net/one@7", kind="merged")
    registry.retract("net/one@8", reason="trained on the test set")
    told = registry.set_retention("net/one", keep_last=1, keep_tagged=False)
    assert told.revisions == ("net/one@1", "net/one@2", "net/one@4")
    registry.run_retention("net/one")
    assert numbers(registry) == [3, 5, 6, 7, 8, 9]
    assert registry.replay("net/mixed").combinations[0].state == "same"
    place.age(timedelta(days=2))
    collect(place.deployment, dry_run=False, progress=SILENT, grace=3600)
    assert registry.fsck(deep=True).damage == ()


@EMBEDDED
def test_what_needs_a_revision_counts_where_it_is_not_seen(place: Place) -> None:
    """A combination elsewhere, which the token of who runs the rule may not see."""
    place.registry.combine({"net/one@5": 0.5, "net/one@6": 0.5}, "net/mixed")
    eve = acting(place, "writer", "net/one")
    assert eve.set_retention("net/one", keep_last=1).revisions == tuple(f"net/one@{n}" for n in (1, 4, 7, 8))
    assert eve.run_retention("net/one").kept == 5


@EMBEDDED
def test_it_needs_the_rights_of_a_deletion(place: Place) -> None:
    for who in (acting(place, "reader"), acting(place, "writer", "net/two")):
        for attempt in (
            partial(who.set_retention, "net/one", keep_last=1),
            partial(who.clear_retention, "net/one"),
            partial(who.run_retention, "net/one"),
        ):
            with pytest.raises(NotAllowedError):
                attempt()
    place.registry.set_retention("net/one", keep_last=1)
    assert acting(place, "reader", "net/one").retention("net/one").rule.set_by == "anna"
    with pytest.raises(NotFoundError):
        acting(place, "reader", "net/two").retention("net/one")


def test_a_rename_takes_the_rule_along(place: Place) -> None:
    registry = place.registry
    rule = registry.set_retention("net/one", keep_last=1).rule
    registry.rename("net/one", "first")
    assert registry.retention("net/first").rule == rule.model_copy(update={"path": "net/first"})
    with pytest.raises(NotFoundError, match="no retention rule"):
        registry.retention("net/one")
    with pytest.raises(ConflictError, match="old name") as refused:
        registry.set_retention("net/one", keep_last=1)
    assert refused.value.code == "renamed"
    registry.run_retention("net/first")
    assert (numbers(registry, "net/first"), numbers(registry)) == ([2, 3, 9], list(range(1, COUNT + 1)))
    registry.rename_base("net", "network")
    assert registry.retention("network/first").rule.keep_last == 1


def test_a_rule_ends_with_its_adapter_and_is_not_copied(place: Place, folders: Path, tmp_path: Path) -> None:
    registry = place.registry
    registry.set_retention("net/one/child", keep_last=1)
    with LocalRegistry.open(tmp_path / "other") as other:
        registry.copy("net", other, recursive=True)
        with pytest.raises(NotFoundError, match="no retention rule"):
            other.retention("net/one/child")
    registry.delete("net/one/child@1")
    assert registry.events(limit=1)[0].action == "retention clear"
    registry.publish(folders / f"adapter{COUNT}", "net/one/child", parent="net/one@3")
    with pytest.raises(NotFoundError, match="no retention rule"):
        registry.retention("net/one/child")


def test_many_are_deleted_by_parts_and_restored_together(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(services, "AT_ONCE", 2)
    place.registry.set_retention("net/one", keep_last=1)
    gone = place.registry.run_retention("net/one").revisions
    assert len(gone) == COUNT - 3
    assert place.registry.delete_tree("net/one", undo=True).revisions == gone


class Meanwhile:
    """Does something once it was chosen what goes, and something else after each part of it."""

    def __init__(self, first: Callable[[], object], then: Callable[[], object]) -> None:
        self._first, self._then = first, then

    def begin(self, what: str, total: int) -> None:
        self._first()

    def advance(self, amount: int) -> None:
        self._then()


@EMBEDDED
def test_what_is_needed_by_now_stays(place: Place, folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    registry = place.registry
    monkeypatch.setattr(services, "AT_ONCE", 2)
    registry.set_retention("net/one", keep_last=1)
    child = partial(registry.publish, folders / f"adapter{COUNT + 1}", "net/one/child", parent="net/one@4")
    meanwhile = Meanwhile(child, lambda: registry.clear_retention("net/one"))
    with suppress(NotFoundError):  # of the second removal
        services.run(place.deployment, RunRetentionRequest(path="net/one"), meanwhile)
    assert numbers(registry) == list(range(2, COUNT + 1))  # but for @1, which went with the first part


def test_a_service_runs_the_rule_after_each_publish(
    request: pytest.FixtureRequest, folders: Path, tmp_path: Path
) -> None:
    with open_place(request, tmp_path / "registry", kind="embedded", template=folders / "registry") as opened:
        served = ServedRegistry(opened.registry, tmp_path / "served")
        served.set_retention("net/one", keep_last=2)
        assert numbers(served) == list(range(1, COUNT + 1))  # nothing goes before the next publish
        served.publish(folders / f"adapter{COUNT + 1}", "net/one")
        until = time.monotonic() + 60
        while numbers(served) != [2, 3, 9, 10]:
            assert time.monotonic() < until, numbers(served)
            time.sleep(0.02)
        assert {one.actor for one in served.events(path="net/one", kind="delete")} == {"registry"}
        served.close()


def wait_until_blocked(place: Place, thread: threading.Thread) -> None:
    """Wait until a thread waits for a lock of the database, or has ended."""
    waiting = text(
        "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    )
    until = time.monotonic() + 60
    while thread.is_alive():
        with place.deployment.read_everything() as session:
            if session.scalar(waiting):
                return
        assert time.monotonic() < until
        thread.join(0.02)


@pytest.mark.slow
@pytest.mark.parametrize("place", ["team"], indirect=True)  # on SQLite a writer is alone
def test_a_run_waits_for_who_publishes_below(place: Place, folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run begins while the child is there for nobody else, and its parent is locked."""
    registry = place.registry
    registry.set_retention("net/one", keep_last=1)
    looked = publish._place
    runs: list[threading.Thread] = []

    def place_of(session: Session, new: publish.NewRevision) -> publish._Place:
        found = looked(session, new)
        if not runs:
            runs.append(threading.Thread(target=registry.run_retention, args=("net/one",)))
            runs[0].start()
            wait_until_blocked(place, runs[0])
        return found

    monkeypatch.setattr(publish, "_place", place_of)
    registry.publish(folders / f"adapter{COUNT + 1}", "net/one/child", parent="net/one@5")
    runs[0].join()
    assert numbers(registry) == [2, 3, 5, 9]
    newest = registry.log("net/one/child").revisions[0]
    assert (newest.number, newest.parent) == (2, "net/one@5")
