"""The planted bugs fit the code, wherever it stands; all of them are tried by `make test-long ONLY=planted`."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.house.drawn import Bug, bugs_of
from tests.house.mutant_copy import planted, selection
from tests.house.planted import MUTANTS
from tests.house.symbols import Index
from tests.root import ROOT


@pytest.fixture(scope="module")
def package() -> Index:
    return Index(ROOT / "registry")


@pytest.fixture(scope="module")
def tests() -> Index:
    return Index(ROOT / "tests")


def test_each_changes_exactly_one_place_and_is_none_that_is_drawn(package: Index) -> None:
    """In one test: hundreds by themselves take longer to tell of than to look at."""
    drawn: dict[Path, list[Bug]] = {}
    again = []
    for mutant in MUTANTS:
        place = package.find(mutant.symbol)
        file, text = planted(mutant, package)
        sound = (package.root / file).read_text(encoding="utf-8")
        ast.parse(text)
        assert text != sound, mutant.name
        if file not in drawn:
            drawn[file] = bugs_of(file, sound)
        lines = sound.splitlines(keepends=True)
        before, after = len("".join(lines[: place.first - 1])), len("".join(lines[place.last :]))
        inside = (bug.planted(sound) for bug in drawn[file] if place.first <= bug.line <= place.last)
        if any(bare(other[before : len(other) - after]) == bare(text[before : len(text) - after]) for other in inside):
            again.append(mutant.name)
    assert again == [], "tests.house.drawn makes these by itself"


def bare(text: str) -> str:
    """Without what only sets it apart for a reader."""
    return re.sub(r"[\s()]", "", text)


def test_the_tests_that_mutants_name_are_there(tests: Index) -> None:
    found = [selection(mutant.tests, tests).partition("::") for mutant in MUTANTS]
    assert [file for file, _, _ in found if not (ROOT / file).is_file()] == []
    assert {Path(file).name.startswith("test_") for file, _, _ in found} == {True}
    assert {name.rpartition("::")[2].startswith("test_") for _, _, name in found if name} == {True}


def test_every_mutant_has_a_name_of_its_own() -> None:
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS)


def moved(root: Path, to: Path, place: Callable[[int, Path], Path]) -> Index:
    """The modules below ``root`` where ``place`` puts them below ``to``."""
    for number, path in enumerate(sorted(root.rglob("*.py"))):
        target = to / place(number, path.relative_to(root))
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
    return Index(to)


@pytest.mark.slow
def test_modules_and_tests_that_move_into_a_folder_deeper_take_their_mutants_along(tmp_path: Path) -> None:
    def deeper(_: int, file: Path) -> Path:
        return file.parent / "moved" / file.name

    package = moved(ROOT / "registry", tmp_path / "registry", deeper)
    tests = moved(ROOT / "tests", tmp_path / "tests", deeper)
    for mutant in MUTANTS:
        assert "moved" in planted(mutant, package)[0].parts
        assert "/moved/" in selection(mutant.tests, tests)


@pytest.mark.slow
def test_modules_that_move_anywhere_under_other_names_take_along_what_is_named_once(tmp_path: Path) -> None:
    package = moved(ROOT / "registry", tmp_path, lambda number, _: Path(f"room_{number % 7}", f"module_{number}.py"))
    once = [mutant for mutant in MUTANTS if ":" not in mutant.symbol]
    assert len(once) > 0.8 * len(MUTANTS)
    assert {planted(mutant, package)[0].parts[0][:5] for mutant in once} == {"room_"}
