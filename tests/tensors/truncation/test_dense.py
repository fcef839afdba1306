"""Pairs near matrices of full rank, against LAPACK's own decomposition by numpy, and their error element by element."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from registry.errors import InvalidAdapterError
from registry.tensors.truncation import dense
from registry.tensors.truncation.dense import Nearest, nearest


@dataclass(frozen=True)
class Cut:
    """A matrix in blocks of some rows."""

    values: torch.Tensor
    step: int

    @property
    def shape(self) -> tuple[int, int]:
        return self.values.shape[0], self.values.shape[1]

    def blocks(self) -> Iterator[torch.Tensor]:
        for start in range(0, self.shape[0], self.step):
            yield self.values[start : start + self.step].clone()


def drawn(rows: int, columns: int, rank: int, noise: float, seed: int) -> torch.Tensor:
    """A sum of a product of low rank and a change of full rank, as a DoRA makes it."""
    draw = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=draw, dtype=torch.float64)

    scales = noise * normal(rows, 1)
    return normal(rows, rank) @ normal(rank, columns) / math.sqrt(rank) + scales * normal(rows, columns)


def check(found: Nearest, matrix: torch.Tensor, rank: int, slack: float) -> None:
    """Every cut of the pair errs as its figures say, and hardly more than the best."""
    values = np.linalg.svd(matrix.numpy(), compute_uv=False)
    size = float(np.linalg.norm(values))
    assert len(found.values) <= rank
    assert list(found.values) == sorted(found.values, reverse=True)
    for kept in range(len(found.values) + 1):
        left = matrix - found.left[:, :kept] @ found.right[:kept]
        error = torch.linalg.matrix_norm(left).item()
        said = math.sqrt(found.rest + math.fsum(one**2 for one in found.values[kept:]))
        assert abs(error - said) <= 1e-12 * size
        assert float(np.linalg.norm(values[kept:])) <= said + 1e-12 * size
        assert said <= (1 + slack) * float(np.linalg.norm(values[kept:])) + 1e-12 * size


@given(
    shape=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    rank=st.integers(0, 5),
    noise=st.sampled_from([0.0, 1e-9, 0.01, 1.0]),
    step=st.integers(1, 41),
    seed=st.integers(0, 99),
)
@settings(max_examples=60, deadline=None)
def test_the_best_pair_of_a_small_matrix(shape: tuple[int, int], rank: int, noise: float, step: int, seed: int) -> None:
    matrix = drawn(*shape, max(rank, 1), noise, seed) if rank else torch.zeros(shape, dtype=torch.float64)
    check(nearest(Cut(matrix, step), rank=3, max_error=0.1, name="it"), matrix, min(shape), 1e-12)


@given(
    shape=st.tuples(st.integers(30, 90), st.integers(30, 90)),
    kept=st.integers(1, 12),
    noise=st.sampled_from([0.0, 1e-9, 0.01, 0.3]),
    seed=st.integers(0, 99),
)
@settings(max_examples=40, deadline=None)
def test_what_a_projection_leaves_out_is_measured_and_hardly_more_than_the_best(
    shape: tuple[int, int], kept: int, noise: float, seed: int
) -> None:
    matrix = drawn(*shape, 6, noise, seed)
    found = dense._projected(dense._Held(Cut(matrix, 16), "it"), kept)
    check(found, matrix, kept, 0.02)


@pytest.mark.parametrize("shape", [(70, 44), (44, 70)])
def test_ranks_grow_until_the_error_is_small_enough_or_the_pair_too_large(
    shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dense, "DECOMPOSED", 0)
    monkeypatch.setattr(dense, "_FIRST", 2)
    matrix = drawn(*shape, 6, 0.01, 3)
    size = torch.linalg.matrix_norm(matrix).item()
    found = nearest(Cut(matrix, 16), rank=None, max_error=0.05, name="it")
    assert len(found.values) == 8
    assert math.sqrt(found.rest) <= 0.05 * size
    found = nearest(Cut(matrix, 16), rank=None, max_error=1e-6, name="it")
    assert len(found.values) == 11  # a fourth
    assert math.sqrt(found.rest) > 1e-6 * size
    check(nearest(Cut(matrix, 16), rank=20, max_error=0.0, name="it"), matrix, 20, 1e-12)


def test_a_matrix_that_is_made_again_for_each_pass_gives_the_same_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    matrix = Cut(drawn(60, 50, 4, 0.1, 1), 16)
    monkeypatch.setattr(dense, "DECOMPOSED", 0)
    held = nearest(matrix, rank=5, max_error=0.0, name="it")
    monkeypatch.setattr(dense, "HELD", 0)
    again = nearest(matrix, rank=5, max_error=0.0, name="it")
    assert torch.equal(held.left, again.left)
    assert torch.equal(held.right, again.right)
    assert held.rest == again.rest


@pytest.mark.parametrize("value", [math.nan, math.inf, 1e200])
def test_what_leaves_float64_is_refused_by_name(value: float) -> None:
    matrix = torch.ones(3, 4, dtype=torch.float64)
    matrix[1, 2] = value
    with pytest.raises(InvalidAdapterError, match=r"The change of it is too large or not finite"):
        nearest(Cut(matrix, 2), rank=1, max_error=0.0, name="it")
