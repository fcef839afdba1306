"""NaN and infinity are found while a file passes by, wherever chunks end."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from registry.errors import InvalidAdapterError
from registry.files.header import SIZES, TensorEntry
from registry.tensors.arithmetic.dtypes import FLOATS
from registry.tensors.arithmetic.streamed import FiniteWatch

BAD = [float("nan"), float("inf"), float("-inf")]


def as_bytes(values: torch.Tensor) -> bytes:
    return values.contiguous().view(torch.uint8).numpy().tobytes()


def watch(entries: list[TensorEntry], data: bytes, sizes: list[int]) -> None:
    seen = FiniteWatch({entry.name: entry for entry in entries})
    at, turn = 0, 0
    while at < len(data):
        size = sizes[turn % len(sizes)]
        seen(at, memoryview(data)[at : at + size])
        at, turn = at + size, turn + 1


@pytest.mark.parametrize("dtype", FLOATS)
def test_largest_and_smallest_values_are_finite(dtype: str) -> None:
    info = torch.finfo(FLOATS[dtype])
    values = torch.tensor([info.max, info.min, info.tiny, -info.tiny, 0.0, -0.0, 1.0], dtype=FLOATS[dtype])
    data = as_bytes(values)
    for size in (1, 3, 8, len(data)):
        watch([TensorEntry("a", dtype, (7,), 0, len(data))], data, [size])


@settings(deadline=None)
@given(
    dtype=st.sampled_from(list(FLOATS)),
    bad=st.sampled_from(BAD),
    place=st.integers(0, 11),
    before=st.integers(0, 9),
    sizes=st.lists(st.integers(1, 40), min_size=1, max_size=4),
)
def test_a_bad_element_is_named(dtype: str, bad: float, place: int, before: int, sizes: list[int]) -> None:
    first, second = torch.arange(5, dtype=FLOATS[dtype]), torch.arange(12, dtype=FLOATS[dtype])
    size, head = SIZES[dtype], b"\xff" * before  # bytes of a header are nobody's weights
    entries = [
        TensorEntry("first", dtype, (5,), before, before + 5 * size),
        TensorEntry("second", dtype, (3, 4), before + 5 * size, before + 17 * size),
    ]
    watch(entries, head + as_bytes(first) + as_bytes(second), sizes)
    second[place] = bad
    with pytest.raises(InvalidAdapterError) as caught:
        watch(entries, head + as_bytes(first) + as_bytes(second), sizes)
    assert caught.value.code == "non_finite"
    assert f"'second' of shape (3, 4) contains NaN or infinity, first at element {[place // 4, place % 4]}" in str(
        caught.value
    )


def test_in_a_later_block_of_a_large_chunk() -> None:
    values = torch.zeros(1_000_000)
    values[777_777] = float("inf")
    data = as_bytes(values)
    with pytest.raises(InvalidAdapterError, match=r"element \[777777\]"):
        watch([TensorEntry("a", "F32", (1_000_000,), 0, len(data))], data, [len(data)])


def test_integers_are_not_looked_at() -> None:
    data = np.full(8, 0xFF, dtype=np.uint8).tobytes()
    watch([TensorEntry("a", "U8", (8,), 0, 8)], data, [3])


def test_chunks_must_follow_each_other() -> None:
    with pytest.raises(ValueError, match="expected 0"):
        FiniteWatch({})(4, memoryview(b"abcd"))
