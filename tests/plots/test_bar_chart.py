"""Bars: lengths by value, parts side by side, and totals beside them."""

from __future__ import annotations

import pytest

from registry.plots.charts import Bar, BarChart
from tests.plots.pictures import SVG, frame_of, part, texts_of


def chart(*bars: Bar) -> BarChart:
    return BarChart("What is stored", "Beside full checkpoints.", bars, lambda value: f"{value:g} GB")


def widths(drawing: BarChart) -> dict[str, tuple[float, float]]:
    """Where each part begins, and how wide it is."""
    rects = [one for one in part(drawing).iter(f"{SVG}rect") if len(one)]
    return {
        one.findtext(f"{SVG}title") or "": (float(one.get("x") or 0), float(one.get("width") or 0)) for one in rects
    }


def test_lengths_follow_values_and_parts_stand_side_by_side() -> None:
    found = widths(chart(Bar("stored", {"base": 100, "adapters": 50}), Bar("full", {"base": 600})))
    (base, width), (adapters, half), (full, longest) = found.values()
    assert list(found) == ["stored, base: 100 GB", "stored, adapters: 50 GB", "full, base: 600 GB"]
    assert width == pytest.approx(2 * half, abs=0.1)
    assert longest == pytest.approx(6 * width, abs=0.5)
    assert base == full
    assert adapters == pytest.approx(base + width + 1, abs=0.1)


def test_what_is_almost_nothing_is_seen_and_nothing_is_not() -> None:
    found = widths(chart(Bar("stored", {"adapters": 1e-6, "materialised": 0}), Bar("full", {"adapters": 1e6})))
    assert [width >= 2 for _, width in found.values()] == [True, True]
    assert widths(chart(Bar("stored", {"adapters": 0}))) == {}
    assert widths(chart()) == {}


def test_names_and_totals_are_written_and_fit() -> None:
    root = part(chart(Bar("stored", {"base": 1, "adapters": 2}), Bar("a rather long name of a bar", {"models": 900})))
    texts = texts_of(root, 6.0)
    assert list(texts) == ["stored", "3 GB", "a rather long name of a bar", "900 GB", "base", "adapters", "models"]
    assert all(box.inside(frame_of(root)) for boxes in texts.values() for box in boxes)


def test_a_name_has_one_colour_in_every_bar_and_one_alone_needs_no_legend() -> None:
    root = part(chart(Bar("stored", {"base": 1, "adapters": 2}), Bar("full", {"models": 3, "base": 1})))
    looks = {(one.findtext(f"{SVG}title") or "").split(": ")[0]: one.get("class") for one in root.iter(f"{SVG}rect")}
    assert looks["stored, base"] == looks["full, base"]
    assert len({looks["stored, base"], looks["stored, adapters"], looks["full, models"]}) == 3
    alone = part(chart(Bar("stored", {"all": 1}), Bar("full", {"all": 3})))
    assert [one.text for one in alone.iter(f"{SVG}text")] == ["stored", "1 GB", "full", "3 GB"]
