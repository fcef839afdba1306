"""Lines: through the values, with gaps, and marks whose names don't touch."""

from __future__ import annotations

import re
from itertools import combinations
from math import nan

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from registry.plots.charts import Axis, LineChart, Mark, Point, Sparkline
from tests.plots.pictures import MOST_BYTES, SVG, frame_of, part, texts_of


def chart(points: list[Point], *marks: Mark) -> LineChart:
    share = Axis("energy held", lambda value: f"{100 * value:.3g} %", 0, 1)
    return LineChart("Energy by rank", "What a cap holds.", Axis("rank", whole=True), share, points, marks)


def spark(*values: float | None) -> Sparkline:
    points = [Point(n, value, f"revision {n}") for n, value in enumerate(values, start=1)]
    return Sparkline("accuracy", "By revision.", points)


def curve(drawing: LineChart | Sparkline) -> str:
    (path,) = (one.get("d") or "" for one in part(drawing).iter(f"{SVG}path") if one.get("class") == "plot-curve")
    return path


def test_a_line_goes_through_the_values() -> None:
    places = [float(one) for one in re.findall(r"[\d.]+", curve(spark(0, 1, 0.5, 1)))]
    across, up = places[::2], places[1::2]
    assert across == [6, 46, 86, 126]
    assert up[1] == up[3] < up[2] < up[0]
    assert up[2] == (up[0] + up[1]) / 2


@pytest.mark.parametrize("none", [None, nan])
def test_a_line_has_gaps_where_there_are_no_values(none: float | None) -> None:
    assert re.sub(r"[^A-Z]", "", curve(spark(1, 2, none, none, 3, none, 4, 5))) == "MLMML"
    assert curve(spark(none)) == ""


def test_every_point_tells_of_itself_and_the_last_value_is_written() -> None:
    root = part(spark(0.5, None, 0.75, None))
    assert [one.text for one in root.iter(f"{SVG}title")] == ["revision 1", "revision 3"]
    assert [one.text for one in root.iter(f"{SVG}text")] == ["0.75"]
    assert [one.text for one in part(spark()).iter(f"{SVG}text")] == ["none"]


def test_a_long_value_fits() -> None:
    root = part(spark(-1.23456e-21))
    ((box,),) = texts_of(root, 6.5).values()
    assert box.inside(frame_of(root))


def test_marks_stand_at_their_values_with_a_point_of_the_line() -> None:
    points = [Point(rank, 1 - 0.5**rank, f"rank {rank}") for rank in range(11)]
    root = part(chart(points, Mark(5, "95 %"), Mark(10, "its rank", own=True)))
    marks = {
        one.get("class"): one.get("d") or "" for one in root.iter(f"{SVG}path") if "plot-mark" in str(one.get("class"))
    }
    circles = {float(one.get("cx") or 0): float(one.get("cy") or 0) for one in root.iter(f"{SVG}circle")}
    for name, rank in (("plot-mark", 5), ("plot-mark plot-mark-own", 10)):
        x = float(re.findall(r"[\d.]+", marks[name])[0])
        title = next(one for one in root.iter(f"{SVG}circle") if one.findtext(f"{SVG}title") == f"rank {rank}")
        assert x == float(title.get("cx") or 0)
        assert circles[x] == float(title.get("cy") or 0)


@settings(deadline=None)
@given(ranks=st.lists(st.integers(0, 64), max_size=6), names=st.lists(st.integers(1, 30), min_size=6, max_size=6))
def test_names_of_marks_touch_neither_each_other_nor_lines_of_others(ranks: list[int], names: list[int]) -> None:
    marks = [Mark(rank, f"{n}" + "m" * length) for n, (rank, length) in enumerate(zip(ranks, names, strict=False))]
    root = part(chart([Point(0, 0), Point(64, 1)], *marks))
    texts = texts_of(root, 6.5)
    boxes = {mark.name: texts[mark.name][0] for mark in marks}
    assert not [pair for pair in combinations(boxes.values(), 2) if pair[0].touches(pair[1])]
    assert all(box.inside(frame_of(root)) for box in boxes.values())
    lines = [one.get("d") or "" for one in root.iter(f"{SVG}path") if one.get("class") == "plot-mark"]
    for line in lines:
        x, top, _ = map(float, re.findall(r"[\d.]+", line))
        assert not [box for box in boxes.values() if box.left < x < box.right and box.bottom > top]


def test_many_points_are_one_line_with_some_that_tell() -> None:
    points = [Point(rank, rank / 4000, f"rank {rank}") for rank in range(4001)]
    assert len(chart(points).svg()) < MOST_BYTES / 2
    assert curve(chart(points)).count("L") == 4000
    told = [one.text for one in part(chart(points)).iter(f"{SVG}title")]
    assert 100 <= len(told) <= 200


def test_a_chart_of_nothing_says_so() -> None:
    assert "no values" in [one.text for one in part(chart([])).iter(f"{SVG}text")]
    assert "no values" not in [one.text for one in part(chart([Point(1, 1)])).iter(f"{SVG}text")]
