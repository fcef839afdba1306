"""Scales and trees of paths."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.figures import number
from registry.plots.drawing import Measure
from registry.plots.nodes import Node, Scale, ancestors, labels, nested

PATHS = st.lists(st.lists(st.sampled_from("abc"), min_size=1, max_size=4).map(lambda names: "/".join(["m", *names])))


def test_the_least_and_the_most_are_the_ends() -> None:
    scale = Scale("acc", {"a": 0.5, "b": 0.75, "c": 1.0}, number)
    assert [scale.part(point) for point in "abcd"] == [0.0, 0.5, 1.0, None]
    assert [scale.shade(point) for point in "abcd"] == [0, 4, 7, None]
    assert [scale.told(point) for point in "abcd"] == ["0.5", "0.75", "1", None]
    assert scale.measure == Measure("acc", "0.5", "1")


@pytest.mark.parametrize("values", [{"a": 3.0}, {"a": 3.0, "b": 3.0}])
def test_equal_values_are_in_the_middle(values: dict[str, float]) -> None:
    assert Scale("rank", values, number).shade("a") == 4
    assert Scale("rank", {}, number).measure is None


@given(PATHS, st.integers(0, 10))
def test_each_path_is_below_the_nearest_above_it(paths: list[str], chosen: int) -> None:
    known = sorted(set(paths), key=lambda path: path.split("/"))
    at = known[chosen % len(known)] if known else "m"
    root = nested("m", known, at, known[:1])
    assert sorted(labels(root)) == sorted(["m", *known])

    def check(node: Node) -> None:
        assert [child.label for child in node.children] == [path for path in known if above(path) == node.label]
        assert node.found == (node.label in known[:1])
        assert node.current == (node.label == at != "m")
        assert node.on_path == at.startswith(f"{node.label}/")
        for child in node.children:
            check(child)

    def above(path: str) -> str:
        over = [one for one in ["m", *known] if path.startswith(f"{one}/")]
        return max(over, key=len)

    check(root)


def test_ancestors_are_all_above_but_the_first_name() -> None:
    assert ancestors(["m/a/b/c", "m/d", "m"]) == {"m/a", "m/a/b"}
