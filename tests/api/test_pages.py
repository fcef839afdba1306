"""Pages and their cursors."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.api.pages import cursor_to, number_key, page, text_key
from registry.http.problems import MalformedError


@given(st.text())
def test_a_cursor_of_a_text_leads_back_to_it(key: str) -> None:
    assert text_key(cursor_to(key)) == key


@given(st.integers(0, (1 << 63) - 1))
def test_a_cursor_of_a_number_leads_back_to_it(key: int) -> None:
    assert number_key(cursor_to(key)) == key


@given(st.text(max_size=60))
def test_what_is_no_cursor_is_refused(text: str) -> None:
    for read in (text_key, number_key):
        try:
            key = read(text)
        except MalformedError:
            continue
        assert cursor_to(key) != ""  # type: ignore[arg-type]


def test_a_cursor_of_another_list_is_refused() -> None:
    for read, key in (
        (text_key, 3),
        (number_key, "llama"),
        (number_key, True),
        (number_key, -1),
        (number_key, 1 << 63),
    ):
        with pytest.raises(MalformedError):
            read(cursor_to(key))


def test_a_page_leads_on_only_where_there_is_more() -> None:
    assert page([1, 2, 3], 3, lambda n: n).next is None
    there = page([1, 2, 3, 4], 3, lambda n: n)
    assert there.items == (1, 2, 3)
    assert number_key(there.next) == 3
