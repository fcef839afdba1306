"""What a service does after a publish: statistics and notices, once, whichever replica does it and whatever fails."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import text

from registry.catalogue.changes import fingerprints
from registry.catalogue.team import jobs as rows
from registry.errors import UnavailableError
from registry.operations.table import DENSE_STATS
from registry.progress import SILENT
from registry.schemas.requests import DenseStatisticsRequest
from registry.schemas.tags import Notice
from registry.services import statistics as services
from registry.services.jobs import Runner, submit
from registry.services.local import LocalRegistry
from tests.kit import Base, plain_base, write_adapter
from tests.kit.registries import ON_TEAM, opened

COUNT = 5
StartRunner = Callable[[], Runner]


@pytest.fixture(params=["embedded", ON_TEAM])
def registry(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[LocalRegistry]:
    """Of a service: a job for each publish."""
    with opened(request, tmp_path) as kept:
        yield kept.with_jobs()


@pytest.fixture
def base(registry: LocalRegistry, tmp_path: Path) -> Base:
    made = plain_base(tmp_path / "base", {"a.weight": (24, 16), "b.weight": (16, 24)})
    registry.add_base("net", made.folder)
    return made


@pytest.fixture
def start(registry: LocalRegistry) -> Iterator[StartRunner]:
    """Starts a replica's runner."""
    runners: list[Runner] = []

    def started() -> Runner:
        runners.append(Runner(registry.deployment, poll=0.05, threads=2))
        runners[-1].start()
        return runners[-1]

    yield started
    for runner in runners:
        runner.close()


def large(base: Base, number: int) -> Path:
    """An adapter that is larger than the base model, and like no other."""
    return write_adapter(base.folder.parent / f"large-{number}", base, ["a", "b"], r=3, seed=number, size=1.5)


def states(registry: LocalRegistry) -> list[tuple[str, int]]:
    with registry.deployment.read_everything() as session:
        query = text("SELECT state, attempts FROM operations WHERE kind = 'notice' ORDER BY created_at")
        return [(state, attempts) for state, attempts in session.execute(query)]


def ended(registry: LocalRegistry) -> list[tuple[str, int]]:
    until = time.monotonic() + 60
    while any(state in ("pending", "running") for state, _ in states(registry)):
        assert time.monotonic() < until, states(registry)
        time.sleep(0.02)
    return states(registry)


def codes(notices: tuple[Notice, ...]) -> list[str]:
    return [one.code for one in notices]


def test_two_replicas_look_once_at_each(registry: LocalRegistry, base: Base, start: StartRunner) -> None:
    start()
    start()
    for number in range(COUNT):
        answer = registry.publish(large(base, number), f"net/p{number}")
        assert answer.notices == ()  # the publish waits for no figure
    assert ended(registry) == [("done", 1)] * COUNT
    for number in range(COUNT):
        assert codes(registry.show(f"net/p{number}").notices) == ["larger_than_base"]
    events = registry.events(kind="notice")
    assert sorted(event.subject for event in events) == [f"net/p{number}@1" for number in range(COUNT)]
    assert {event.actor for event in events} == {"registry"}
    with registry.deployment.read_everything() as session:
        assert session.scalar(text("SELECT count(*) FROM statistics")) == 2 * COUNT
        assert session.scalar(text("SELECT count(*) FROM fingerprints")) == COUNT  # a search needs not make them


def test_two_looks_at_once_keep_one(registry: LocalRegistry, base: Base) -> None:
    """As where a lease ends while its runner goes on."""
    registry.publish(large(base, 1), "net/one")
    for _ in range(2):
        services.looked(registry.deployment, "net/one@1", SILENT)
        registry.deployment.change(lambda session: session.execute(text("UPDATE sketches SET noticed = false")))
    services.looked(registry.deployment, "net/one@1", SILENT)
    assert codes(registry.show("net/one").notices) == ["larger_than_base"]
    assert len(registry.events(kind="notice")) == 1


def test_a_job_of_a_dead_replica_is_done_by_another(registry: LocalRegistry, base: Base, start: StartRunner) -> None:
    registry.publish(large(base, 1), "net/one")
    claimed = registry.deployment.change(
        lambda session: rows.claim(session, "dead", ["notice"], lease=timedelta(seconds=0.1))
    )
    assert claimed is not None
    start()
    assert ended(registry) == [("done", 2)]
    assert codes(registry.show("net/one").notices) == ["larger_than_base"]


@pytest.mark.slow
def test_it_is_done_again_after_a_fault(
    registry: LocalRegistry, base: Base, start: StartRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between what it keeps first and what it keeps last."""
    faults = [UnavailableError("The connection was lost.")]
    real = fingerprints.keep_noticed

    def note(*given: object, **options: object) -> None:
        if faults:
            raise faults.pop()
        real(*given, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(fingerprints, "keep_noticed", note)
    registry.publish(large(base, 1), "net/one")
    start()
    assert ended(registry) == [("done", 2)]
    assert faults == []
    assert codes(registry.show("net/one").notices) == ["larger_than_base"]
    assert len(registry.events(kind="notice")) == 1


def test_what_is_deleted_or_renamed_meanwhile(registry: LocalRegistry, base: Base, start: StartRunner) -> None:
    registry.publish(large(base, 1), "net/gone")
    registry.publish(large(base, 2), "net/old")
    registry.delete("net/gone@1")
    registry.rename("net/old", "new")
    start()
    assert ended(registry) == [("done", 1)] * 2
    assert codes(registry.show("net/new").notices) == ["larger_than_base"]
    assert [event.subject for event in registry.events(kind="notice")] == ["net/new@1"]


def test_of_two_siblings_published_at_once_one_is_told(registry: LocalRegistry, base: Base, start: StartRunner) -> None:
    folder = write_adapter(base.folder.parent / "one", base, ["a", "b"], r=3, seed=1, size=0.1)
    for name in ("one", "two", "three"):
        registry.publish(folder, f"net/{name}")
    start()
    start()
    assert ended(registry) == [("done", 1)] * 3
    named = {
        frozenset((name, notice.reference.removeprefix("net/").removesuffix("@1")))
        for name in ("one", "two", "three")
        for notice in registry.show(f"net/{name}").notices
        if notice.code == "like_sibling" and notice.reference is not None
    }
    assert named == {frozenset(pair) for pair in (("one", "two"), ("one", "three"), ("two", "three"))}


def test_publishing_what_is_there_needs_no_job(registry: LocalRegistry, base: Base) -> None:
    folder = large(base, 1)
    registry.publish(folder, "net/one")
    assert not registry.publish(folder, "net/one").created
    assert len(states(registry)) == 1


def test_what_rounding_would_lose_and_which_engines_load_it(
    registry: LocalRegistry, tmp_path: Path, start: StartRunner
) -> None:
    """A change far below a bf16 unit of the weights is lost in a merge; one of a tenth of them is not."""
    base = plain_base(tmp_path / "half", {"a.weight": (24, 16), "b.weight": (16, 24)}, dtype="BF16")
    registry.add_base("half", base.folder)
    for seed, (name, size) in enumerate((("tiny", 1e-4), ("usual", 0.1))):
        registry.publish(write_adapter(tmp_path / name, base, ["a", "b"], size=size, seed=seed), f"half/{name}")
    start()
    ended(registry)
    lost = registry.show("half/tiny")
    (notice,) = lost.notices
    measured = registry.stats("half/tiny", fidelity="bf16").fidelity
    assert measured is not None
    assert measured.surviving_share is not None
    assert (notice.code, notice.value) == ("low_fidelity", measured.surviving_share.value)
    assert measured.surviving_share.value < 0.5
    assert "--dtype fp32" in notice.text
    assert registry.show("half/usual").notices == ()
    assert [one.engine for one in lost.engines] == ["vllm", "sglang", "peft", "transformers"]
    assert [event.subject for event in registry.events(kind="notice")] == ["half/tiny@1"]
    registry.stats("half/tiny", fidelity="bf16")  # finds it again
    assert len(registry.events(kind="notice")) == 1


@pytest.mark.slow
@pytest.mark.long_on("team")
def test_jobs_that_nobody_waits_for_rest_between_each_other(registry: LocalRegistry, base: Base) -> None:
    """So that they take at most about a quarter of a processor while there are many, and all are done in the end."""
    spans: list[tuple[float, float]] = []
    runner = Runner(registry.deployment, poll=60, threads=2)
    ran = runner._run_one

    def timed(operation_id: str) -> bool:
        began = time.monotonic()
        try:
            return ran(operation_id)
        finally:
            spans.append((began, time.monotonic()))

    runner._run_one = timed  # type: ignore[method-assign]
    for number in range(4):
        registry.publish(large(base, number), f"net/p{number}")
    runner.start()
    assert ended(registry) == [("done", 1)] * 4
    runner.close()
    spans.sort()
    for (began, stopped), (following, _) in itertools.pairwise(spans):
        assert following - stopped >= 2.5 * (stopped - began)


def test_who_looks_for_a_job_after_a_rest_is_waited_for(registry: LocalRegistry, base: Base) -> None:
    """The database is closed next, and a connection that is given back after that stays open."""
    runner = Runner(registry.deployment, poll=0.05, threads=2)
    look, looks, closing, told = runner._waiting, threading.Event(), threading.Event(), []

    def slowly() -> list[str]:
        if isinstance(threading.current_thread(), threading.Timer):
            looks.set()
            assert closing.wait(60)
            time.sleep(0.2)  # as long as a close that does not wait takes at most
            told.append("looked")
        return look()

    runner._waiting = slowly  # type: ignore[method-assign]
    registry.publish(large(base, 1), "net/one")
    runner.start()
    assert looks.wait(60)
    closing.set()
    runner.close()
    told.append("closed")
    assert told == ["looked", "closed"]


def test_what_somebody_asked_for_is_done_first(registry: LocalRegistry, base: Base) -> None:
    for number in range(3):
        registry.publish(large(base, number), f"net/p{number}")
    asked = submit(registry.deployment, DENSE_STATS, DenseStatisticsRequest(ref="net/p0"))
    runner = Runner(registry.deployment, poll=0.05, threads=2)
    waiting = runner._waiting()
    assert (waiting[0], len(waiting)) == (asked.id, 2)
