"""Figures of values against torch's own reading of the same bytes, and against exact sums in Python."""

from __future__ import annotations

import math
import sys
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from registry.files.header import SIZES
from registry.tensors.arithmetic.dtypes import TORCH
from registry.tensors.arithmetic.summary import summarised, values_of

EVERY_BYTE = bytes(range(256))
DTYPES = TORCH | {"F8_E8M0": torch.float8_e8m0fnu}


def test_every_dtype_of_headers_is_read() -> None:
    assert DTYPES.keys() == SIZES.keys()
    for dtype, size in SIZES.items():
        assert len(values_of(dtype, bytes(8 * size))) == 8
        assert len(values_of(dtype, b"")) == 0


@pytest.mark.parametrize("dtype", sorted(DTYPES.keys() - {"BOOL"}))
def test_values_are_those_of_torch(dtype: str) -> None:
    data = EVERY_BYTE if SIZES[dtype] == 1 else np.random.default_rng(1).bytes(4096) + EVERY_BYTE
    ours = values_of(dtype, data)
    theirs = torch.frombuffer(bytearray(data), dtype=DTYPES[dtype])
    wide = theirs.to(torch.float32) if theirs.is_floating_point() and SIZES[dtype] < 4 else theirs
    assert np.array_equal(ours, wide.numpy(), equal_nan=dtype[0] in "FBC")


def test_all_halves_of_float32_are_read() -> None:
    data = np.arange(1 << 16, dtype="<u2").tobytes()
    for dtype in ("BF16", "F16"):
        theirs = torch.frombuffer(bytearray(data), dtype=DTYPES[dtype]).float().numpy()
        assert np.array_equal(values_of(dtype, data), theirs, equal_nan=True)


def test_what_is_not_zero_is_true() -> None:
    assert values_of("BOOL", b"\x00\x01\x02").tolist() == [False, True, True]


@settings(deadline=None)
@given(st.lists(st.floats(width=64), min_size=1, max_size=40))
def test_figures_of_floats(numbers: list[float]) -> None:
    found = summarised(np.array(numbers))
    finite = [Fraction(one) for one in numbers if math.isfinite(one)]
    assert found is not None
    assert found.count == len(numbers)
    assert found.nans == sum(map(math.isnan, numbers))
    assert found.infinities == sum(map(math.isinf, numbers))
    assert found.zeros == numbers.count(0.0)
    if not finite:
        assert found.mean is found.norm is found.minimum is None
        return
    assert (found.minimum, found.maximum) == (float(min(finite)), float(max(finite)))
    assert found.mean is not None
    assert found.std is not None
    assert found.norm is not None
    peak: Fraction = max(abs(one) for one in finite)
    mean = sum(finite, Fraction()) / len(finite)
    assert abs(Fraction(found.mean) - mean) <= peak * Fraction(1, 10**12)
    squares: tuple[tuple[float, Fraction], ...] = (
        (found.norm, sum((one * one for one in finite), Fraction())),
        (found.std, sum(((one - mean) ** 2 for one in finite), Fraction()) / len(finite)),
    )
    for ours, exact in squares:
        if math.isinf(ours):  # only the norm of many of the largest numbers is none itself
            assert exact > Fraction(sys.float_info.max) ** 2 * Fraction(999, 1000)
        else:
            assert abs(Fraction(ours) ** 2 - exact) <= peak * peak * Fraction(1, 10**11) + Fraction(1, 10**300) ** 2


def test_figures_of_whole_numbers_and_of_complex_ones() -> None:
    found = summarised(np.array([-3, 0, 5, 0], np.int64))
    assert found is not None
    assert (found.minimum, found.maximum, found.zeros, found.mean) == (-3, 5, 2, 0.5)
    assert found.norm == pytest.approx(math.sqrt(34), rel=1e-15)
    assert summarised(np.array([1j], np.complex64)) is None
    empty = summarised(np.array([], np.float32))
    assert empty is not None
    assert (empty.count, empty.minimum) == (0, None)
