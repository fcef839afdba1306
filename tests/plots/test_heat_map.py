"""Heat maps: shades by value, labels that stay readable, and nothing that people wrote is markup."""

from __future__ import annotations

from xml.etree import ElementTree
from xml.etree.ElementTree import Element

from registry.plots.heat_map import HeatMap, Scale, around_zero, from_zero

SVG = "{http://www.w3.org/2000/svg}"


def drawn(values: dict[tuple[str, str], float], scale: Scale | None = None, **changes: str) -> Element:
    rows = sorted({row for row, _ in values})
    columns = sorted({column for _, column in values}, key=int)
    words = {"title": "Change", "about": "By layer.", "across": "layer", "unit": "of the weight", **changes}
    scale = scale or from_zero(values.values())
    made = HeatMap(rows=rows, columns=columns, values=values, scale=scale, word=lambda value: f"{value:g}", **words)
    return ElementTree.fromstring(made.svg())


def cells(root: Element) -> dict[str, str]:
    """Classes of the cells by their titles."""
    found = {}
    for one in root.iter(f"{SVG}rect"):
        title = one.find(f"{SVG}title")
        if title is not None:
            found[title.text or ""] = one.get("class") or ""
    return found


def test_shades_go_from_nothing_to_the_largest() -> None:
    values = {("q", str(n)): n / 4 for n in range(9)}
    shades = [int(one.removeprefix("plot-shade-")) for one in cells(drawn(values)).values()]
    assert shades == sorted(shades)
    assert (shades[0], shades[-1]) == (0, len(from_zero([]).shades) - 1)
    assert set(cells(drawn({("q", "0"): 0.0})).values()) == {"plot-shade-0"}


def test_values_with_a_sign_meet_in_the_middle() -> None:
    values = {("q", str(n)): (n - 4) / 10 for n in range(9)}
    scale = around_zero(values.values(), (0.1, 0.4, 1.0))
    root = drawn(values, scale)
    below, above = ([f"plot-{name}-{n}" for n in range(1, 5)] for name in ("below", "above"))
    assert list(cells(root).values()) == [*reversed(below), "plot-middle", *above]
    legend = [one.get("class") for one in root.iter(f"{SVG}rect") if one.get("height") == "12"]
    assert legend == scale.shades
    assert {"-0.4", "0.4 of the weight"} <= {one.text for one in root.iter(f"{SVG}text")}
    style = "".join(one.text or "" for one in root.iter(f"{SVG}style"))
    assert all(style.count(f".{shade} ") == 2 for shade in scale.shades)  # in light and in dark


def test_the_scale_of_two_hues_reaches_as_far_as_its_values() -> None:
    ends = (0.1, 0.5, 1.0)
    assert [around_zero([value, 0.01], ends).highest for value in (0.0, -0.1, 0.2, -0.7, 1.5)] == [0.1, 0.1, 0.5, 1, 1]
    assert around_zero([], ends).shade(0.0) == "plot-middle"


def test_what_is_not_there_is_blank() -> None:
    assert set(cells(drawn({("q", "0"): 1.0, ("v", "1"): 2.0}))) == {"q, layer 0: 1", "v, layer 1: 2"}


def test_columns_are_labelled_without_touching() -> None:
    for count, most in ((6, 6), (32, 12), (120, 16)):
        root = drawn({("q", str(n)): 1.0 for n in range(count)})
        labels = [one.text for one in root.iter(f"{SVG}text") if (one.text or "").isdecimal()]
        assert len(labels) - 1 <= most  # the legend's 0
        assert float(root.get("width") or 0) >= 20 * count


def test_what_people_wrote_is_escaped() -> None:
    name = '<script>alert("&")</script>'
    root = drawn({(name, "0"): 1.0}, title=name, about=name, unit=name)
    assert not list(root.iter(f"{SVG}script"))
    assert sum(name in (one.text or "") for one in root.iter()) == 6  # title twice, about, row, cell, unit


def test_everything_fits_into_the_picture() -> None:
    root = drawn({("q", "0"): 1.0}, title="A title that is a good deal wider than its only cell")
    width, height = float(root.get("width") or 0), float(root.get("height") or 0)
    for one in root.iter(f"{SVG}rect"):
        assert float(one.get("x") or 0) + float(one.get("width") or 0) <= width
        assert float(one.get("y") or 0) + float(one.get("height") or 0) <= height
    for one in root.iter(f"{SVG}text"):
        if one.get("text-anchor") is None:
            assert float(one.get("x") or 0) + 7 * len(one.text or "") <= width
