"""ps, and --wait of tag and retract: on a real folder, with followers that report on a clock that the test moves."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, Final

import pytest

from registry.cli.commands import running
from registry.cli.waiting import PATIENCE, wait
from registry.errors import UnavailableError
from registry.follow.reporting import Reporter, of_name
from registry.operations.registry import Registry
from registry.services.handlers import running as service
from registry.services.local import LocalRegistry
from tests.cli.conftest import Ended, Run
from tests.kit import plain_base, write_adapter

PROD: Final = "net/support@prod"


@pytest.fixture
def team(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalRegistry]:
    """net/support@1 (prod) and @2, net/support/french@1 on @2, net/code@1 (prod); prod is protected."""
    del run  # it takes REGISTRY_URL away, so it comes first
    monkeypatch.setenv("REGISTRY_URL", str(tmp_path / "registry"))
    base = plain_base(tmp_path / "base", {"a.weight": (24, 16)})
    with closing(LocalRegistry.open(tmp_path / "registry", cache_folder=tmp_path / "cache")) as registry:
        registry.add_base("net", base.folder)
        for number, path in enumerate(("net/support", "net/support", "net/support/french", "net/code")):
            adapter = write_adapter(tmp_path / f"adapter{number}", base, ["a"], r=1, seed=number)
            registry.publish(adapter, path, parent="net/support@2" if path.endswith("french") else None)
        registry.protect_tag("net", "prod")
        registry.tag("net/support@1", "prod")
        registry.tag("net/code@1", "prod")
        yield registry


class Times:
    """The clocks of the service, of the followers and of who waits: one, that `sleep` moves, and what happens then."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        self.then: list[tuple[float, Callable[[], object]]] = []
        begin = datetime.now(UTC)
        monkeypatch.setattr(service, "service_time", lambda: begin + timedelta(seconds=self.now))
        monkeypatch.setattr(running, "wait", partial(wait, clock=lambda: self.now, sleep=self.sleep))

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        due = sorted((one for one in self.then if one[0] <= self.now), key=lambda one: one[0])
        self.then = [one for one in self.then if one[0] > self.now]
        for _, happens in due:
            happens()

    def at(self, seconds: float, happens: Callable[[], object]) -> None:
        self.then.append((self.now + seconds, happens))


@pytest.fixture
def times(monkeypatch: pytest.MonkeyPatch) -> Times:
    return Times(monkeypatch)


class Simulated:
    """A follower that reports every five seconds of the clock, until it dies, what the test lets it have."""

    def __init__(self, team: Registry, times: Times, name: str, follows: str = PROD, serves: int | None = 1) -> None:
        self.reporter = Reporter(team, "vllm", name, clock=lambda: times.now)
        self.state: dict[str, Any] = {"serves": serves, "wants": serves}
        self.follows, self.times, self.lives = follows, times, True
        self.beat()

    def beat(self) -> None:
        if self.lives:
            self.reporter.update([of_name(self.follows, **self.state)])
            self.times.at(5, self.beat)

    def gets(self, after: float, **state: Any) -> None:
        self.times.at(after, lambda: self.state.update({"code": None, "error": None} | state))

    def ends(self) -> None:
        self.lives = False
        self.reporter.close()

    def dies(self, after: float) -> None:
        self.times.at(after, lambda: setattr(self, "lives", False))


def sentences(ended: Ended) -> str:
    return " ".join(ended.err.split())


def test_ps_shows_what_is_wanted_at_night(team: LocalRegistry, times: Times, run: Run) -> None:
    nothing = run("ps")
    assert (nothing.code, nothing.out) == (0, "")
    assert "No follower reports" in nothing.err
    assert "Nobody serves net/code@prod, net/support@prod" in sentences(nothing)

    Simulated(team, times, "vllm=http://10.0.0.7:8000")
    broken = Simulated(team, times, "vllm=http://10.0.0.8:8000")
    Simulated(team, times, "folder=/models", "net/support", 2)
    team.tag("net/support@2", "prod")
    broken.state.update(wants=2, code="engine_limits", error="Rank 32 is too much.")
    broken.beat()
    times.sleep(1)
    shown = run("ps")
    lines = [" ".join(line.split()) for line in shown.out.splitlines()]
    assert lines[0].startswith("NAME SERVES STATE SINCE (UTC) FOLLOWER")
    assert any(line.startswith("net/support @2 in place") and "folder=/models" in line for line in lines)
    whole = " ".join(lines)
    assert "net/support@prod @1 behind" in whole
    assert "net/support@prod @1 failed" in whole
    assert "Rank 32 is too much. (engine_limits)" in whole
    assert "points at @2 since just now" in whole
    assert "Of 3 names at followers: 1 behind, 1 failed." in shown.err
    assert "Nobody serves net/code@prod: `registry ps --unserved`." in sentences(shown)

    assert json.loads(run("ps", PROD, "--state", "failed", "--json").out)[0]["follower"]["name"].endswith("8:8000")
    assert [one["state"] for one in json.loads(run("ps", "net/support@2", "--json").out)] == ["in_place"]
    (unserved,) = json.loads(run("ps", "--unserved", "--json").out)
    assert (unserved["name"], unserved["points_at"], unserved["follower"]) == ("net/code@prod", "net/code@1", None)
    assert "nobody" in run("ps", "--unserved").out
    times.now += 40
    assert "3 lost" in run("ps").err
    assert run("ps", "net/cod").code == 3
    assert run("ps", "net/code@1", "--unserved").code == 2


def test_what_a_follower_says_moves_no_cursor(team: LocalRegistry, times: Times, run: Run) -> None:
    evil = Simulated(team, times, "vllm=\x1b[2J\x1b]0;owned\x07\nnet/code@prod")
    evil.state.update(wants=2, error="\x1b[31mred\u202e")
    evil.reporter._registry.report(
        "0" * 32, "vllm", "x", [of_name(PROD, serves=1, wants=2).model_copy(update={"error": "\x1b[31mred\u202e\n"})]
    )
    for command in (["ps"], ["tag", "net/support@2", "prod", "--wait", "--timeout", "1s"]):
        ended = run(*command)
        assert not {"\x1b", "\x07", "\u202e"} & set(ended.out + ended.err)


def test_wait_returns_when_all_have_it(team: LocalRegistry, times: Times, run: Run) -> None:
    for number, late in enumerate((3.0, 8.0, 40.0)):
        Simulated(team, times, f"vllm={number}").gets(late, serves=2, wants=2)
    Simulated(team, times, "other", "net/code@prod")  # follows another name
    ended = run("tag", "net/support@2", "prod", "--wait")
    assert ended.code == 0
    assert ended.out.split() == [PROD, "->", "net/support@2"]
    assert "0 of 3 followers have got net/support@2; waiting for vllm=0 (behind); vllm=1 (behind); vllm=2" in ended.err
    assert "3 of 3 followers have got net/support@2." in ended.err
    assert 40 <= times.now < 50


def test_an_error_that_passes_is_waited_for_and_one_that_stays_is_not(
    team: LocalRegistry, times: Times, run: Run
) -> None:
    passes, stays = Simulated(team, times, "vllm=passes"), Simulated(team, times, "vllm=stays")
    passes.gets(2, wants=2, code="unavailable", error="No room just now.")
    passes.gets(20, serves=2, wants=2)
    stays.gets(2, wants=2, code="engine_limits", error="Rank 32 is too much.")
    ended = run("tag", "net/support@2", "prod", "--wait")
    assert ended.code == 9
    assert "Of 2 followers, 1 has not got net/support@2 yet: vllm=stays failed: Rank 32 is too much" in sentences(ended)
    assert "engine_limits" in ended.err
    assert PATIENCE < times.now < PATIENCE + 15
    assert team.resolve(PROD).reference == "net/support@2", "the tag stays"
    document = json.loads(run("tag", "net/support@2", "prod", "--wait", "--json").err)
    assert document["code"] == "not_in_place"


def test_one_that_dies_meanwhile_is_named_and_one_that_says_goodbye_is_not_waited_for(
    team: LocalRegistry, times: Times, run: Run
) -> None:
    Simulated(team, times, "vllm=dies").dies(4)
    ends = Simulated(team, times, "vllm=ends")
    times.at(6, ends.ends)
    Simulated(team, times, "vllm=lives").gets(3, serves=2, wants=2)
    ended = run("tag", "net/support@2", "prod", "--wait")
    assert ended.code == 9
    assert "Of 2 followers, 1 has not got net/support@2 yet: vllm=dies was lost, no word since" in sentences(ended)
    again = run("tag", "net/support@2", "prod", "--wait")
    assert again.code == 0
    assert "nothing was heard of vllm=dies already before" in sentences(again)


def test_the_time_is_over(team: LocalRegistry, times: Times, run: Run) -> None:
    Simulated(team, times, "vllm=sleeps")
    ended = run("tag", "net/support@2", "prod", "--wait", "--timeout", "20s")
    assert ended.code == 9
    assert "after 20 seconds: vllm=sleeps serves net/support@1." in sentences(ended)
    assert times.now <= 20


def test_nobody_follows(team: LocalRegistry, times: Times, run: Run) -> None:
    ended = run("tag", "net/support@2", "prod", "--wait")
    assert ended.code == 0
    assert "Nobody follows it: there is nothing to wait for." in ended.err
    assert times.now == 0


def test_a_tag_that_is_moved_on_ends_the_waiting(team: LocalRegistry, times: Times, run: Run) -> None:
    Simulated(team, times, "vllm=slow")
    times.at(4, lambda: team.tag("net/support@1", "prod"))
    ended = run("tag", "net/support@2", "prod", "--wait")
    assert ended.code == 5
    assert "was pointed at net/support@2, and points at net/support@1 by now" in sentences(ended)


def test_undo_is_waited_for_too_also_of_a_tag_that_is_new(team: LocalRegistry, times: Times, run: Run) -> None:
    team.tag("net/support@2", "new")
    Simulated(team, times, "vllm", "net/support@new", 2).gets(7, serves=None, wants=None, error="There is no tag new.")
    ended = run("tag", "net/support", "new", "--undo", "--wait")
    assert ended.code == 0
    assert "1 of 1 follower has dropped net/support@new." in sentences(ended)
    assert times.now >= 7


def test_a_retraction_is_waited_for_also_where_what_contains_it_is_served(
    team: LocalRegistry, times: Times, run: Run
) -> None:
    team.tag("net/support@2", "prod")
    Simulated(team, times, "vllm=tag", PROD, 2).gets(4, serves=None, wants=None, code="retracted", error="Retracted.")
    Simulated(team, times, "vllm=child", "net/support/french").gets(9, serves=None, wants=None)
    Simulated(team, times, "vllm=old", "net/support@1", 1)  # not concerned
    keeps = Simulated(team, times, "folder=/models", "net/support", 2)
    ended = run("retract", "net/support@2", "--reason", "bad data", "--wait", "--timeout", "1m")
    assert ended.code == 9
    assert "net/support@2 is retracted. Of 3 followers, 1 has not dropped what was retracted yet" in sentences(ended)
    assert "folder=/models serves net/support@2" in sentences(ended)
    keeps.gets(3, serves=1, wants=1)
    ended = run("retract", "net/support@2", "--reason", "bad data", "--wait")
    assert (ended.code, "1 of 1 follower has dropped" in sentences(ended)) == (0, True)


def test_an_interrupt_ends_the_waiting_alone(team: LocalRegistry, times: Times, run: Run) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    Simulated(team, times, "vllm=slow")
    times.at(3, interrupt)
    ended = run("tag", "net/support@2", "prod", "--wait")
    assert ended.code == 130
    assert "net/support@prod points at net/support@2. Only the waiting was ended." in sentences(ended)
    assert team.resolve(PROD).reference == "net/support@2"


def test_a_registry_that_is_away_for_a_moment_is_asked_again(
    team: LocalRegistry, times: Times, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    Simulated(team, times, "vllm=0").gets(3, serves=2, wants=2)
    right, left = LocalRegistry.running, [UnavailableError("It is away.")] * 3

    def failing(self: LocalRegistry, *args: Any, **more: Any) -> Any:
        if left:
            raise left.pop()
        return right(self, *args, **more)

    monkeypatch.setattr(LocalRegistry, "running", failing)
    assert run("tag", "net/support@2", "prod", "--wait").code == 0
    left.extend([UnavailableError("It is away.")] * 1000)
    ended = run("tag", "net/support@2", "prod", "--wait", "--timeout", "30s")
    assert (ended.code, "It is away." in ended.err) == (1, True)


@pytest.mark.parametrize(
    "words",
    [
        ["tag", "net/support@2", "prod", "--timeout", "5m"],
        ["tag", "net/support@2", "prod", "--wait", "--timeout", "soon"],
        ["tag", "net/support", "--wait"],
        ["retract", "net/support@2", "--undo", "--wait"],
        ["retract", "net/support@2", "--dry-run", "--wait"],
    ],
)
def test_options_that_contradict_each_other_are_refused_before_anything_is_done(
    team: LocalRegistry, run: Run, words: list[str]
) -> None:
    assert run(*words).code == 2
    assert team.resolve(PROD).reference == "net/support@1"


def test_real_followers_on_threads_are_waited_for(team: LocalRegistry, tmp_path: Path, run: Run) -> None:
    """Three followers that resolve, and report by connections of their own, in real time."""
    ending = threading.Event()

    def follow(number: int) -> None:
        with closing(LocalRegistry.open(tmp_path / "registry", cache_folder=tmp_path / f"cache{number}")) as mine:
            reporter = Reporter(mine, "folder", f"folder=/{number}")
            while not ending.wait(0.05 * number):
                now = int(mine.resolve(PROD).reference.rpartition("@")[2])
                reporter.update([of_name(PROD, serves=now, wants=now)])
                ready.release()
            reporter.close()

    ready = threading.Semaphore(0)
    threads = [threading.Thread(target=follow, args=[number]) for number in (1, 2, 3)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(12):
            ready.acquire(timeout=60)
        while len(team.running(PROD)) < 3:
            ready.acquire(timeout=60)
        ended = run("tag", "net/support@2", "prod", "--wait")
        assert (ended.code, "3 of 3 followers have got net/support@2." in ended.err) == (0, True)
        assert {(one.serves, one.state) for one in team.running(PROD)} == {("net/support@2", "in_place")}
    finally:
        ending.set()
        for thread in threads:
            thread.join()
    assert team.running() == ()
