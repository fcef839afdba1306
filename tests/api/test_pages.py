"""Pages and their cursors."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.api.pages import cursor_to, number_key, page, text_key, texts_key
from registry.http.problems import MalformedError

PLAIN = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))


@given(PLAIN)
def test_a_cursor_of_a_text_leads_back_to_it(key: str) -> None:
    assert text_key(cursor_to(key)) == key


@given(st.lists(PLAIN, max_size=4))
def test_a_cursor_of_texts_leads_back_to_them(key: list[str]) -> None:
    assert texts_key(cursor_to(key), len(key)) == tuple(key)
    with pytest.raises(MalformedError):
        texts_key(cursor_to(key), len(key) + 1)


@pytest.mark.parametrize("text", ["\0", "a\ud800"])
def test_a_text_that_no_database_takes_is_no_key(text: str) -> None:
    with pytest.raises(MalformedError):
        text_key(cursor_to(text))
    with pytest.raises(MalformedError):
        texts_key(cursor_to(["a", text]), 2)


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
        (text_key, ["llama"]),
    ):
        with pytest.raises(MalformedError):
            read(cursor_to(key))


def test_a_page_leads_on_only_where_there_is_more() -> None:
    assert page([1, 2, 3], 3, lambda n: n).next is None
    there = page([1, 2, 3, 4], 3, lambda n: n)
    assert there.items == (1, 2, 3)
    assert number_key(there.next) == 3
