"""The figures count what they say."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.house import measure

ONE = '''"""One."""

import os
from registry.services.below import (
    two,
)

# why
VALUE = 1
"""What it is."""


def _once() -> str:
    """Text
    of two lines.
    """
    return two.name()


def public() -> str:
    return _once() + os.sep
'''


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    for name, text in {
        "__init__.py": '"""The package."""\n',
        "services/__init__.py": "",
        "services/one.py": ONE,
        "services/below/__init__.py": "",
        "services/below/two.py": "def name() -> str:\n    from registry.services import one\n    return one.__name__\n",
    }.items():
        path = tmp_path / "registry" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


def test_lines_are_counted_by_what_is_on_them(checkout: Path) -> None:
    found = measure.figures(checkout)
    kinds = {kind: found[f"  {kind}"] for kind in ("code", "docstrings", "comments", "imports", "blank")}
    assert kinds == {"code": 7, "docstrings": 6, "comments": 1, "imports": 5, "blank": 6}
    assert found["lines"] == sum(kinds.values())


def test_functions_and_modules_are_counted(checkout: Path) -> None:
    found = measure.figures(checkout)
    names = ("modules", "folders", "functions", "  private", "  private, called once")
    assert [found[name] for name in names] == [2, 2, 3, 1, 1]


def test_imports_and_circles_are_counted(checkout: Path) -> None:
    found = {name: value for name, value in measure.figures(checkout).items() if name.startswith("services")}
    assert found == {
        "services: modules": 2,
        "services: imports between modules": 2,
        "services: of them in a circle": 2,
        "services: rooms": 2,
        "services: floors of rooms": -1,
        "services: imports between rooms": 2,
        "services: of them in a circle of rooms": 2,
    }


def test_floors_are_counted() -> None:
    assert measure.floors({"a": {"b", "c"}, "b": {"c"}, "c": set(), "d": set()}) == 3
