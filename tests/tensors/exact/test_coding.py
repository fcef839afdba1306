"""One frame: every byte comes back, and what is no frame of that size is refused."""

from __future__ import annotations

import tracemalloc

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from registry.errors import IntegrityError
from registry.tensors.exact.file_format import FRAME, decode_frame, encode_frame, largest_frame


@given(st.sampled_from([1, 2, 4, 8]), st.data())
def test_all_bytes_come_back(element: int, data: st.DataObject) -> None:
    values = data.draw(
        st.binary(min_size=element, max_size=40 * element).map(lambda raw: raw[: -(len(raw) % element) or None])
    )
    against = data.draw(st.binary(max_size=len(values)).map(lambda raw: raw[: len(raw) - len(raw) % element]))
    frame = encode_frame(memoryview(values), memoryview(against), element)
    assert len(frame) <= largest_frame(len(values))
    assert bytes(decode_frame(memoryview(frame), len(values), memoryview(against), element, "it")) == values


def test_small_differences_take_little() -> None:
    base = bytes(range(256)) * (FRAME // 256)
    moved = bytearray(base)
    moved[::1000] = bytes((value + 1) % 256 for value in moved[::1000])
    assert len(encode_frame(memoryview(moved), memoryview(base), 2)) < FRAME // 200


def _frame(size: int) -> bytes:
    return encode_frame(memoryview(bytes(size)), memoryview(b""), 2)


@pytest.mark.parametrize(
    "frame",
    [
        b"",
        b"no zstd at all",
        _frame(64)[:-1],
        _frame(66),
        _frame(62),
        _frame(64) + b"\0",
        _frame(64) + _frame(64),
        zstandard.ZstdCompressor(write_content_size=False).compress(bytes(64)),
    ],
    ids=["empty", "foreign", "cut", "longer", "shorter", "tail", "two", "unsized"],
)
def test_what_is_no_frame_of_that_size_is_refused(frame: bytes) -> None:
    with pytest.raises(IntegrityError) as refused:
        decode_frame(memoryview(frame), 64, memoryview(b""), 2, "Frame 3")
    assert refused.value.code == "bad_exact"
    assert str(refused.value).startswith("Frame 3 ")


def test_a_frame_that_unfolds_to_much_takes_no_memory() -> None:
    bomb = zstandard.ZstdCompressor().compress(bytes(1 << 28))
    assert len(bomb) < largest_frame(FRAME)
    tracemalloc.start()
    try:
        with pytest.raises(IntegrityError, match="holds 268435456 bytes where 1048576 are expected"):
            decode_frame(memoryview(bomb), FRAME, memoryview(b""), 2, "it")
        assert tracemalloc.get_traced_memory()[1] < 16 * FRAME
    finally:
        tracemalloc.stop()
