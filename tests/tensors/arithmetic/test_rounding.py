"""One rounding at the end: to nearest, ties to even, and nothing that rounds to infinity.

Products by slices of the rank: nothing is left out, whatever the rank is, and padding adds nothing.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from registry.tensors.arithmetic.kernel import RANK_GROUP, RANK_SLICE, add_product, fits, pad_rows, round_into, rounded
from tests.kit import FORMATS, round_once

DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
NAMES = sorted(DTYPES)
FINITE = st.floats(allow_nan=False, allow_infinity=False)


def _rounded(values: torch.Tensor, name: str) -> list[float]:
    out = torch.empty(values.shape, dtype=DTYPES[name])
    round_into(out, values)
    return [float(number) for number in out.to(torch.float64)]


@given(value=FINITE, name=st.sampled_from(NAMES))
@example(value=1 + 2**-8 + 2**-40, name="BF16")
@example(value=-1 - 2**-8 - 2**-40, name="BF16")
@example(value=1 + 3 * 2**-8 - 2**-40, name="BF16")
@example(value=1 + 2**-11 + 2**-40, name="F16")
@example(value=2.0**-25 + 2.0**-60, name="F16")  # just above half of the smallest fp16
@example(value=2.0**-134 + 2.0**-170, name="BF16")
@example(value=5e-324, name="BF16")
@example(value=-0.0, name="BF16")
def test_float64_rounds_once(value: float, name: str) -> None:
    tensor = torch.tensor([value], dtype=torch.float64)
    if fits(tensor, DTYPES[name]):
        assert _rounded(tensor, name) == round_once(np.array([value]), name).tolist()


@pytest.mark.parametrize("name", ["BF16", "F16"])
def test_many_round_as_one_does(name: str) -> None:
    """Of every size, some of them subnormal in float32, and just beside middles of 16-bit numbers."""
    chance = np.random.default_rng(0)
    sizes = np.ldexp(chance.standard_normal(100_000), chance.integers(-40, 12, 100_000))
    sizes[40_000:50_000] = np.ldexp(chance.standard_normal(10_000), chance.integers(-150, -120, 10_000))
    middles = torch.tensor(sizes).to(DTYPES[name]).double().numpy() * (1 + 2.0 ** -(8 if name == "BF16" else 11))
    for values in (sizes, middles * (1 + 2.0**-50), middles * (1 - 2.0**-50)):
        assert _rounded(torch.tensor(values), name) == round_once(values, name).tolist()


@given(base=st.integers(0, 2**16 - 1), above=st.integers(-(2**20), 2**20), name=st.sampled_from(["F16", "BF16"]))
def test_float64_next_to_a_tie_rounds_once(base: int, above: int, name: str) -> None:
    """Numbers a hair beside the middle of two 16-bit numbers: there two roundings go wrong."""
    low = torch.tensor([base - 2**16 if base >= 2**15 else base], dtype=torch.int16).view(DTYPES[name])
    high = (low.view(torch.int16) + 1).view(DTYPES[name])
    middle = (low.double() + high.double()) / 2
    value = middle * (1 + above * 2.0**-52)
    if fits(value, DTYPES[name]):
        assert _rounded(value, name) == round_once(value.numpy(), name).tolist()


@given(
    values=st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1), name=st.sampled_from(NAMES)
)
def test_float32_rounds_once(values: list[float], name: str) -> None:
    tensor = torch.tensor(values, dtype=torch.float32)
    if fits(tensor, DTYPES[name]):
        assert _rounded(tensor, name) == round_once(np.array(values), name).tolist()


@given(value=FINITE, name=st.sampled_from(NAMES))
def test_fits_means_that_the_rounded_value_is_finite(value: float, name: str) -> None:
    rounded = round_once(np.array([value]), name)
    assert fits(torch.tensor([0.0, value], dtype=torch.float64), DTYPES[name]) == bool(np.isfinite(rounded)[0])


@pytest.mark.parametrize("name", NAMES)
def test_the_largest_number_and_the_first_that_is_too_large(name: str) -> None:
    largest = FORMATS[name].largest
    half = largest * 2.0 ** -(FORMATS[name].digits + 1)  # about half a unit in the last place
    below, beyond = largest + 0.9 * half, largest + 1.1 * half
    for sign in (1, -1):
        assert fits(torch.tensor([sign * below], dtype=torch.float64), DTYPES[name])
        assert _rounded(torch.tensor([sign * below], dtype=torch.float64), name) == [sign * largest]
        assert not fits(torch.tensor([sign * beyond], dtype=torch.float64), DTYPES[name])


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_nothing_that_is_not_finite_fits(bad: float) -> None:
    for dtype in (*DTYPES.values(), torch.float64):
        assert not fits(torch.tensor([1.0, bad, 2.0]), dtype)


def test_an_empty_tensor_fits() -> None:
    assert fits(torch.empty(0), torch.float16)


@pytest.mark.parametrize("name", NAMES)
def test_a_sum_that_overflows_is_no_value_that_does(name: str) -> None:
    largest = torch.finfo(DTYPES[name]).max
    values = torch.full((64,), largest, dtype=torch.float64)
    out = rounded(values, DTYPES[name])
    assert out is not None
    assert bool((out.double() == values).all())


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e300])
@pytest.mark.parametrize("name", NAMES)
def test_one_value_that_is_too_large_is_seen_among_many(name: str, bad: float) -> None:
    values = torch.linspace(-1, 1, 4099, dtype=torch.float64)
    assert rounded(values, DTYPES[name]) is not None
    values[2048] = bad
    values[5] = -bad  # infinities of both signs
    assert rounded(values, DTYPES[name]) is None


@pytest.mark.parametrize(
    "rank", [0, 1, RANK_SLICE - 1, RANK_SLICE, RANK_SLICE + 1, RANK_GROUP, RANK_GROUP + 1, 2 * RANK_GROUP + 33]
)
def test_every_column_of_the_rank_counts(rank: int) -> None:
    numbers = torch.Generator().manual_seed(rank)
    left, right = (torch.randint(-4, 5, shape, generator=numbers).float() for shape in ((6, rank), (rank, 5)))
    start = torch.randint(-4, 5, (6, 5), generator=numbers).float()
    sums = start.clone()
    add_product(sums, left, right)
    assert torch.equal(sums, start + left @ right)  # small integers: exact in any order


def test_padding_is_rows_of_zeros() -> None:
    matrix = torch.ones(5, 2)
    assert torch.equal(pad_rows(matrix, 4), torch.cat([matrix, torch.zeros(3, 2)]))
    assert pad_rows(matrix, 5) is matrix
