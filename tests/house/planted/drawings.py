"""Drawings: where things stand, what is folded and counted, and what people wrote."""

from __future__ import annotations

from typing import Final

from tests.house.planted.mutant import Mutant

DRAWINGS: Final = (
    Mutant(
        "a-contour-without-its-offset",
        "_apportion",
        "outer_left._mod += moved_inner_right - moved_outer_left",
        "outer_left._mod += 0.0",
        "test_a_deep_child_after_a_shallow_one_is_tidy",
    ),
    Mutant(
        "cousins-as-near-as-siblings",
        "_apportion",
        "SIBLINGS if left.parent is right.parent else COUSINS",
        "SIBLINGS",
        "test_tidy.py",
    ),
    Mutant(
        "folded-without-what-is-below",
        "nodes:_only",
        "hidden.get(row.parent, 0) + 1 + more",
        "hidden.get(row.parent, 0) + 1",
        "test_every_node_is_drawn_or_counted_once",
    ),
    Mutant(
        "children-of-what-is-cut",
        "folded",
        "at not in chosen and rows[at].parent in chosen and",
        "at not in chosen and",
        "test_children_of_what_is_cut_are_not_drawn",
    ),
    Mutant(
        "a-line-through-a-name",
        "_lanes",
        "if end > start",
        "if end > start + 40",
        "test_names_of_marks_touch_neither_each_other_nor_lines_of_others",
    ),
    Mutant(
        "points-of-any-number",
        "Scatter._gathered",
        "len(groups) <= _MOST",
        "len(groups) >= 0",
        "test_ten_thousand_points_fit_into_a_page",
    ),
    Mutant(
        "characters-that-xml-lacks",
        "_printable",
        "not value.isprintable()",
        "not value",
        "test_drawing.py",
    ),
)
