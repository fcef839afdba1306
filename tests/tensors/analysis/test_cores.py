"""Deltas beside each other, from their factors: against dense matrices in float64, and what always holds."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from registry.errors import InvalidAdapterError
from registry.files.source import ByteSource, BytesSource
from registry.tensors.analysis.deltas import MatrixFigures, figures_of_pairs, principal_angles
from registry.tensors.analysis.inner_products import inner_products
from registry.tensors.checkpoint.factors import Held
from registry.tensors.path.low_rank import PairPart, StackedPairs
from registry.tensors.path.steps import BoundPair
from tests.kit.floats import Array

EPS = np.finfo(np.float64).eps
NOTHING: ByteSource = BytesSource(b"", "nothing")
Pairs = list[tuple[Array, Array, float]]
"""B (out, r), A (r, in) and the scale of each link."""


def stacked(pairs: Pairs, shape: tuple[int, int]) -> StackedPairs:
    parts = []
    for b, a, scale in pairs:
        bound = BoundPair(Held(torch.from_numpy(a)), Held(torch.from_numpy(b)), scale, NOTHING)
        parts.append(PairPart(bound, (((0, shape[0]), bound),)))
    return StackedPairs(tuple(parts), *shape)


def compared(a: Pairs, b: Pairs, shape: tuple[int, int]) -> MatrixFigures:
    return figures_of_pairs([stacked(a, shape), stacked(b, shape)], "q_proj")


def dense(pairs: Pairs, shape: tuple[int, int]) -> Array:
    return sum((scale * b @ a for b, a, scale in pairs), np.zeros(shape))


def spaces(pairs: Pairs, shape: tuple[int, int]) -> tuple[Array, Array]:
    """Orthonormal bases of the column and of the row space: ranks by max(m, n) eps sigma_1, and what links leave."""
    left, values, right = np.linalg.svd(dense(pairs, shape), full_matrices=False)
    noise = sum(abs(scale) * float(np.linalg.norm(b) * np.linalg.norm(a)) for b, a, scale in pairs)
    rank = int(np.sum(values > EPS * max(max(shape) * values[0], 100 * noise)))
    return left[:, :rank], right[:rank].T


def angles(a: Array, b: Array) -> list[float]:
    """By projections and arctan2, which is right for small and for large angles."""
    if a.shape[1] < b.shape[1]:
        a, b = b, a
    cosines = np.linalg.svd(a.T @ b, compute_uv=False)
    sines = np.linalg.svd(b - a @ (a.T @ b), compute_uv=False)[::-1][: len(cosines)]
    return sorted(np.arctan2(sines, cosines).tolist())


@st.composite
def cases(draw: st.DrawFn) -> tuple[Pairs, Pairs, tuple[int, int]]:
    """Paths of one or two links each, wide or tall, of any ranks; with zeros, copies, negations and orthogonal ones."""
    shape = draw(st.sampled_from([(40, 12), (12, 40), (24, 24), (33, 1), (5, 3)]))
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))

    def link() -> tuple[Array, Array, float]:
        rank = draw(st.integers(1, 6))
        b, a = generator.normal(size=(shape[0], rank)), generator.normal(size=(rank, shape[1]))
        if draw(st.booleans()):
            b[:, -1] = 0 if rank == 1 else b[:, 0]  # a rank that is not used
        return b, a, draw(st.sampled_from([2.0, 0.5, -1.0, 16 / math.sqrt(rank)]))

    a = [link() for _ in range(draw(st.integers(1, 2)))]
    how = draw(st.sampled_from(["other", "copy", "negated", "extended", "zero", "cancelled", "nearby", "none"]))
    if how == "other":
        b = [link() for _ in range(draw(st.integers(1, 2)))]
    elif how == "copy":
        b = a
    elif how == "negated":
        b = [(one, other, -scale) for one, other, scale in a]
    elif how == "extended":
        b = [*a, link()]
    elif how == "zero":
        b = [(0 * one, other, scale) for one, other, scale in a]
    elif how == "cancelled":
        b = [*a, *((-one, other, scale) for one, other, scale in a)]
    elif how == "nearby":
        b = [(one, other + 1e-7 * generator.normal(size=other.shape), scale) for one, other, scale in a]
    else:
        b = []
    return (a, b, shape) if draw(st.booleans()) else (b, a, shape)


@settings(deadline=None, max_examples=50)
@given(cases())
def test_figures_are_those_of_dense_matrices(case: tuple[Pairs, Pairs, tuple[int, int]]) -> None:
    a, b, shape = case
    found = compared(a, b, shape)
    da, db = dense(a, shape), dense(b, shape)
    largest = max([abs(scale) * float(np.linalg.norm(one @ other)) for one, other, scale in [*a, *b]], default=0.0)
    assert found.norms == pytest.approx([np.linalg.norm(da), np.linalg.norm(db)], abs=1e-10 * largest)
    inner = found.cosine * found.norms[0] * found.norms[1]
    assert inner == pytest.approx(float(np.sum(da * db)), abs=1e-10 * largest**2)
    if min(found.norms) > 1e-6 * largest:
        cosine = float(np.sum(da * db)) / float(np.linalg.norm(da) * np.linalg.norm(db))
        assert found.cosine == pytest.approx(cosine, abs=1e-10)
    (columns_a, rows_a), (columns_b, rows_b) = spaces(a, shape), spaces(b, shape)
    assert found.row_angles == pytest.approx(angles(rows_a, rows_b), abs=1e-8)
    assert found.column_angles == pytest.approx(angles(columns_a, columns_b), abs=1e-8)
    matrix = inner_products({0: stacked(a, shape), 1: stacked(b, shape)}, "q_proj")
    assert matrix.norms == pytest.approx(found.norms, abs=1e-12 * max(largest, 1e-300))
    assert matrix.products[0, 1].item() == pytest.approx(inner, abs=1e-10 * largest**2)


@settings(deadline=None, max_examples=50)
@given(cases())
def test_what_always_holds(case: tuple[Pairs, Pairs, tuple[int, int]]) -> None:
    a, b, shape = case
    found, turned, negated = (
        compared(a, b, shape),
        compared(b, a, shape),
        compared(a, [(-b, a, s) for b, a, s in b], shape),
    )
    assert turned.norms == pytest.approx(found.norms[::-1], rel=1e-12)
    assert turned.cosine == pytest.approx(found.cosine, abs=1e-12)
    assert negated.cosine == pytest.approx(-found.cosine, abs=1e-12)
    assert -1 <= found.cosine <= 1
    for mine, other in ((found.row_angles, turned.row_angles), (found.column_angles, turned.column_angles)):
        assert list(mine) == sorted(mine)
        assert all(0 <= one <= math.pi / 2 + 1e-15 for one in mine)
        assert mine == pytest.approx(other, abs=1e-8)
    itself = compared(a, a, shape)
    if itself.norms[0]:
        assert itself.cosine == pytest.approx(1, abs=1e-12)
        assert max(*itself.row_angles, *itself.column_angles) < 1e-12


@pytest.mark.parametrize("angle", [1e-12, 1e-9, 1e-5, 0.5, math.pi / 2 - 1e-9, math.pi / 2])
def test_small_angles_come_from_their_sines(angle: float) -> None:
    """A cosine would say 0 for all below 1e-8."""
    a = torch.eye(5, 2, dtype=torch.float64)
    b = torch.zeros(5, 2, dtype=torch.float64)
    b[0, 0] = 1.0
    b[1, 1], b[2, 1] = math.cos(angle), math.sin(angle)
    assert principal_angles(a, b) == pytest.approx((0.0, angle), rel=1e-6, abs=1e-17)
    assert principal_angles(a, b[:, 1:]) == pytest.approx((angle,), rel=1e-6)
    assert principal_angles(a, b[:, :0]) == ()


def test_links_that_are_orthogonal_share_nothing() -> None:
    b, a = np.eye(8, 4), np.eye(4, 6)
    one: Pairs = [(b[:, :2], a[:2], 1.0)]
    other: Pairs = [(b[:, 2:], a[2:], 3.0)]
    found = compared(one, other, (8, 6))
    assert found.cosine == 0
    assert found.row_angles == pytest.approx((math.pi / 2,) * 2)
    same_rows: Pairs = [(b[:, 2:], a[:2], 3.0)]
    found = compared(one, same_rows, (8, 6))
    assert (found.cosine, found.row_angles) == (0, (0.0, 0.0))
    assert found.column_angles == pytest.approx((math.pi / 2,) * 2)


def test_what_leaves_float64_is_refused() -> None:
    huge: Pairs = [(np.full((4, 1), 1e200), np.ones((1, 3)), 1.0)]
    for other in (huge, [], [(np.full((4, 1), np.nan), np.ones((1, 3)), 1.0)]):
        with pytest.raises(InvalidAdapterError) as refused:
            compared(huge, other, (4, 3))
        assert refused.value.code == "overflow"
    small: Pairs = [(np.full((4, 1), 1e-120), np.ones((1, 3)), 1e-60)]
    large: Pairs = [(np.full((4, 1), 1e120), np.ones((1, 3)), 1e10)]
    assert compared(small, large, (4, 3)).cosine == pytest.approx(1)
