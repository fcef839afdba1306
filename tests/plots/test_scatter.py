"""Points in a plane: each alone or counted once, and few enough for a page however many there are."""

from __future__ import annotations

import random
import re
from itertools import combinations
from math import log
from xml.etree.ElementTree import Element

from hypothesis import given, settings
from hypothesis import strategies as st

from registry.plots.charts import Axis
from registry.plots.scatter import Dot, Reference, Scatter
from tests.plots.pictures import MOST_BYTES, SVG, frame_of, part, texts_of

RANK = Axis("effective rank", low=1, high=4096, logarithmic=True)
SHARE = Axis("share of weights", lambda value: f"{100 * value:.3g} %", 0, 1)
FULL = Reference(4096, 1, "full fine-tuning")
PLACES = st.lists(st.tuples(st.floats(1, 4096), st.floats(0, 1)), max_size=30)


def plane(dots: list[Dot]) -> Scatter:
    return Scatter("The plane", "Rank against share.", RANK, SHARE, dots, "adapters", FULL)


def dots_at(places: list[tuple[float, float]]) -> list[Dot]:
    return [Dot(*place, f"a{n}", f"/a{n}", f"a{n}: told") for n, place in enumerate(places)]


def links(root: Element) -> list[str]:
    return [one.get("href") or "" for one in root.iter(f"{SVG}a")]


def counts(root: Element) -> list[int]:
    told = [one.findtext(f"{SVG}title") or "" for one in root.iter(f"{SVG}g")]
    return [int(text.partition(" ")[0].replace(",", "")) for text in told]


@settings(deadline=None)
@given(places=PLACES, several=st.integers(1, 4))
def test_every_point_is_a_link_or_is_counted(places: list[tuple[float, float]], several: int) -> None:
    root = part(plane(dots_at(places * several)))
    alone = links(root)
    assert len(alone) == len(set(alone))
    assert len(alone) + sum(counts(root)) == len(places) * several


@settings(deadline=None)
@given(places=PLACES)
def test_points_alone_stand_at_their_values(places: list[tuple[float, float]]) -> None:
    root = part(plane(dots_at([(1, 0), (4096, 0.5), (64, 1), *places])))
    axes = {one.text: one for one in root.iter(f"{SVG}text")}
    left, bottom = float(axes["1"].get("x") or 0), float(axes["0 %"].get("y") or 0) - 4
    width, height = 640, bottom - (float(axes["100 %"].get("y") or 0) - 4)
    for link in root.iter(f"{SVG}a"):
        n = int((link.get("href") or "").removeprefix("/a"))
        rank, share = [(1, 0), (4096, 0.5), (64, 1), *places][n]
        circle = link.find(f"{SVG}circle")
        assert circle is not None
        assert abs(float(circle.get("cx") or 0) - left - width * log(rank) / log(4096)) < 0.11
        assert abs(float(circle.get("cy") or 0) - bottom + height * share) < 0.11


@settings(deadline=None)
@given(places=PLACES)
def test_names_touch_neither_each_other_nor_the_frame(places: list[tuple[float, float]]) -> None:
    root = part(plane(dots_at(places)))
    named = {name: boxes for name, boxes in texts_of(root, 6.2).items() if re.fullmatch(r"a\d+|full fine-tuning", name)}
    boxes = [box for found in named.values() for box in found]
    assert not [pair for pair in combinations(boxes, 2) if pair[0].touches(pair[1])]
    assert all(box.inside(frame_of(root)) for box in boxes)


def test_ten_thousand_points_fit_into_a_page() -> None:
    draws = random.Random(5)
    spread = [(2 ** draws.uniform(0, 12), draws.random()) for _ in range(10_000)]
    near = [(2 ** draws.gauss(4, 1), min(1.0, abs(draws.gauss(0.3, 0.05)))) for _ in range(10_000)]
    for places in (spread, near, [(8.0, 0.2)] * 10_000):
        dots = [Dot(*place, 64 * "n", "/tree/" + 200 * "p", 200 * "t", shade=3) for place in places]
        text = plane(dots).svg()
        assert len(text) < MOST_BYTES
        assert sum(counts(part(plane(dots)))) + len(links(part(plane(dots)))) == 10_000


def test_a_count_names_some_of_its_points() -> None:
    (group,) = part(plane(dots_at([(8.0, 0.2)] * 9))).iter(f"{SVG}g")
    assert group.findtext(f"{SVG}title") == "9 adapters: a0, a1, a2, a3, a4, a5 and 3 more"
    assert group.findtext(f"{SVG}text") == "9"


def test_the_current_point_is_never_counted_and_always_named() -> None:
    dots = [Dot(8, 0.2, f"a{n}", f"/a{n}", current=n == 7) for n in range(500)]
    root = part(plane(dots))
    (link,) = root.iter(f"{SVG}a")
    assert (link.get("href"), link.get("aria-current")) == ("/a7", "page")
    assert counts(root) == [499]
    assert "a7" in texts_of(root, 6.2)


def test_what_to_compare_with_stands_in_the_corner() -> None:
    root = part(plane([Dot(4, 0.2, "a", "/a")]))
    (corner,) = (one.get("d") or "" for one in root.iter(f"{SVG}path") if one.get("class") == "plot-reference")
    ticks = {one.text: one for one in root.iter(f"{SVG}text")}
    x, y = (float(one) for one in re.findall(r"[\d.]+", corner)[:2])
    assert x == float(ticks["effective rank"].get("x") or 0)
    assert y + 6 == float(ticks["100 %"].get("y") or 0) - 4


def test_points_without_a_place_are_left_out() -> None:
    root = part(plane([Dot(float("nan"), 0.2, "a", "/a"), Dot(2, float("inf"), "b", "/b"), Dot(2, 0.1, "c", "/c")]))
    assert links(root) == ["/c"]
    assert "no values" in texts_of(part(plane([])), 6)
