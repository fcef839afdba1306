"""Which bytes a request asks for."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.datastructures import Headers

from registry.http.conditional import Part, Unsatisfiable, Whole, asked_range, has, names, still


@pytest.mark.parametrize(
    ("header", "size", "asked"),
    [
        (None, 10, Whole()),
        ("bytes=0-0", 10, Part(0, 1)),
        ("bytes=2-5", 10, Part(2, 6)),
        ("bytes=2-", 10, Part(2, 10)),
        ("bytes=2-99", 10, Part(2, 10)),
        ("bytes=-3", 10, Part(7, 10)),
        ("bytes=-99", 10, Part(0, 10)),
        ("BYTES = 2 - 5", 10, Part(2, 6)),
        ("bytes=10-", 10, Unsatisfiable()),
        ("bytes=-0", 10, Unsatisfiable()),
        ("bytes=0-", 0, Unsatisfiable()),
        ("bytes=-5", 0, Unsatisfiable()),
        ("bytes=5-2", 10, Whole()),
        ("bytes=-", 10, Whole()),
        ("bytes=0-1,4-5", 10, Whole()),
        ("rows=0-1", 10, Whole()),
        ("bytes=x-1", 10, Whole()),
        ("bytes=2-" + "9" * 20, 10, Part(2, 10)),  # more than 64 bits hold
        ("bytes=2-" + "9" * 5000, 10, Part(2, 10)),  # more than Python converts
        ("bytes=-" + "9" * 5000, 10, Part(0, 10)),
        ("bytes=" + "0" * 5000 + "2-" + "0" * 30 + "5", 10, Part(2, 6)),
        ("bytes=1" + "0" * 40 + "-", 10, Unsatisfiable()),
        ("bytes=" + "9" * 30 + "-" + "9" * 31, 10, Unsatisfiable()),
        ("bytes=٣-٤", 10, Whole()),
    ],
)
def test_a_range_is_read_as_the_standard_says(header: str | None, size: int, asked: object) -> None:
    assert asked_range(header, size) == asked


@given(st.text(max_size=40) | st.from_regex(r"bytes=[0-9]{0,4}-[0-9]{0,4}", fullmatch=True), st.integers(0, 3000))
def test_a_range_is_never_outside_the_file(header: str, size: int) -> None:
    asked = asked_range(header, size)
    if isinstance(asked, Part):
        assert 0 <= asked.start < asked.stop <= size


@given(st.integers(1, 1000).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n - 1), st.integers(1, n))))
def test_the_three_forms_name_the_same_bytes(drawn: tuple[int, int, int]) -> None:
    size, start, count = drawn
    stop = min(start + count, size)
    assert asked_range(f"bytes={start}-{stop - 1}", size) == Part(start, stop)
    assert asked_range(f"bytes={start}-", size) == asked_range(f"bytes=-{size - start}", size) == Part(start, size)


@pytest.mark.parametrize(
    ("header", "named"),
    [
        (None, False),
        ("*", True),
        ('"abc"', True),
        ('W/"abc"', True),
        ('"x", "abc"', True),
        ('"abcd"', False),
        ("abc", False),
        ('""', False),
    ],
)
def test_a_tag_is_named(header: str | None, named: bool) -> None:
    assert names(header, "abc") is named


def test_a_list_of_tags_may_come_in_several_headers() -> None:
    headers = Headers(raw=[(b"if-none-match", b'"x", W/"y"'), (b"host", b"z"), (b"if-none-match", b'"abc"')])
    assert has(headers, "abc")
    assert not has(headers, "z")
    assert not has(Headers(), "abc")


@pytest.mark.parametrize(
    ("header", "same"),
    [
        (None, True),
        ('"abc"', True),
        ('W/"abc"', False),
        ('"other"', False),
        ("Wed, 25 Nov 2026 09:30:00 GMT", False),
        ("*", False),
    ],
)
def test_a_range_goes_on_only_with_the_very_same_bytes(header: str | None, same: bool) -> None:
    assert still(header, "abc") is same
