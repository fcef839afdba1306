"""Symbols lead to one definition or to a reason."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.house.symbols import Index, SymbolError

SHAPES = """
SIDES: int = 4
if SIDES:
    ROUND = True

class Square:
    edge = 1

    @property
    def area(self):
        inner = 2
        def doubled():
            return inner
        return doubled()

async def draw():
    pass
"""


@pytest.fixture
def index(tmp_path: Path) -> Index:
    for file, text in {
        "a/shapes.py": SHAPES,
        "a/b/lines.py": "def draw():\n    pass\n",
        "c/lines.py": "X = 1\n",
    }.items():
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text(text)
    return Index(tmp_path)


@pytest.mark.parametrize(
    ("symbol", "file", "first", "last"),
    [
        ("SIDES", "a/shapes.py", 2, 2),
        ("ROUND", "a/shapes.py", 4, 4),
        ("Square", "a/shapes.py", 6, 14),
        ("Square.edge", "a/shapes.py", 7, 7),
        ("Square.area", "a/shapes.py", 9, 14),
        ("Square.area.doubled", "a/shapes.py", 12, 13),
        ("shapes:draw", "a/shapes.py", 16, 17),
        ("b:draw", "a/b/lines.py", 1, 2),
        ("lines:draw", "a/b/lines.py", 1, 2),
        ("shapes.py", "a/shapes.py", 1, 18),
        ("c:lines.py", "c/lines.py", 1, 2),
    ],
)
def test_a_symbol_is_found(index: Index, symbol: str, file: str, first: int, last: int) -> None:
    found = index.find(symbol)
    assert (found.file.as_posix(), found.first, found.last) == (file, first, last)


@pytest.mark.parametrize(
    ("symbol", "reason"),
    [
        ("draw", "draw is the name of 2: say FOLDER:draw or MODULE:draw of one of a/b/lines.py:1, a/shapes.py:16"),
        ("a:draw", "a:draw is the name of 2: say FOLDER:draw"),
        ("c:draw", "is called c:draw; draw is found in: a/b/lines.py:1, a/shapes.py:16"),
        ("area", "is called area; area is found in: nowhere"),
        ("Square.area.inner", "is found in: nowhere"),
        ("lines.py", "lines.py is the name of 2"),
    ],
)
def test_a_symbol_of_nothing_or_of_several_is_refused_with_the_places(index: Index, symbol: str, reason: str) -> None:
    with pytest.raises(SymbolError) as refused:
        index.find(symbol)
    assert reason in str(refused.value)
