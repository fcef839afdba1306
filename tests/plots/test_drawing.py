"""What all drawings share: whole or a part of a page, one style, and no markup that people wrote."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from registry.plots.charts import SERIES, Axis, Bar, BarChart, LineChart, Mark, Point, Sparkline
from registry.plots.drawing import HEADING, Drawing, Measure, stylesheet
from registry.plots.heat_map import HeatMap, from_zero
from registry.plots.nodes import Node
from registry.plots.scatter import Dot, Reference, Scatter
from registry.plots.tree_drawing import TreeDrawing
from tests.plots.pictures import SVG, frame_of, part, whole

CLASS = re.compile(r"\.(plot[\w-]*)")


def drawings(text: str = "text") -> list[Drawing]:
    """One of each kind, with this wherever people write something."""
    values = {(text, text): 1.0}

    def word(value: float) -> str:
        return f"{value} {text}"

    axis, measure = Axis(text, word), Measure(text, text, text)
    dots = [
        Dot(*place, text, text, text, shade=2, current=not n)
        for n, place in enumerate([(1, 1), (3, 5), (3, 5), (9, 1)])
    ]
    below = (
        Node(text, text, told=text, tags=(text,), more=1, more_href=text, behind=True, retracted=True, found=True),
    )
    return [
        HeatMap(text, text, [text], [text], text, text, values, from_zero([1.0]), word),
        TreeDrawing(text, text, Node(text, text, below, current=True, shade=3), measure, measure),
        Sparkline(text, text, [Point(1, 2, text), Point(2, None, text), Point(3, 1, text)], word),
        LineChart(text, text, axis, axis, [Point(1, 2, text), Point(2, 3, text)], [Mark(2, text), Mark(1, text, True)]),
        Scatter(text, text, axis, axis, dots, text, Reference(9, 9, text), measure),
        BarChart(text, text, [Bar(text, {text: 1, "other": 2})], word),
    ]


KINDS = [type(one).__name__ for one in drawings()]


def luminance(colour: str) -> float:
    """As WCAG 2 has it."""
    parts = [int(colour[n : n + 2], 16) / 255 for n in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("n", range(len(KINDS)), ids=KINDS)
def test_a_part_of_a_page_is_the_document_without_its_heading(n: int) -> None:
    drawing = drawings()[n]
    document, inside = whole(drawing), part(drawing)
    assert frame_of(document).bottom == frame_of(inside).bottom
    assert frame_of(inside).top == HEADING
    parts = [ElementTree.tostring(one) for one in inside]
    assert [ElementTree.tostring(one) for one in document][-len(parts) :] == parts
    heading = [one.tag.removeprefix(SVG) for one in document][: -len(parts)]
    assert heading == ["title", "desc", "style", "rect", "text"]
    assert document.get("aria-label") == inside.get("aria-label") == "text. text"
    assert document.findtext(f"{SVG}style", "").strip() == stylesheet().strip()


@pytest.mark.parametrize("n", range(len(KINDS)), ids=KINDS)
@settings(deadline=None)
@given(text=st.text(st.characters(codec="utf-8"), min_size=1, max_size=12))
def test_nothing_that_people_wrote_is_markup(n: int, text: str) -> None:
    plain, written = drawings()[n], drawings(text)[n]
    for make in (whole, part):
        assert [one.tag for one in make(written).iter()] == [one.tag for one in make(plain).iter()]


@pytest.mark.parametrize("n", range(len(KINDS)), ids=KINDS)
def test_every_class_has_a_style(n: int) -> None:
    styled = {*CLASS.findall(stylesheet()), "plot"}
    used = {name for one in part(drawings()[n]).iter() for name in (one.get("class") or "").split()}
    assert used <= styled


def test_an_image_has_no_links_and_a_group_has_some() -> None:
    for drawing in drawings():
        root = part(drawing)
        assert root.get("role") == ("group" if list(root.iter(f"{SVG}a")) else "img")


def test_the_style_is_about_plots_only() -> None:
    css = re.sub(r"@media[^{]*\{", "", stylesheet())
    for selectors in re.findall(r"([^{}]+)\{[^}]*\}", css):
        for selector in selectors.split(","):
            assert selector.strip().startswith(".plot")


def colours(css: str, of: str) -> dict[str, str]:
    """The colour of each class, where it has one."""
    rules = re.findall(r"([^{}]+)\{([^}]*)\}", css)
    found: dict[str, str] = {}
    for selectors, body in rules:
        if colour := re.search(rf"\b{of}: (#[0-9a-f]{{6}})", body):
            found |= {selector.strip().removeprefix(".plot-"): colour[1] for selector in selectors.split(",")}
    return found


def test_text_and_lines_can_be_seen_in_light_and_in_dark() -> None:
    light, dark = stylesheet().split("@media (prefers-color-scheme: dark) {")
    for css, ground in ((light, "#ffffff"), (dark, "#0d1117")):
        fills, strokes = colours(css, "fill"), colours(css, "stroke")
        assert fills["ground"] == ground
        texts = ("title", "label", "name", "small", "struck", "behind", "retracted", "value", "label-own")
        on_others = (("name", "current"), ("name", "found"), ("small", "tag"), ("small", "more"), ("small", "cell"))
        grounds = [(fills[name], ground) for name in texts] + [(fills[name], fills[below]) for name, below in on_others]
        assert min(contrast(*pair) for pair in grounds) >= 4.5
        lines = ("line", "line-path", "point", "ring", "cross", "current", "curve", "mark", "mark-own", "axis", "cell")
        shapes = ("dot", "dot-own", "reference", *(f"series-{n}" for n in range(SERIES)))
        seen = [*(strokes[name] for name in lines), *(fills[name] for name in shapes)]
        assert min(contrast(colour, ground) for colour in seen) >= 3


def test_charts_have_their_values_in_words_and_say_when_they_have_none() -> None:
    def word(value: float) -> str:
        return f"{value:g} GB"

    values = {("q", "1"): 1.0, ("v", "2"): 2.0}
    x, y = Axis("rank"), Axis("kept", word)
    bars = [Bar("stored", {"base": 1, "adapters": 2}), Bar("full", {"base": 6})]
    dots = [Dot(1, 2, "a", "/a"), Dot(float("nan"), 2, "nowhere", "/b")]
    told = [
        (HeatMap("t", "a", ["q", "v"], ["1", "2"], "layer", "u", values, from_zero([2.0]), word),
         ["layer", "1", "2"], [["q", "1 GB", "–"], ["v", "–", "2 GB"]]),
        (BarChart("t", "a", bars, word),
         ["", "base", "adapters", "together"], [["stored", "1 GB", "2 GB", "3 GB"], ["full", "6 GB", "0 GB", "6 GB"]]),
        (LineChart("t", "a", x, y, [Point(1, 2), Point(2, None)]), ["rank", "kept"], [["1", "2 GB"], ["2", "–"]]),
        (Scatter("t", "a", x, y, dots, "adapters"), ["adapters", "rank", "kept"], [["a", "1", "2 GB"]]),
    ]  # fmt: skip
    for drawing, head, rows in told:
        table = drawing.table()
        assert table is not None
        assert (list(table.head), [list(row) for row in table.rows]) == (head, rows)
        assert "no values" not in drawing.inline()
    for empty in (
        HeatMap("t", "a", [], [], "layer", "u", {}, from_zero([]), word),
        BarChart("t", "a", [], word),
        LineChart("t", "a", x, y, []),
        Scatter("t", "a", x, y, []),
    ):
        assert ">no values</text>" in empty.inline()
        found = empty.table()
        assert found is not None
        assert list(found.rows) == []
    assert Sparkline("t", "a", []).table() is None
