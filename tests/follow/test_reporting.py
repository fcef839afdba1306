"""The reporter of a follower: it reports when it has to, and whatever comes back, the follower goes on."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any, Final, cast

import pytest

from registry.errors import ConflictError, NotAllowedError, NotFoundError, UnavailableError
from registry.follow import reporting
from registry.follow.reporting import Reporter, of_name
from registry.operations.registry import Registry
from registry.schemas.running import MAX_NAMES, MAX_SENTENCE, NameReport, Reported, ReportRequest

NAMES: Final = (of_name("net/a@prod", serves=1, wants=1), of_name("net/b", serves=None))


class Heard:
    """A registry that hears reports, and answers what a test says."""

    url = "http://registry:8000"

    def __init__(self) -> None:
        self.now = 0.0
        self.reports: list[ReportRequest] = []
        self.problem: Exception | None = None
        self.answer = Reported(lease=30.0, again=10.0)

    def report(self, id: str, kind: str, name: str, names: Any = (), **more: Any) -> Reported:  # noqa: A002
        self.reports.append(ReportRequest(id=id, kind=kind, name=name, names=tuple(names), **more))
        if self.problem is not None:
            raise self.problem
        return self.answer

    def reporter(self) -> Reporter:
        return Reporter(cast(Registry, self), "folder", "folder=/models", clock=lambda: self.now)

    def after(self, seconds: float, do: Callable[[], None]) -> int:
        """How many reports it takes to do something so much later."""
        self.now += seconds
        before = len(self.reports)
        do()
        return len(self.reports) - before


@pytest.fixture
def heard() -> Heard:
    return Heard()


def test_it_reports_what_changed_and_what_the_lease_needs_and_nothing_else(heard: Heard) -> None:
    reporter = heard.reporter()
    assert heard.after(0, lambda: reporter.update(NAMES)) == 1
    assert heard.after(1, lambda: reporter.update(reversed(NAMES))) == 0, "the order says nothing"
    assert heard.after(8.9, reporter.beat) == 0
    assert heard.after(0.2, reporter.beat) == 1, "a third of the lease is over"
    assert heard.after(1, lambda: reporter.update([of_name("net/a@prod", serves=2, wants=2)])) == 1
    assert heard.after(9, reporter.beat) == 0, "counted from the last report"
    assert heard.after(1, reporter.beat) == 1
    assert heard.after(1, lambda: reporter.update(())) == 1, "it follows nothing any more, and lives"
    assert len({one.id for one in heard.reports}) == 1
    assert heard.reporter()._id != reporter._id
    heard.answer = Reported(lease=6.0, again=2.0)
    heard.after(10, reporter.beat)
    assert heard.after(2, reporter.beat) == 1, "the service says how often"


def test_goodbye_is_said_once_and_nothing_after_it(heard: Heard) -> None:
    with heard.reporter() as reporter:
        reporter.update(NAMES)
    assert [one.gone for one in heard.reports] == [False, True]
    reporter.update(())
    heard.now += 1e6
    reporter.beat()
    assert len(heard.reports) == 2


@pytest.mark.parametrize(
    "problem",
    [
        UnavailableError("It is away."),
        NotAllowedError("No."),
        ConflictError("Full."),
        RuntimeError("a bug"),
        KeyError(1),
    ],
)
def test_what_goes_wrong_is_said_once_and_tried_again_ever_more_seldom(
    heard: Heard, problem: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    reporter, heard.problem = heard.reporter(), problem
    assert heard.after(0, lambda: reporter.update(NAMES)) == 1
    assert heard.after(9, lambda: reporter.update(())) == 0
    assert heard.after(1, reporter.beat) == 1
    assert heard.after(19, reporter.beat) == 0
    assert heard.after(1, reporter.beat) == 1
    for _ in range(20):
        heard.after(1000, reporter.beat)
    assert heard.after(299, reporter.beat) == 0
    assert heard.after(1, reporter.beat) == 1, "but never given up"
    assert len(caplog.records) == 1
    heard.problem = None
    assert heard.after(300, reporter.beat) == 1
    assert heard.reports[-1].names == ()
    assert heard.after(10, reporter.beat) == 1
    heard.problem = problem
    heard.after(10, reporter.beat)
    assert len(caplog.records) == 2, "it had recovered"
    reporter.close()  # it failed just now: nothing is asked
    heard.now += 1e4
    reporter.close()


def test_an_older_registry_is_warned_of_once(heard: Heard, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    reporter, heard.problem = heard.reporter(), NotFoundError("There is no such address.")
    heard.after(0, lambda: reporter.update(NAMES))
    assert heard.after(899, lambda: reporter.update(())) == 0
    assert heard.after(1, reporter.beat) == 1, "it may have been upgraded"
    assert [one.getMessage() for one in caplog.records] == [
        "http://registry:8000 does not know what runs: it is of an older version"
    ]


def test_what_is_left_out_or_too_much_is_said_once(heard: Heard, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    reporter = heard.reporter()
    heard.answer = Reported(lease=30.0, again=10.0, left_out=("bert/a", "bert/b"))
    many = [of_name(f"net/a{number:05}") for number in range(MAX_NAMES + 5)]
    for _ in range(3):
        heard.after(10, lambda: reporter.update(many))
    assert len(heard.reports[-1].names) == MAX_NAMES
    assert [one.getMessage() for one in caplog.records] == [
        "only 1000 of 1005 followed names are reported to the registry",
        "the registry keeps nothing of names outside the token's scopes, such as bert/a, bert/b",
    ]


def test_any_error_becomes_a_sentence_and_a_code_that_are_taken() -> None:
    assert of_name("net/a", error="x" * 2000, code="Engine-Limits!") == NameReport(
        name="net/a", error=f"{'x' * (MAX_SENTENCE - 1)}\u2026", code="enginelimits"
    )
    assert of_name("net/a", error="a\x1b[31m\nb\ud800", code="\u00e4") == NameReport(name="net/a", error="a [31m b")
    assert of_name("net/a", error=" \n", code="") == NameReport(name="net/a")


def test_work_that_takes_long_does_not_count_as_lost(heard: Heard, monkeypatch: pytest.MonkeyPatch) -> None:
    """Such as the fetch of one large adapter: the lease goes on meanwhile, by a thread that ends with the work."""
    monkeypatch.setattr(reporting, "_BEAT", 0.001)
    reporter = heard.reporter()
    reporter.update(NAMES)
    with reporter.beating():
        for count in (2, 3):
            heard.now += 11
            while len(heard.reports) < count:
                time.sleep(0.001)
    heard.now += 11
    time.sleep(0.02)
    assert len(heard.reports) == 3
    assert {one.names for one in heard.reports} == {NAMES}
