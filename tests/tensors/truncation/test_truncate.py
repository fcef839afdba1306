"""Truncating one delta: its singular values, its best pair and the errors, against a dense float64 SVD."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from registry.errors import InvalidAdapterError
from registry.tensors.arithmetic.threads import in_order, run_alone
from registry.tensors.truncation.truncate import (
    BLOCK_ROWS,
    Decomposition,
    decompose,
    distance,
    from_triangles,
    triangle,
)

Pair = tuple[torch.Tensor, torch.Tensor]


def dense(b: torch.Tensor, a: torch.Tensor, c: torch.Tensor | None = None) -> NDArray[np.float64]:
    """diag(c) B A, multiplied out in float64."""
    left: NDArray[np.float64] = b.double().numpy()
    right: NDArray[np.float64] = a.double().numpy()
    return (left if c is None else np.asarray(c.double().numpy()[:, None] * left)) @ right


def singular_values(delta: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(np.linalg.svd(delta, compute_uv=False), dtype=np.float64)


def truncated(b: torch.Tensor, a: torch.Tensor, rank: int, c: torch.Tensor | None = None) -> Pair:
    kept = decompose(b, a, c).keep(rank)
    return kept.b_rows(b), kept.a_rows(a)


def tail(values: Decomposition | NDArray[np.float64], rank: int) -> float:
    """Frobenius error of rank ``rank``."""
    return math.hypot(*(values.singular_values if isinstance(values, Decomposition) else values)[rank:])


def noise(b: torch.Tensor, a: torch.Tensor) -> float:
    """What rounding can do to the SVD of the product, in float64: this and the oracle's own; squares end at 1e-308."""
    return 1e-14 * b.shape[1] * float(b.double().norm() * a.double().norm()) + 1e-150


@st.composite
def pairs(draw: st.DrawFn) -> Pair:
    """Factors of any shape, rank, spectrum, conditioning and dtype."""
    out, width, inside = draw(st.integers(1, 40)), draw(st.integers(1, 24)), draw(st.integers(1, 40))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**16)))
    b = torch.randn(out, width, generator=generator, dtype=torch.float64)
    a = torch.randn(width, inside, generator=generator, dtype=torch.float64)
    # Exponents of each direction's size; equal ones give repeated values, -1000 a zero direction.
    exponents = draw(st.lists(st.sampled_from([0, 0, 0, -1, -3, -10, -1000]), min_size=width, max_size=width))
    if draw(st.booleans()):  # orthonormal factors, so that sizes are singular values
        b, a = torch.linalg.qr(b).Q, torch.linalg.qr(a.T).Q.T
        width = min(b.shape[1], a.shape[0])
        b, a, exponents = b[:, :width], a[:width], exponents[:width]
    b = b * torch.tensor([2.0**exponent for exponent in exponents], dtype=torch.float64)
    if draw(st.booleans()):  # the same product from factors that are far from orthogonal
        mix = torch.randn(width, width, generator=generator, dtype=torch.float64) + 2 * torch.eye(width)
        b, a = b @ mix, torch.linalg.solve(mix, a)
    b *= 2.0 ** draw(st.integers(-30, 30))
    dtype = draw(st.sampled_from([torch.float64, torch.float32, torch.bfloat16]))
    return b.to(dtype), a.to(dtype)


@settings(deadline=None)
@given(pair=pairs(), rank=st.integers(1, 12))
def test_error_is_the_optimum_and_the_pair_has_it(pair: Pair, rank: int) -> None:
    b, a = pair
    exact = dense(b, a)
    values = singular_values(exact)
    found = decompose(b, a)
    assert found.rank <= min(*exact.shape, b.shape[1])
    assert list(found.singular_values) == sorted(found.singular_values, reverse=True)
    np.testing.assert_allclose(found.singular_values, values[: found.rank], rtol=1e-9, atol=noise(b, a))
    assert all(value <= noise(b, a) for value in values[found.rank :])

    new_b, new_a = truncated(b, a, rank)
    assert new_b.shape == (b.shape[0], new_a.shape[0])
    assert new_a.shape[0] == max(1, min(rank, found.rank))
    rest = exact - dense(new_b, new_a)
    assert np.linalg.norm(rest) == pytest.approx(tail(values, rank), rel=1e-6, abs=noise(b, a))
    assert np.linalg.norm(rest, 2) == pytest.approx(max(values[rank:], default=0.0), rel=1e-6, abs=noise(b, a))
    assert tail(found, rank) == pytest.approx(tail(values, rank), rel=1e-6, abs=noise(b, a))


@settings(deadline=None)
@given(pair=pairs(), rank=st.integers(1, 8), data=st.data())
def test_with_row_weights_it_is_the_optimum_of_the_scaled_delta(pair: Pair, rank: int, data: st.DataObject) -> None:
    b, a = pair
    c = torch.tensor(data.draw(st.lists(st.sampled_from([0.0, 0.5, 1.0, 1.5, -2.0]), min_size=len(b), max_size=len(b))))
    exact = dense(b, a, c)
    values = singular_values(exact)
    found = decompose(b, a, c)
    new_b, new_a = truncated(b, a, rank, c)
    assert torch.isfinite(new_b).all()
    assert torch.isfinite(new_a).all()
    error = float(np.linalg.norm(exact - dense(new_b, new_a, c)))
    assert error == pytest.approx(tail(values, rank), rel=1e-6, abs=2 * noise(b, a))
    assert tail(found, rank) == pytest.approx(tail(values, rank), rel=1e-6, abs=2 * noise(b, a))
    assert distance(b, a, new_b, new_a, c)[0] == pytest.approx(error, rel=1e-6, abs=20 * noise(b, a))


def test_row_weights_change_which_directions_are_kept() -> None:
    b = torch.tensor([[2.0, 0.0], [0.0, 1.0]])
    a = torch.eye(2)
    assert dense(*truncated(b, a, 1)).tolist() == [[2.0, 0.0], [0.0, 0.0]]
    assert dense(*truncated(b, a, 1, torch.tensor([0.25, -4.0]))).tolist() == [[0.0, 0.0], [0.0, 1.0]]


def test_no_other_pair_of_the_rank_is_nearer() -> None:
    generator = torch.Generator().manual_seed(5)
    b, a = torch.randn(30, 9, generator=generator), torch.randn(9, 20, generator=generator)
    exact = torch.from_numpy(dense(b, a))
    new_b, new_a = truncated(b, a, 3)
    best = float((exact - new_b @ new_a).norm())
    for _ in range(20):
        other_b = new_b + 1e-3 * torch.randn(new_b.shape, generator=generator, dtype=torch.float64)
        other_a = torch.linalg.lstsq(other_b, exact).solution  # the best partner of these columns
        assert float((exact - other_b @ other_a).norm()) > best
    sketch = torch.randn(20, 3, generator=generator, dtype=torch.float64)
    for _ in range(200):  # alternating least squares, from anywhere, ends at the same error
        sketch = torch.linalg.qr(exact.T @ torch.linalg.qr(exact @ sketch).Q).Q
    assert float((exact - exact @ sketch @ sketch.T).norm()) == pytest.approx(best, rel=1e-9)


def test_whole_path_at_once_beats_step_by_step() -> None:
    generator = torch.Generator().manual_seed(7)
    links = [(torch.randn(48, 8, generator=generator), torch.randn(8, 64, generator=generator)) for _ in range(4)]
    b, a = torch.cat([b for b, _ in links], dim=1), torch.cat([a for _, a in links])
    exact = dense(b, a)
    at_once = np.linalg.norm(exact - dense(*truncated(b, a, 8)))
    step_b, step_a = links[0][0].double(), links[0][1].double()
    for link_b, link_a in links[1:]:
        stacked = torch.cat([step_b, link_b.double()], dim=1), torch.cat([step_a, link_a.double()])
        step_b, step_a = truncated(*stacked, 8)
    assert at_once == pytest.approx(tail(singular_values(exact), 8), rel=1e-9)
    assert at_once < 0.999 * np.linalg.norm(exact - dense(step_b, step_a))


def test_delta_of_a_lower_rank_has_no_directions_of_noise() -> None:
    generator = torch.Generator().manual_seed(1)
    b, a = torch.randn(50, 4, generator=generator), torch.randn(4, 60, generator=generator)
    again_b, again_a = torch.cat([b, b, -b], dim=1), torch.cat([a, 2 * a, a])
    found = decompose(again_b, again_a)
    assert found.rank == 4
    kept = found.keep(9)
    assert kept.rank == 4
    np.testing.assert_allclose(dense(kept.b_rows(again_b), kept.a_rows(again_a)), 2 * dense(b, a), atol=1e-12)


@pytest.mark.parametrize("case", ["zero B", "cancels", "zero weights"])
def test_zero_delta_is_one_rank_of_zeros(case: str) -> None:
    generator = torch.Generator().manual_seed(2)
    b, a = torch.randn(10, 3, generator=generator), torch.randn(3, 12, generator=generator)
    if case == "zero B":
        b = torch.zeros_like(b)
    if case == "cancels":
        b, a = torch.cat([b, -b], dim=1), torch.cat([a, a])
    found = decompose(b, a, torch.zeros(10) if case == "zero weights" else None)
    assert found.singular_values == ()
    kept = found.keep(5)
    assert kept.b_rows(b).abs().max() == 0
    assert kept.a_rows(a).abs().max() == 0
    assert (kept.b_rows(b).shape, kept.a_rows(a).shape) == ((10, 1), (1, 12))


@pytest.mark.parametrize("smallest", [1e-3, 1e-6, 1e-8])
def test_small_singular_values_of_ill_conditioned_factors(smallest: float) -> None:
    """Known values: B = Q diag(s) M and A = M^-1 P, whose product is Q diag(s) P."""
    generator = torch.Generator().manual_seed(3)
    known = torch.logspace(0, math.log10(smallest), 12, dtype=torch.float64)
    q = torch.linalg.qr(torch.randn(200, 12, generator=generator, dtype=torch.float64)).Q
    p = torch.linalg.qr(torch.randn(150, 12, generator=generator, dtype=torch.float64)).Q
    m = torch.linalg.qr(torch.randn(12, 12, generator=generator, dtype=torch.float64)).Q
    b, a = q @ (known[:, None] * m), m.T @ p.T
    found = decompose(b, a)
    np.testing.assert_allclose(found.singular_values, known.numpy(), rtol=1e-15 / smallest + 1e-12)
    kept = found.keep(11)
    error, spectral = distance(b, a, kept.b_rows(b), kept.a_rows(a))
    assert error == pytest.approx(smallest, rel=1e-5)
    assert spectral == pytest.approx(smallest, rel=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_rounded_factors_are_as_far_as_distance_says(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(4)
    b = (torch.randn(64, 24, generator=generator) * 1e-3).to(dtype)
    a = (torch.randn(24, 96, generator=generator) * 1e-2).to(dtype)
    new_b, new_a = (factor.to(dtype) for factor in truncated(b, a, 6))
    rest = dense(b, a) - dense(new_b, new_a)
    error, spectral = distance(b, a, new_b, new_a)
    assert error == pytest.approx(float(np.linalg.norm(rest)), rel=1e-9)
    assert spectral == pytest.approx(float(np.linalg.norm(rest, 2)), rel=1e-9)
    relative = 2 * torch.finfo(dtype).eps
    assert error == pytest.approx(tail(singular_values(dense(b, a)), 6), rel=relative)


def test_factors_share_the_size_and_signs_are_fixed() -> None:
    generator = torch.Generator().manual_seed(6)
    b, a = torch.randn(40, 10, generator=generator) * 1e-4, torch.randn(10, 30, generator=generator) * 1e3
    kept = decompose(b, a).keep(10)
    ratio = kept.b_rows(b).norm(dim=0) / kept.a_rows(a).norm(dim=1)
    assert 0.5 <= float(ratio.min()) <= float(ratio.max()) <= 2
    strongest = kept.to_a.gather(1, kept.to_a.abs().argmax(dim=1, keepdim=True))
    assert (strongest > 0).all()


def test_rows_can_be_made_in_blocks() -> None:
    generator = torch.Generator().manual_seed(8)
    b, a = torch.randn(70, 40, generator=generator), torch.randn(40, 50, generator=generator)
    kept = decompose(b, a).keep(12)
    blocks = torch.cat([kept.b_rows(b[start : start + 16]) for start in range(0, 70, 16)])
    torch.testing.assert_close(blocks, kept.b_rows(b), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(
        torch.cat([kept.a_rows(a, 0, 5), kept.a_rows(a, 5)]), kept.a_rows(a), rtol=1e-12, atol=1e-12
    )


def test_triangle_of_blocks_is_that_of_the_whole() -> None:
    generator = torch.Generator().manual_seed(9)
    tall = torch.randn(2 * BLOCK_ROWS + 3, 5, generator=generator, dtype=torch.float64)
    parts = triangle([tall[:2], tall[2:7], tall[7:]])
    assert parts.shape == (5, 5)
    torch.testing.assert_close(parts.T @ parts, tall.T @ tall, rtol=1e-12, atol=1e-9)
    assert triangle([tall[:3]]).equal(tall[:3])
    other = torch.randn(5, 8, generator=generator, dtype=torch.float64)
    found = from_triangles(parts, triangle([other.T]))
    np.testing.assert_allclose(found.singular_values, singular_values(dense(tall, other))[:5], rtol=1e-12)
    np.testing.assert_allclose(decompose(tall, other).singular_values, found.singular_values, rtol=1e-12)


def _bytes(b: torch.Tensor, a: torch.Tensor) -> bytes:
    kept = decompose(b, a, torch.linspace(0.5, 2, len(b))).keep(16)
    return b"".join(part.numpy().tobytes() for part in (kept.b_rows(b), kept.a_rows(a), kept.to_a, kept.to_b))


def test_bytes_do_not_depend_on_the_run_or_the_threads() -> None:
    generator = torch.Generator().manual_seed(10)
    b, a = torch.randn(3000, 64, generator=generator), torch.randn(64, 1000, generator=generator)
    once = run_alone(lambda: _bytes(b, a))
    threads = torch.get_num_threads()
    try:
        for number in (1, 2, 4):
            torch.set_num_threads(number)
            assert run_alone(lambda: _bytes(b.clone(), a.clone())) == once
            assert set(in_order(lambda _: _bytes(b, a), range(4), lanes=number)) == {once}
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("value", [math.inf, math.nan, 1e160])
def test_delta_out_of_range_is_refused(value: float) -> None:
    b = torch.ones(4, 2, dtype=torch.float64)
    b[1, 1] = value
    with pytest.raises(InvalidAdapterError, match=r"layers\.0\.q_proj.*truncated") as caught:
        decompose(b, torch.ones(2, 3), name="layers.0.q_proj")
    assert caught.value.code == "overflow"
