"""The best pair of a dense delta: beside the dense SVD in float64, and its error beside the pair itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from registry.errors import AccuracyError
from registry.tensors.extraction import best_pair as pairs
from registry.tensors.extraction import delta as deltas
from registry.tensors.extraction.best_pair import BestPair, Wanted, best_pair
from registry.tensors.extraction.delta import HeldDelta
from tests.kit.floats import Array
from tests.kit.full_models import least_error

ROUNDING = 1e-7  # of factors in float32, relative to the delta


class Dense:
    """A matrix in blocks of rows."""

    def __init__(self, values: Array) -> None:
        self.values = torch.from_numpy(values)
        self.rows, self.columns = values.shape
        self.elements = values.size

    def blocks(self) -> Iterator[torch.Tensor]:
        for first in range(0, self.rows, 48):
            yield self.values[first : first + 48].clone()


SPECTRA: dict[str, Callable[[int], Any]] = {
    "flat": lambda count: np.full(count, 1.0),
    "slow": lambda count: np.arange(1, count + 1) ** -0.5,
    "fast": lambda count: 0.7 ** np.arange(count),
    "step": lambda count: np.where(np.arange(count) < 20, 1.0, 0.9),
    "equal": lambda count: np.where(np.arange(count) < 40, 1.0, 3e-4 * 0.99 ** np.arange(count)),
    "low rank": lambda count: (np.arange(count) < 6).astype(float),
    "tiny": lambda count: 1e-30 * np.arange(1, count + 1) ** -0.5,
}


def drawn(rows: int, columns: int, spectrum: str, seed: int) -> Array:
    """A matrix with these singular values."""
    generator = np.random.default_rng(seed)
    count = min(rows, columns)
    left = np.linalg.qr(generator.standard_normal((rows, count))).Q
    right = np.linalg.qr(generator.standard_normal((columns, count))).Q
    made: Array = (left * SPECTRA[spectrum](count)) @ right.T
    return made


def true_error(values: Array, pair: BestPair) -> float:
    product = pair.left.double().numpy() @ pair.right.double().numpy()
    return float(np.linalg.norm(values - product) / np.linalg.norm(values))


@pytest.fixture(autouse=True, scope="module")
def _single_threaded() -> Iterator[None]:
    """As on a lane; small matrices take far longer on several threads of a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True, scope="module")
def _small_ones_are_randomised_too() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pairs, "_SEVERAL", 4)
        yield


def matrices(most: int) -> st.SearchStrategy[Array]:
    sides = st.integers(3, most)
    return st.builds(drawn, sides, sides, st.sampled_from(sorted(SPECTRA)), st.integers(0, 1000))


def check_rank(values: Array, rank: int, *, full: bool) -> None:
    pair = best_pair(HeldDelta(Dense(values)), Wanted(rank=rank, full=full), "m")
    size = float(np.linalg.norm(values))
    assert pair.left.dtype is pair.right.dtype is torch.float32
    assert pair.rank <= min(rank, *values.shape)
    assert pair.error == pytest.approx(true_error(values, pair), rel=1e-9, abs=1e-13)
    assert pair.energy == pytest.approx(size**2, rel=1e-12)
    least = least_error(values, rank) / size
    assert pair.error <= least * (1 + (1e-6 if full else 1e-2)) + ROUNDING


@settings(max_examples=20, deadline=None)
@given(values=matrices(120), rank=st.integers(1, 15), full=st.booleans())
def test_a_rank_is_near_the_dense_optimum_and_the_error_is_that_of_what_is_written(
    values: Array, rank: int, full: bool
) -> None:
    check_rank(values, rank, full=full)


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(values=matrices(400), rank=st.integers(1, 60))
def test_larger_ones_too(values: Array, rank: int) -> None:
    check_rank(values, rank, full=False)


@pytest.mark.parametrize("spectrum", ["step", "slow"])
@pytest.mark.parametrize("columns", [110, 240])
def test_passes_go_on_until_next_to_nothing_is_gained(spectrum: str, columns: int) -> None:
    values = drawn(300, columns, spectrum, 1)
    pair = best_pair(HeldDelta(Dense(values)), Wanted(rank=16), "m")
    assert pair.error <= least_error(values, 16) / float(np.linalg.norm(values)) * (1 + 1e-5)


def test_more_equal_singular_values_than_a_pass_takes_are_all_found() -> None:
    values = drawn(300, 260, "equal", 2)
    pair = best_pair(HeldDelta(Dense(values)), Wanted(rank=33), "m")
    assert pair.error <= least_error(values, 33) / float(np.linalg.norm(values)) * (1 + 1e-5)


@settings(max_examples=15, deadline=None)
@given(values=matrices(100), error=st.sampled_from([0.9, 0.5, 0.1, 0.01, 1e-5]))
def test_an_error_has_the_lowest_rank_that_the_dense_svd_has(values: Array, error: float) -> None:
    pair = best_pair(HeldDelta(Dense(values)), Wanted(max_error=error), "m")
    size = float(np.linalg.norm(values))
    assert true_error(values, pair) <= error
    if pair.rank > 1:  # one less would not do, but for the rounding of what is written
        assert least_error(values, pair.rank - 1) / size > error * (1 - 1e-4) - ROUNDING


def test_a_large_delta_is_not_kept_and_the_result_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    values = drawn(200, 160, "slow", 3)
    kept = best_pair(HeldDelta(Dense(values)), Wanted(rank=8), "m")
    monkeypatch.setattr(deltas, "HELD", 100)
    again = best_pair(HeldDelta(Dense(values)), Wanted(rank=8), "m")
    assert torch.equal(kept.left, again.left)
    assert torch.equal(kept.right, again.right)
    assert again.discarded == pytest.approx(kept.discarded, rel=1e-12)


def test_what_float32_does_not_hold_counts_in_the_error() -> None:
    values = drawn(120, 100, "low rank", 4)  # so that only roundings are left
    pair = best_pair(HeldDelta(Dense(values)), Wanted(rank=8), "m")
    assert 0 < pair.error < ROUNDING
    assert pair.error == pytest.approx(true_error(values, pair), rel=1e-9)


def test_a_zero_delta_is_a_pair_of_zeros() -> None:
    pair = best_pair(HeldDelta(Dense(np.zeros((7, 9)))), Wanted(rank=3), "m")
    assert (pair.rank, pair.error) == (1, 0.0)
    assert not pair.left.any()


def test_an_error_below_the_rounding_of_what_is_written_is_refused() -> None:
    with pytest.raises(AccuracyError, match=r"m: written in float32 at full rank the error is .*--max-error"):
        best_pair(HeldDelta(Dense(drawn(30, 20, "flat", 1))), Wanted(max_error=1e-9), "m")
