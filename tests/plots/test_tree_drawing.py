"""Drawn trees: every node once, no text over another, links and marks, and small enough for a page."""

from __future__ import annotations

import re
from itertools import combinations, pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from registry.plots.drawing import Measure
from registry.plots.nodes import MOST, WIDEST, Node, folded
from registry.plots.tree_drawing import TreeDrawing
from tests.plots.pictures import MOST_BYTES, SVG, frame_of, part, texts_of, whole
from tests.plots.trees import PARENTS, levels, nodes_of, numbered, shaped

NAME = "abcdefghijklmnopqrstuvwxyz0123456789-_" * 2
LETTER = 7.25  # of names; no other text has wider ones


def drawing(root: Node, sizes: Measure | None = None, shades: Measure | None = None) -> TreeDrawing:
    return TreeDrawing("Adapters of llama", "Each below what it was trained on.", root, sizes, shades)


@settings(deadline=None)
@given(parents=PARENTS, data=st.data())
def test_no_two_texts_overlap_and_all_are_inside(parents: list[int], data: st.DataObject) -> None:
    numbers = st.integers(0, 7)

    def made(n: int, below: tuple[Node, ...]) -> Node:
        name = NAME[: data.draw(st.integers(1, 64))]
        tags = tuple(f"{name[:9]}-{n}" for n in range(data.draw(numbers) - 4))
        marks = data.draw(numbers)
        return Node(name, f"/{n}", below, behind=marks == 1, retracted=marks == 2, tags=tags, more=data.draw(numbers))

    root = part(drawing(shaped(parents[:20], made)))
    boxes = [box for found in texts_of(root, 6.0).values() for box in found]
    assert all(not one.touches(other) for one, other in combinations(boxes, 2))
    frame = frame_of(root)
    assert all(box.inside(frame) for found in texts_of(root, LETTER - 0.05).values() for box in found)


@settings(deadline=None)
@given(parents=PARENTS, most=st.integers(1, 70))
def test_every_node_and_every_count_is_drawn_once(parents: list[int], most: int) -> None:
    left = folded(numbered(parents), most)
    links = [one.get("href") or "" for one in part(drawing(left)).iter(f"{SVG}a")]
    assert sorted(links) == sorted(
        [one.href for one in nodes_of(left)] + [one.href for one in nodes_of(left) if one.more]
    )
    told = [title.text or "" for title in part(drawing(left)).iter(f"{SVG}title")]
    counted = [int(text.partition(" ")[0]) for text in told if re.match(r"\d+ more below", text)]
    assert len(list(nodes_of(left))) + sum(counted) == len(parents) + 1


def test_ten_thousand_adapters_fit_into_a_page() -> None:
    for families in ((10, 30, 33), (10_000,), (100, 100), (3, 3, 3, 3, 120)):
        assert len(drawing(folded(levels(*families))).svg()) < MOST_BYTES


def test_the_longest_names_and_many_tags_fit_into_a_page() -> None:
    path = "/a/prefix/of/the/service/tree/" + 2 * (96 * "n")
    tags = tuple(f"{NAME[:60]}{n}" for n in range(9))
    below = tuple(
        Node(NAME[:64], f"{path}{n}", told=900 * "t", size=0.5, shade=4, behind=True, retracted=True, tags=tags,
             more=1234, more_href=f"{path}{n}?all", found=True)
        for n in range(MOST)
    )  # fmt: skip
    assert len(drawing(folded(Node("base", path, below))).svg().encode()) < MOST_BYTES


def test_a_chain_of_forty_levels_goes_to_the_right() -> None:
    root = part(drawing(numbered(list(range(40)))))
    places = [boxes[0] for boxes in texts_of(root, LETTER).values()]
    assert {box.top for box in places} == {places[0].top}
    assert all(left.right < right.left for left, right in pairwise(places))


def test_children_are_right_of_their_parent_and_around_it() -> None:
    boxes = {name: found[0] for name, found in texts_of(part(drawing(numbered([0, 0, 0, 1, 1]))), LETTER).items()}
    assert boxes["n0"].right < boxes["n1"].left == boxes["n2"].left == boxes["n3"].left
    assert boxes["n1"].top < boxes["n2"].top < boxes["n3"].top
    assert abs(boxes["n0"].top - (boxes["n1"].top + boxes["n3"].top) / 2) <= 0.1
    assert boxes["n4"].left == boxes["n5"].left > boxes["n1"].right


def test_marks_are_told_in_words_and_shapes() -> None:
    node = Node("french", "/french", told="llama/french@3: rank 16", behind=True, retracted=True, tags=("prod", "best"))
    (link,) = part(drawing(node)).iter(f"{SVG}a")
    told = "llama/french@3: rank 16; retracted; behind: its parent has newer revisions; tags prod, best"
    assert link.findtext(f"{SVG}title") == told
    assert [one.text for one in link.iter(f"{SVG}text")] == ["french", "retracted", "behind", "prod", "best"]
    classes = {one.get("class") for one in link.iter()}
    assert {"plot-ring", "plot-cross"} <= classes
    plain = {one.get("class") for one in part(drawing(Node("french", "/french"))).iter()}
    assert not {"plot-ring", "plot-cross"} & plain


def test_the_current_path_and_what_was_found_are_seen() -> None:
    below = (Node("a", "/a", current=True), Node("b", "/b", found=True), Node("c", "/c"))
    root = part(drawing(Node("base", "/base", below, on_path=True)))
    by_href = {one.get("href"): one for one in root.iter(f"{SVG}a")}
    assert [href for href, one in by_href.items() if one.get("aria-current") == "page"] == ["/a"]
    halos = {
        href: {inner.get("class") for inner in one} & {"plot-current", "plot-found"} for href, one in by_href.items()
    }
    assert halos == {"/base": set(), "/a": {"plot-current"}, "/b": {"plot-found"}, "/c": set()}
    (path,) = (one.get("d") or "" for one in root.iter(f"{SVG}path") if "plot-line-path" in (one.get("class") or ""))
    assert path.count("M") == 1


def test_sizes_and_shades_follow_values() -> None:
    below = tuple(Node(f"n{n}", f"/{n}", size=n / 4, shade=n) for n in range(5))
    root = part(drawing(Node("base", "/base", below, size=-3, shade=99), Measure("rank", "4", "64")))
    circles = [one.find(f"{SVG}circle") for one in root.iter(f"{SVG}a")]
    areas = [float(one.get("r") or 0) ** 2 for one in circles if one is not None]
    steps = [right - left for left, right in pairwise(areas[1:])]
    assert max(steps) - min(steps) < 2  # a tenth of a pixel of the radius
    assert areas[0] == areas[1]
    shades = [one.get("class") for one in circles if one is not None]
    assert shades == ["plot-point plot-shade-7", *(f"plot-point plot-shade-{n}" for n in range(5))]


def test_the_legend_says_what_points_mean() -> None:
    below = (Node("a", "/a", shade=2), Node("b", "/b"))
    measures = Measure("rank", "4", "64"), Measure("accuracy", "0.1", "0.9")
    root = part(drawing(Node("base", "/base", below), *measures))
    shown = [one.text for one in root.iterfind(f"{SVG}text")]
    assert shown == ["accuracy: 0.1", "0.9", "none", "rank: 4", "64"]
    swatches = [one.get("class") for one in root.iterfind(f"{SVG}rect")]
    assert swatches == [f"plot-shade-{n}" for n in range(8)]
    bare = part(drawing(Node("base", "/base", below)))
    assert not list(bare.iterfind(f"{SVG}text"))


def test_more_is_beside_a_node_or_below_its_children() -> None:
    below = (Node("a", "/a", more=1200, more_href="/a?all"), Node("b", "/b"))
    root = part(drawing(Node("base", "/base", below, more=7)))
    links = {one.get("href"): [text.text for text in one.iter(f"{SVG}text")] for one in root.iter(f"{SVG}a")}
    assert links["/a?all"] == ["+1,200"]
    assert [one.get("href") for one in root.iter(f"{SVG}a")][-1] == "/base"
    assert links["/base"] == ["+7 more"]
    left = folded(levels(100 * WIDEST))
    boxes = texts_of(whole(drawing(left)), LETTER)
    assert boxes["+3,960 more"][0].top > boxes[f"a{WIDEST - 1}"][0].bottom
