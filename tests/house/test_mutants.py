"""The planted bugs fit the code, wherever it stands; all of them are tried by `make test-long ONLY=mutants`."""

from __future__ import annotations

import ast
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.house.mutant_copy import planted, selection
from tests.house.planted import MUTANTS, Mutant
from tests.house.symbols import Index
from tests.root import ROOT


@pytest.fixture(scope="module")
def package() -> Index:
    return Index(ROOT / "registry")


@pytest.fixture(scope="module")
def tests() -> Index:
    return Index(ROOT / "tests")


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_mutant_changes_exactly_one_place(mutant: Mutant, package: Index) -> None:
    file, text = planted(mutant, package)
    assert text != (package.root / file).read_text(encoding="utf-8")
    ast.parse(text)


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
