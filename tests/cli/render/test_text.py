"""Numbers, layout and options: small pure functions on many values."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry import figures as words
from registry.cli.options import parse_annotations, parse_metrics
from registry.cli.render.screen import Line, flow, table
from registry.errors import UsageError
from registry.figures import Span
from registry.figures import words as spans_of


def test_shares() -> None:
    assert words.percent(0.00286) == "0.29 %"
    assert words.percent(0.5) == "50 %"
    assert words.numbers([2, 1.4142135623]) == "2, 1.41421"


WORD = st.text(st.sampled_from("abcdefg.@/"), min_size=1, max_size=30)
ITEM = st.lists(WORD.map(Span), max_size=4)


def text_of(line: Line) -> str:
    return "".join(span.text for span in line)


@given(st.lists(ITEM, max_size=8), st.integers(1, 60))
def test_flow_keeps_every_span_whole_and_fits_where_it_can(items: list[list[Span]], width: int) -> None:
    lines = flow(items, width)
    assert " ".join(text_of(line) for line in lines).split() == [span.text for item in items for span in item]
    for line in lines:
        assert sum(span.cells for span in line) <= width or len([span for span in line if span.text.strip()]) == 1


@given(
    st.lists(st.tuples(st.tuples(WORD, WORD), st.lists(ITEM, max_size=4)), min_size=1, max_size=5),
    st.none() | st.integers(10, 120),
    st.integers(0, 4),
)
def test_table_says_everything_at_every_width(
    rows: list[tuple[tuple[str, str], list[list[Span]]]], width: int | None, indent: int
) -> None:
    lines = table([([Span(a), Span(b)], items) for (a, b), items in rows], width, indent=indent, right=(1,))
    said = " ".join(text_of(line) for line in lines).split()
    assert said == [word for (a, b), items in rows for word in (a, b, *(span.text for item in items for span in item))]
    if width is None:
        assert len(lines) == len(rows)
    for line in lines:
        text = text_of(line)
        assert text == text.rstrip()
        # A word that is wider than a line has the line for itself.
        assert width is None or len(text) <= width or len(text.split()) == 1


def test_wide_characters_take_two_columns() -> None:
    assert Span("日本").cells == 4
    assert Span("e\u0301").cells == 1
    assert [text_of(line) for line in flow([spans_of("日本 日本")], 8)] == ["日本", "日本"]


@given(st.dictionaries(st.text(st.sampled_from("abc_/"), min_size=1), st.floats(allow_nan=False, allow_infinity=False)))
def test_metrics_read_back(metrics: dict[str, float]) -> None:
    assert parse_metrics([f"{name}={value!r}" for name, value in metrics.items()]) == metrics


@given(st.floats())
def test_a_metric_is_finite(value: float) -> None:
    if math.isfinite(value):
        assert parse_metrics([f"x={value!r}"]) == {"x": value}
    else:
        with pytest.raises(UsageError):
            parse_metrics([f"x={value!r}"])


def test_annotations_keep_what_follows_the_first_equals_sign() -> None:
    assert parse_annotations(["a=b=c", "empty=", "a=b=c"]) == {"a": "b=c", "empty": ""}
    assert parse_annotations(None) == {}
