"""Bugs are drawn where they hurt, by a seed, and what comes of them is told without failing anything."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.house import drawn
from tests.house.drawn import Bug, Near, Outcome, bugs_of

FILE = Path("rooms/sums.py")


def changes(body: str) -> set[str]:
    """What can be made of a function that has these lines."""
    text = "def work(a, b):\n" + "\n".join(f"    {line}" for line in body.split("\n")) + "\n"
    found = bugs_of(FILE, text)
    for bug in found:
        ast.parse(bug.planted(text))
        assert bug.inside == "work"
    return {f"{bug.kind}: {bug.old} -> {bug.new}" for bug in found}


@pytest.mark.parametrize(
    ("body", "kinds"),
    [
        ("if a:\n    raise ValueError", {"guard off: a -> False"}),
        (
            "if a:\n    b.clear()",
            {"case left out: a -> False", "case always: a -> True", "step left out: b.clear() -> pass"},
        ),
        ("return a if b else 0", {"case left out: a if b else 0 -> (a)", "case left out: a if b else 0 -> (0)"}),
        ("while a:\n    b = 1", {"case left out: a -> False"}),
        ("for one in a:\n    b += one", {"first alone: a -> [*(a)][:1]"}),
        (
            "for one in a:\n    if one:\n        raise b",
            {"first alone: a -> [*(a)][:1]", "last unchecked: a -> [*(a)][:-1]", "guard off: one -> False"},
        ),
        ("return [one for one in a if one]", {"first alone: a -> [*(a)][:1]", "condition left out: one -> True"}),
        ("return a[1:b]", {"off by one: 1 -> (1) + 1", "off by one: b -> (b) - 1"}),
        ("return range(a, b, 2)", {"off by one: b -> (b) - 1"}),
        ("return a + b", {"arithmetic: a + b -> ((a) - (b))"}),
        ("return a <= b", {"comparison: a <= b -> ((a) < (b))"}),
        ("return not a", {"not lost: not a -> (a)"}),
        ("return a and b", {"condition left out: a and b -> (a)", "condition left out: a and b -> (b)"}),
        ("check_rank(a)", {"check left out: check_rank(a) -> pass"}),
        ("return f'{a + b}', 'a' + b, a.folder / b", set()),
        ("log.warning(a)", set()),
    ],
)
def test_what_is_drawn(body: str, kinds: set[str]) -> None:
    assert changes(body) == kinds


def test_a_place_is_found_behind_letters_of_several_bytes() -> None:
    text = "def work(a):\n    return 'σσ', not a\n"
    (bug,) = bugs_of(FILE, text)
    assert bug.planted(text) == "def work(a):\n    return 'σσ', (a)\n"


def test_constants_and_signatures_are_left_alone() -> None:
    text = "SIZE = 4 * 5\n\nclass A:\n    most = SIZE - 1\n\n    def work(self, a=SIZE - 1) -> None:\n        pass\n"
    assert bugs_of(FILE, text) == []


def test_each_seed_has_an_order_of_its_own_that_begins_with_one_of_each_kind() -> None:
    text = "def work(a, b):\n    return [a < b, a > b, a == b, a != b, not a, a + b, a[b:]]\n"
    bugs = bugs_of(FILE, text)
    first, again, other = (drawn.draw(bugs, seed) for seed in ("a commit", "a commit", "the next"))
    assert first == again != other
    assert {bug.kind for bug in first[:4]} == {"comparison", "not lost", "arithmetic", "off by one"}
    assert sorted(first, key=bugs.index) == bugs


def test_the_nearest_tests_come_first(tmp_path: Path) -> None:
    files = {
        "registry/rooms/sums.py": "def work():\n    pass\n",
        "registry/rooms/hall.py": "from registry.rooms.sums import work\n",
        "tests/rooms/test_sums.py": "from registry.rooms.sums import work\n",
        "tests/rooms/test_hall.py": "from registry.rooms import hall\n",
        "tests/other/test_far.py": "import registry\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    (bug,) = bugs_of(FILE, "def work(a):\n    return not a\n")
    assert Near(tmp_path).files(bug) == [
        "tests/rooms/test_sums.py",
        "tests/rooms/test_hall.py",
        "tests/other/test_far.py",
    ]


def test_what_came_of_them_is_told_with_each_survivor() -> None:
    bug = Bug(FILE, 7, "work", "not lost", 0, 5, "not a", "(a)")
    told = drawn.concluded(
        [Outcome(bug, word, "", 1.0) for word in ("killed", "killed", "killed", "survived", "no time")]
    )
    assert told.splitlines() == [
        "75 % of 4 killed; 3 killed, 1 survived, 0 not judged, 1 no time",
        "  registry/rooms/sums.py:7 work: not lost: not a -> (a)",
    ]
    assert drawn.concluded([Outcome(bug, "no time", "", 0.0)]).startswith("none was tried to an end; ")
