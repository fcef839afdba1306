"""Plants bugs in a copy of the package, one at a time, and sees that the tests catch each.

    python -m tests.house.mutants [NAME]...

A mutant is caught when the tests named with it fail; the same tests pass without it, which is tried first. The list is
in `tests.house.planted`. Two are tried at a time, each in a copy of its own.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue

from tests.house.planted import MUTANTS, Mutant

ROOT = Path(__file__).parents[2]
COPIED = ("registry", "tests", "benchmarks", "alembic", "migrations", "pyproject.toml", "README.md")
SIDE_BY_SIDE = 2


def copy_to(folder: Path) -> None:
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__", "results"))
        else:
            shutil.copy(source, folder)


def places(mutant: Mutant, root: Path = ROOT) -> int:
    """How often the text that the mutant changes stands in its file; anything but 1 makes it useless."""
    file = root / "registry" / mutant.file
    return file.read_text(encoding="utf-8").count(mutant.old) if file.exists() else 0


def run_tests(folder: Path, tests: Sequence[str]) -> tuple[int, str]:
    """Exit code of pytest in the copy, and its last lines; child processes see the copy too."""
    # Bytecode is kept by a file's size and second: planting and taking away within one second would go unseen.
    environment = {**os.environ, "PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-m", "not slow", "-p", "no:cacheprovider", *tests]
    done = subprocess.run(command, cwd=folder, env=environment, check=False, capture_output=True, text=True)
    return done.returncode, "\n".join((done.stdout + done.stderr).splitlines()[-3:])


def try_one(mutant: Mutant, folder: Path) -> str | None:
    """None when the mutant is caught, else why not."""
    if places(mutant, folder) != 1:
        return f"the text it changes stands {places(mutant, folder)} times in {mutant.file}"
    file = folder / "registry" / mutant.file
    sound = file.read_text(encoding="utf-8")
    file.write_text(sound.replace(mutant.old, mutant.new), encoding="utf-8")
    try:
        code, last = run_tests(folder, [mutant.tests])
    finally:
        file.write_text(sound, encoding="utf-8")
    # A test that fails may leave a connection open, which Python tells after pytest's own closing line.
    closing = next((line for line in reversed(last.splitlines()) if re.search(r" in [0-9.]+s", line)), "")
    if (
        code == 1 and " failed" in closing
    ):  # an error while a test is set up would show a broken mutant, not a caught one
        return None
    return f"SURVIVED {mutant.tests}" if code == 0 else f"pytest ended with {code}: {last}"


def unsound(folder: Path, selections: Iterable[str]) -> dict[str, str]:
    """The tests that fail without a mutant, and how."""
    wanted = sorted(set(selections))
    if run_tests(folder, wanted)[0] == 0:
        return {}
    ended = {tests: run_tests(folder, [tests]) for tests in wanted}
    return {
        tests: f"NOT TRIED, {tests} fails without it (pytest ended with {code}):\n{last}"
        for tests, (code, last) in ended.items()
        if code != 0
    }


def main(names: list[str]) -> int:
    unknown = set(names) - {mutant.name for mutant in MUTANTS}
    if unknown:
        sys.exit(f"No such mutant: {', '.join(sorted(unknown))}.")
    chosen = [mutant for mutant in MUTANTS if not names or mutant.name in names]
    with tempfile.TemporaryDirectory(prefix="mutants-") as scratch:
        copies: SimpleQueue[Path] = SimpleQueue()
        folders = [Path(scratch, str(number)) for number in range(SIDE_BY_SIDE)]
        for folder in folders:
            folder.mkdir()
            copy_to(folder)
            copies.put(folder)
        broken = unsound(folders[0], [mutant.tests for mutant in chosen])

        def judge(mutant: Mutant) -> bool:
            start, own = time.perf_counter(), copies.get()
            try:
                why = broken.get(mutant.tests) or try_one(mutant, own)
            finally:
                copies.put(own)
            print(f"{mutant.name:<34} {why or 'caught'} ({time.perf_counter() - start:.0f} s)", flush=True)
            return why is None

        with ThreadPoolExecutor(SIDE_BY_SIDE) as pool:
            caught = sum(pool.map(judge, chosen))
    print(f"{caught} passed, {len(chosen) - caught} failed")
    return 0 if caught == len(chosen) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
