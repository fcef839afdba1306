"""Whoever plants bugs tells a caught one from one that is not, and ends in time; tried on a package of one function."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.house import mutant_copy, mutants
from tests.house.mutant_copy import Copy, Ended, Trial, Verdict
from tests.house.planted import MUTANTS, Mutant

SOUND = "def total(a, b):\n    return a + b\n"
TESTS = """
from registry.sums import total

def test_a_sum():
    assert total(2, 2) == 4

def test_a_wrong_sum():
    assert total(2, 2) == 5
"""
MINUS = Mutant("minus", "total", "a + b", "a - b", "test_a_sum")
SWAPPED = Mutant("swapped", "total", "a + b", "b + a", "test_a_sum")
BROKEN = Mutant("broken", "total", "return", "retrun", "test_a_sum")


class Told(Copy):
    """Its tests are not run: they take as long as ``seconds`` says, and pass."""

    seconds = 0.0

    def run(self, tests: str, until: float) -> Ended:
        return Ended(0, "", self.seconds)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    files = {"registry/__init__.py": "", "registry/sums.py": SOUND, "tests/test_sums.py": TESTS}
    for name, text in files.items():
        (tmp_path / "source" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "source" / name).write_text(text)
    (tmp_path / "copy").mkdir()
    return tmp_path / "source"


@pytest.fixture
def bare_pytest(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its plugins take seconds to load, and these tests need none."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")


@pytest.mark.usefixtures("bare_pytest")
def test_only_a_failed_test_is_a_caught_mutant(source: Path, tmp_path: Path) -> None:
    copy = Copy(tmp_path / "copy", source)
    caught, passed, broken = copy.try_each("test_a_sum", [MINUS, SWAPPED, BROKEN])
    assert caught.came_to == "caught"
    assert passed.came_to == "NOT CAUGHT: test_a_sum passes with it"
    assert broken.came_to.startswith("NOT CAUGHT: pytest ended with ")
    assert (copy.package.root / "sums.py").read_text() == SOUND


@pytest.mark.usefixtures("bare_pytest")
def test_a_test_that_fails_anyway_catches_nothing(source: Path, tmp_path: Path) -> None:
    (trial,) = Copy(tmp_path / "copy", source).try_each("test_a_wrong_sum", [MINUS])
    assert trial.verdict is Verdict.NOT_CAUGHT
    assert "not tried, test_a_wrong_sum fails without it" in trial.why


@pytest.mark.parametrize(("seconds", "left"), [(0.0, mutant_copy.LEAST / 2), (40.0, 50.0)])
def test_none_is_begun_that_could_not_end_in_time(source: Path, tmp_path: Path, seconds: float, left: float) -> None:
    copy = Told(tmp_path / "copy", source)
    copy.seconds = seconds
    (trial,) = copy.try_each("test_a_sum", [MINUS], time.monotonic() + left)
    assert trial.verdict is Verdict.NO_TIME


@pytest.mark.parametrize("deaf", [False, True])
def test_what_is_not_done_in_time_is_stopped(monkeypatch: pytest.MonkeyPatch, deaf: bool) -> None:
    monkeypatch.setattr(mutant_copy, "GRACE", 0.2 if deaf else 60.0)
    # Said in both cases: who runs the tests in the background of a shell hands on that SIGINT is ignored.
    handler = "SIG_IGN" if deaf else "default_int_handler"
    listens = f"signal.signal(signal.SIGINT, signal.{handler})"
    command = [sys.executable, "-c", f"import signal, time; {listens}; print('ready', flush=True); time.sleep(600)"]
    quiet = subprocess.DEVNULL
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=quiet, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        assert mutant_copy.exit_code(process, 0.1) is None
    assert (process.returncode == -signal.SIGKILL) is deaf


def test_a_sample_is_another_with_another_seed_and_the_same_with_the_same() -> None:
    first, again, other = (mutants.sample(MUTANTS, 20, seed) for seed in ("a commit", "a commit", "the next"))
    assert first == again
    assert len({mutant.name for mutant in first}) == 20
    assert {mutant.name for mutant in first} != {mutant.name for mutant in other}
    assert sorted(mutants.sample(MUTANTS, 10**6, "a commit"), key=MUTANTS.index) == list(MUTANTS)


@pytest.mark.parametrize(
    ("verdicts", "code"),
    [
        ([Verdict.CAUGHT, Verdict.NO_TIME], 0),
        ([Verdict.CAUGHT, Verdict.NOT_CAUGHT], 1),
        ([Verdict.NO_TIME], 0),
        ([Verdict.NOT_CAUGHT, Verdict.NO_TIME], 1),
    ],
)
def test_a_run_is_good_when_all_that_there_was_time_for_are_caught(verdicts: list[Verdict], code: int) -> None:
    assert mutants.concluded([Trial(MINUS, verdict, "", 1.0) for verdict in verdicts]) == code


def test_a_mutant_that_fits_nothing_is_told_before_any_is_tried(source: Path, tmp_path: Path) -> None:
    copy = Told(tmp_path / "copy", source)
    gone = Mutant("gone", "total", "a * b", "0", "test_a_sum")
    elsewhere = Mutant("lost", "sum_of", "a", "b", "test_a_sum")
    untested = Mutant("untested", "total", "a + b", "0", "test_sums_of_three")
    assert mutants.unfit([MINUS], copy) == []
    reasons = mutants.unfit([gone, elsewhere, untested], copy)
    assert reasons == [
        "gone: what gone changes stands 0 times in total (sums.py:1): a * b",
        "lost: nothing below registry/ is called sum_of; sum_of is found in: nowhere",
        "untested: nothing below tests/ is called test_sums_of_three; test_sums_of_three is found in: nowhere",
    ]
