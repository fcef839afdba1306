"""Axes: every value within, round ticks in order, and factors as lengths.

Scales and trees of paths.
"""

from __future__ import annotations

from itertools import pairwise
from math import inf, log, nan, nextafter

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from registry.figures import number
from registry.plots.charts import Axis, framed, laid
from registry.plots.drawing import Measure
from registry.plots.nodes import Node, Scale, ancestors, labels, nested

VALUES = st.lists(st.floats(-1e6, 1e6).map(lambda value: round(value, 3)), min_size=1, max_size=20)
FACTORS = st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=20)
LOGARITHMIC = Axis("rank", logarithmic=True)


@settings(deadline=None)
@given(values=VALUES, rounded=st.booleans())
def test_values_stand_in_their_order_within_the_axis(values: list[float], rounded: bool) -> None:
    axis = laid(Axis("accuracy"), values, 100, 20, rounded=rounded)
    places = [axis.at(value) for value in sorted(values)]
    assert all(left >= right for left, right in pairwise(places))
    assert all(20 <= place <= 100 for place in places)


@settings(deadline=None)
@given(values=VALUES)
def test_an_axis_of_round_ends_begins_and_ends_with_a_tick(values: list[float]) -> None:
    axis = laid(Axis("accuracy"), values, 0, 100, rounded=True)
    ticks = axis.ticks
    assert [ticks[0].at, ticks[-1].at] == pytest.approx([0, 100], abs=1e-3)
    assert 2 <= len(ticks) <= 7
    steps = [right.at - left.at for left, right in pairwise(ticks)]
    assert max(steps) == pytest.approx(min(steps), abs=1e-3)


@settings(deadline=None)
@given(values=FACTORS)
@example(values=[3.0, nextafter(3.0, 4.0)])
def test_equal_factors_are_equal_lengths(values: list[float]) -> None:
    axis = laid(LOGARITHMIC, values, 0, 100, most=8)
    low, high = min(values), max(values)
    for value in values:
        share = 0.5 if low == high else log(value / low) / log(high / low)
        assert axis.at(value) == pytest.approx(100 * share, abs=1e-3)
    assert len(axis.ticks) <= 8


def test_ticks_are_round() -> None:
    texts = {
        (0.0, 1.0): ["0", "0.2", "0.4", "0.6", "0.8", "1"],
        (0.8, 0.9): ["0.8", "0.82", "0.84", "0.86", "0.88", "0.9"],
        (3.0, 64.0): ["0", "20", "40", "60", "80"],
        (-0.3, 0.2): ["-0.3", "-0.2", "-0.1", "0", "0.1", "0.2"],
    }
    for ends, expected in texts.items():
        assert [tick.text for tick in laid(Axis("x"), ends, 0, 1, rounded=True).ticks] == expected


def test_ticks_of_factors_are_powers_of_ten_and_what_is_between_where_there_is_room() -> None:
    assert [tick.text for tick in laid(LOGARITHMIC, [1, 64], 0, 1, most=8).ticks] == ["1", "2", "5", "10", "20", "50"]
    assert [tick.text for tick in laid(LOGARITHMIC, [1, 4096], 0, 1, most=8).ticks] == ["1", "10", "100", "1000"]


def test_whole_values_have_whole_ticks() -> None:
    assert [tick.text for tick in laid(Axis("rank", whole=True), [1, 3], 0, 1, most=8).ticks] == ["1", "2", "3"]


def test_values_that_are_not_finite_do_not_count() -> None:
    axis = laid(Axis("x"), [nan, 1, inf, 3], 0, 100)
    assert (axis.low, axis.high, axis.at(2)) == (1, 3, 50)


def test_a_value_without_a_logarithm_stands_at_the_beginning() -> None:
    axis = laid(LOGARITHMIC, [0, 1, 100], 0, 100)
    assert [axis.at(value) for value in (-1, 0, 1, 10, 100)] == [0, 0, 0, 50, 100]


def test_given_ends_stay_and_hold_what_is_beyond() -> None:
    axis = laid(Axis("share", low=0, high=1), [0.2, 7], 0, 100, rounded=True)
    assert [axis.at(value) for value in (-1, 0, 0.5, 1, 7)] == [0, 0, 50, 100, 100]


def test_one_value_stands_in_the_middle() -> None:
    for axis in (Axis("x"), LOGARITHMIC):
        assert laid(axis, [7.0], 0, 100).at(7) == pytest.approx(50)


def test_one_value_at_a_given_end_stays_there() -> None:
    for values, axis, ends in (
        ([0.0], Axis("x", low=0), (0, 1)),
        ([1.0], Axis("x", high=1), (0, 1)),
        ([1.0], Axis("x", low=1, logarithmic=True), (1, 2)),
        ([0.0], Axis("x", low=0, high=1), (0, 1)),
    ):
        made = laid(axis, values, 0, 100, rounded=True)
        assert (made.low, made.high) == ends


def test_a_frame_has_room_for_what_is_written_beside_it() -> None:
    narrow = framed(Axis("x"), Axis("y"), [(0, 0), (1, 1)], 100, 100)
    wide = framed(Axis("x"), Axis("y", lambda value: f"{value} of many words"), [(0, 0), (1, 1)], 100, 100)
    assert wide.x.start > narrow.x.start
    assert wide.width - wide.x.start == pytest.approx(narrow.width - narrow.x.start)


PATHS = st.lists(st.lists(st.sampled_from("abc"), min_size=1, max_size=4).map(lambda names: "/".join(["m", *names])))


def test_the_least_and_the_most_are_the_ends() -> None:
    scale = Scale("acc", {"a": 0.5, "b": 0.75, "c": 1.0}, number)
    assert [scale.part(point) for point in "abcd"] == [0.0, 0.5, 1.0, None]
    assert [scale.shade(point) for point in "abcd"] == [0, 4, 7, None]
    assert [scale.value_text(point) for point in "abcd"] == ["0.5", "0.75", "1", None]
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
