"""JSON from strangers: what is refused, and that the message names the document and the key."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from registry.errors import InvalidAdapterError
from registry.files.strict_json import parse


def read(data: bytes, limit: int = 1_000_000) -> Any:
    return parse(data, what="adapter_config.json", limit=limit, error=InvalidAdapterError, code="bad_config")


def refusal(data: bytes, limit: int = 1_000_000) -> str:
    with pytest.raises(InvalidAdapterError) as caught:
        read(data, limit)
    assert caught.value.code == "bad_config"
    assert str(caught.value).startswith("adapter_config.json ")
    return str(caught.value)


@pytest.mark.parametrize(
    ("data", "part"),
    [
        (b'{"r": 4, "lora_alpha": 8, "r": 8}', "'r' twice"),
        (b'{"a": {"lora_alpha": 1, "lora_alpha": 1}}', "'lora_alpha' twice"),
        (b'{"a": NaN}', "NaN"),
        (b'{"a": [-Infinity]}', "-Infinity"),
        (b'{"a": 1e999}', "'1e999'"),
        (b'{"a": -0}', "integer -0"),
        (b'{"a": ' + b"9" * 5000 + b"}", "20 digits"),
        (b'{"a": "\xff"}', "not UTF-8 (byte 7)"),
        (b"\xef\xbb\xbf{}", "not valid JSON"),
        (b'{"a": 1} x', "column 10"),
        (b"", "not valid JSON"),
        (b'{"a": "\\ud800"}', "surrogate"),
        (b'{"\\u0000": 1}', "NUL"),
        (b"[" * 65 + b"]" * 65, "64 levels"),
        (b"[" * 200_000, "64 levels"),
        (b'{"a":' * 100_000, "64 levels"),
    ],
)
def test_refused(data: bytes, part: str) -> None:
    assert part in refusal(data)


def test_the_size_is_checked_before_anything_is_read() -> None:
    assert "has 11 bytes, at most 10" in refusal(b"[" * 11, limit=10)


def test_a_long_key_is_cut_in_the_message() -> None:
    key = b'"' + b"k" * 10_000 + b'"'
    assert len(refusal(b"{" + key + b":1," + key + b":2}")) < 400


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**18), 10**18)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00")),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text('abé\n"', max_size=4), inner, max_size=4),
    max_leaves=20,
)


@settings(deadline=None)
@given(JSON, st.booleans())
def test_what_is_written_is_read_back(document: Any, plain: bool) -> None:
    assert read(json.dumps(document, ensure_ascii=plain).encode()) == document


@settings(deadline=None)
@given(st.binary(max_size=60) | st.text('{}[]",:\\u0dn1e-+.NaIfity', max_size=40).map(str.encode))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    code = "read"
    try:
        read(data)
    except InvalidAdapterError as problem:
        code = problem.code
    assert code in ("read", "bad_config")
