"""A copy of the package and its tests, and one bug in it at a time."""

from __future__ import annotations

import math
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import cached_property
from pathlib import Path

from tests.house.planted import Mutant
from tests.house.symbols import Index, SymbolError
from tests.root import ROOT

COPIED = (
    "registry", "adapter_registry", "tests", "benchmarks", "alembic", "migrations", "docs", "deploy", "client",
    "pyproject.toml", "mkdocs.yml", "README.md", "CHANGELOG.md", "Makefile", "Dockerfile", "docker-compose.yml",
    ".dockerignore", ".env.example",
)  # fmt: skip
MOST = 12 << 30  # bytes of memory of a process
GRACE = 10.0  # seconds for pytest to take down what it set up, once its time is up
LEAST = 20.0  # seconds that are worth a start: what the tests of most bugs take, twice
CLOSING = re.compile(r" in [0-9.]+s")  # in the line that pytest closes with
NO_COMMIT = "no commit"
SLOWER = 1.5  # a run with the bug may take this much longer than the one without


def commit() -> str:
    """The commit that is checked out, or a fixed text where git does not know."""
    try:
        asked = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError):
        return NO_COMMIT
    return asked.stdout.strip()


class Verdict(Enum):
    CAUGHT = "caught"
    NOT_CAUGHT = "NOT CAUGHT"
    NO_TIME = "not tried, no time left"


@dataclass(frozen=True)
class Trial:
    """What came of one bug, and why it was not caught."""

    mutant: Mutant
    verdict: Verdict
    why: str
    seconds: float

    @property
    def came_to(self) -> str:
        return f"{self.verdict.value}: {self.why}" if self.why else self.verdict.value


@dataclass(frozen=True)
class Ended:
    """A run of pytest."""

    code: int | None  # None: it was stopped, its time was up
    last: str  # its closing line and what comes after it, or the last lines that it wrote
    seconds: float


def copies(scratch: Path, number: int) -> list[Copy]:
    """So many, to try bugs side by side."""
    first = Copy(scratch / "0")
    return [first, *(Copy(scratch / str(other), like=first) for other in range(1, number))]


def planted(mutant: Mutant, package: Index) -> tuple[Path, str]:
    """The file below the package that a bug stands in, and the text of the file with the bug.

    Raises:
        SymbolError: Not exactly one definition has the symbol, or not exactly one place in it reads as the bug says.
    """
    place = package.find(mutant.symbol)
    lines = (package.root / place.file).read_text(encoding="utf-8").split("\n")
    sound = "\n".join(lines[place.first - 1 : place.last])
    if (times := sound.count(mutant.old)) != 1:
        raise SymbolError(f"what {mutant.name} changes stands {times} times in {mutant.symbol} ({place}): {mutant.old}")
    lines[place.first - 1 : place.last] = [sound.replace(mutant.old, mutant.new)]
    return place.file, "\n".join(lines)


def selection(tests: str, index: Index) -> str:
    """What pytest is given for the tests that a bug names, from the folder that holds ``tests/``.

    Raises:
        SymbolError: Not exactly one file or function has the name.
    """
    symbol, bracket, case = tests.partition("[")
    found = index.find(symbol)
    names = found.name.split(".") if found.name else []
    return "::".join([(index.root.name / found.file).as_posix(), *names]) + bracket + case


class Copy:
    """A copy in ``folder``; `package` and `tests` say where things are in it, as in the copy ``like`` it."""

    def __init__(self, folder: Path, root: Path = ROOT, like: Copy | None = None) -> None:
        self.folder = folder
        self._like = like
        for name in COPIED:
            source = root / name
            if source.is_dir():
                shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("results"))
            elif source.exists():
                shutil.copy(source, folder)

    @cached_property
    def package(self) -> Index:
        place = self.folder / "registry"
        return Index(place) if self._like is None else self._like.package.below(place)

    @cached_property
    def tests(self) -> Index:
        place = self.folder / "tests"
        return Index(place) if self._like is None else self._like.tests.below(place)

    def try_each(self, tests: str, mutants: Sequence[Mutant], until: float = math.inf) -> Iterator[Trial]:
        """Whether the tests pass as things are, and fail with each bug; ``until`` is a time of `time.monotonic`.

        None is begun that could not end in time; one that is not done by then is stopped.
        """
        begun = time.monotonic()
        sound = self.run(tests, until) if until - begun >= LEAST else Ended(None, "", 0.0)
        for mutant in mutants:
            if sound.code is None or until - time.monotonic() < SLOWER * sound.seconds:
                yield Trial(mutant, Verdict.NO_TIME, "", time.monotonic() - begun)
            elif sound.code != 0:
                why = f"not tried, {tests} fails without it (pytest ended with {sound.code}):\n{sound.last}"
                yield Trial(mutant, Verdict.NOT_CAUGHT, why, time.monotonic() - begun)
            else:
                yield self._try_one(mutant, until)

    def _try_one(self, mutant: Mutant, until: float) -> Trial:
        file, text = planted(mutant, self.package)
        path = self.package.root / file
        sound = path.read_text(encoding="utf-8")
        path.write_text(text, encoding="utf-8")
        try:
            ended = self.run(mutant.tests, until)
        finally:
            path.write_text(sound, encoding="utf-8")
        return Trial(mutant, *_judged(mutant, ended), ended.seconds)

    def run(self, tests: str, until: float) -> Ended:
        """Run tests that a bug names."""
        chosen = selection(tests, self.tests)
        alone = "not image" if "::" in chosen else "not slow"  # what is named may take long, a file not
        return self.pytest(["-m", alone, chosen], until)

    def pytest(self, arguments: Sequence[str], until: float, most: int = -1) -> Ended:
        """Run pytest in the copy, up to the first test that fails; child processes see the copy too.

        It ends at a time, or when it has taken ``most`` seconds of processor time.
        """
        # Bytecode is kept by a file's size and second: planting and taking away within one second would go unseen.
        environment = {**os.environ, "PYTHONPATH": str(self.folder), "PYTHONDONTWRITEBYTECODE": "1"}
        command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *arguments]
        begun = time.monotonic()
        with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as output:
            process = subprocess.Popen(
                command, cwd=self.folder, env=environment, stdout=output, stderr=subprocess.STDOUT, text=True
            )
            if hasattr(resource, "prlimit"):  # a loop that does not end may take memory, too
                resource.prlimit(process.pid, resource.RLIMIT_DATA, (MOST, MOST))
                resource.prlimit(process.pid, resource.RLIMIT_CPU, (most, -1))
            code = exit_code(process, None if until == math.inf else max(0.0, until - begun))
            output.seek(0)
            lines = output.read().splitlines()
        closing = max((number for number, line in enumerate(lines) if CLOSING.search(line)), default=len(lines))
        return Ended(code, "\n".join(lines[max(0, min(closing, len(lines) - 3)) :]), time.monotonic() - begun)


def exit_code(process: subprocess.Popen[str], seconds: float | None) -> int | None:
    """What it ends with; None when it has to be stopped."""
    try:
        code = process.wait(seconds)
        return None if code == -signal.SIGXCPU else code
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGINT)
    try:
        process.wait(GRACE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    return None


def _judged(mutant: Mutant, ended: Ended) -> tuple[Verdict, str]:
    if ended.code is None:
        return Verdict.NO_TIME, ""
    if ended.code == 0:
        return Verdict.NOT_CAUGHT, f"{mutant.tests} passes with it"
    # A test that fails may leave connections open, which Python tells after pytest's own closing line.
    closing = next((line for line in reversed(ended.last.splitlines()) if CLOSING.search(line)), "")
    # An error while a test is set up would show a broken bug, not a caught one.
    if ended.code == 1 and " failed" in closing:
        return Verdict.CAUGHT, ""
    return Verdict.NOT_CAUGHT, f"pytest ended with {ended.code}:\n{ended.last}"
