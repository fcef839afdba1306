"""Sums of the squares of the rows of tensors, while a file passes by: exact, wherever chunks and blocks end."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from registry.files.header import SIZES, TensorEntry
from registry.tensors.arithmetic import streamed
from registry.tensors.arithmetic.dtypes import FLOATS
from registry.tensors.arithmetic.streamed import EnergyWatch, RowEnergies


def laid(*tensors: tuple[str, torch.Tensor], before: bytes = b"") -> tuple[dict[str, TensorEntry], bytes]:
    """The tensors of a file, one after another, and its bytes."""
    entries, data = {}, before
    for number, (dtype, values) in enumerate(tensors):
        raw = values.reshape(-1).view(torch.uint8).numpy().tobytes()
        name = f"t{number}"
        entries[name] = TensorEntry(name, dtype, tuple(values.shape), len(data), len(data) + len(raw))
        data += raw
    return entries, data


def watched(entries: dict[str, TensorEntry], data: bytes, sizes: list[int]) -> dict[str, RowEnergies]:
    watch, at, turn = EnergyWatch(entries), 0, 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        while at < len(data):
            size = sizes[turn % len(sizes)]
            watch(at, memoryview(data)[at : at + size])
            at, turn = at + size, turn + 1
    return watch.tensors


def expected(values: torch.Tensor) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    """An independent sum: math.fsum is exact, and rounds once."""
    rows = values.reshape(values.shape[0], -1) if values.ndim else values.reshape(1, 1)
    return np.array([math.fsum(float(one) ** 2 for one in row) for row in rows.double()])


@settings(deadline=None, max_examples=60)
@given(
    dtype=st.sampled_from(list(FLOATS)),
    shapes=st.lists(st.lists(st.integers(1, 7), min_size=0, max_size=4).map(tuple), min_size=1, max_size=4),
    before=st.integers(0, 9),
    sizes=st.lists(st.integers(1, 70), min_size=1, max_size=4),
    block=st.integers(1, 40),
)
def test_every_row_wherever_chunks_and_blocks_end(
    dtype: str, shapes: list[tuple[int, ...]], before: int, sizes: list[int], block: int
) -> None:
    generator = torch.Generator().manual_seed(7)
    tensors = [(dtype, torch.randn(shape, generator=generator).to(FLOATS[dtype])) for shape in shapes]
    entries, data = laid(*tensors, before=b"\xff" * before)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(streamed, "_BLOCK", block)
        patch.setattr(streamed, "_DOT", 3)
        found = watched(entries, data, sizes)
        again = watched(entries, data, [len(data)])
    for name, (_, values) in zip(entries, tensors, strict=True):
        np.testing.assert_allclose(found[name].rows, expected(values), rtol=1e-14)
        assert (found[name].rows == again[name].rows).all()  # the sums do not depend on chunks


def test_long_rows_and_many_blocks() -> None:
    wide = torch.randn(3, 50_001, generator=torch.Generator().manual_seed(1)).bfloat16()
    many = torch.randn(5_000, 67, generator=torch.Generator().manual_seed(2))
    entries, data = laid(("BF16", wide), ("F32", many))
    found = watched(entries, data, [1 << 20])
    np.testing.assert_allclose(found["t0"].rows, (wide.double() ** 2).sum(1), rtol=1e-13)
    np.testing.assert_allclose(found["t1"].rows, (many.double() ** 2).sum(1), rtol=1e-13)
    assert found["t1"].between(67 * 10, 67 * 20) == pytest.approx(float((many[10:20].double() ** 2).sum()), rel=1e-13)
    with pytest.raises(ValueError, match="whole rows"):
        found["t1"].between(0, 100)


@pytest.mark.parametrize("dtype", FLOATS)
def test_the_largest_and_the_smallest_values(dtype: str) -> None:
    info = torch.finfo(FLOATS[dtype])
    values = torch.tensor([[info.max, 1.0], [info.smallest_normal, 0.0], [2.0, -3.0]], dtype=FLOATS[dtype])
    entries, data = laid((dtype, values))
    rows = watched(entries, data, [5])["t0"].rows
    assert rows[2] == 13.0
    if dtype != "F64":  # whose squares have no place in it
        np.testing.assert_allclose(rows[:2], [float(info.max) ** 2 + 1, float(info.smallest_normal) ** 2], rtol=1e-15)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_finite_stays_so(dtype: str, bad: float) -> None:
    entries, data = laid((dtype, torch.tensor([[1.0, bad], [1.0, 2.0]], dtype=FLOATS[dtype])))
    rows = watched(entries, data, [3])["t0"].rows
    assert not np.isfinite(rows[0])
    assert rows[1] == 5.0


def test_a_signalling_nan_is_no_warning() -> None:
    entries = {"a": TensorEntry("a", "BF16", (1, 2), 0, 4)}
    assert np.isnan(watched(entries, np.array([0x7F81, 0x3F80], "<u2").tobytes(), [4])["a"].rows[0])


def test_whole_numbers_are_not_looked_at_and_empty_tensors_have_no_energy() -> None:
    entries = {
        "steps": TensorEntry("steps", "I64", (2,), 0, 16),
        "none": TensorEntry("none", "F32", (0, 5), 16, 16),
        "flat": TensorEntry("flat", "F32", (5, 0), 16, 16),
        "one": TensorEntry("one", "F32", (1,), 16, 20),
    }
    found = watched(entries, b"\xff" * 16 + np.array([3], "<f4").tobytes(), [7])
    assert sorted(found) == ["flat", "none", "one"]
    assert (len(found["none"].rows), found["flat"].rows.tolist(), found["one"].rows.tolist()) == (0, [0.0] * 5, [9.0])
    assert found["none"].between(0, 0) == 0


def test_it_keeps_one_number_a_row() -> None:
    entries = {"a": TensorEntry("a", "BF16", (1000, 4096), 0, 1000 * 4096 * SIZES["BF16"])}
    assert EnergyWatch(entries).tensors["a"].rows.nbytes == 8000
