"""Inner products of deltas, from their factors: of two links, of all pairs of many, and sketched for a search.

A *sketch* is 256 numbers whose inner products are about those of the deltas. Rows and columns of each matrix are hashed
to 16 buckets with a sign each (Charikar, Chen, Farach-Colton 2002; of both sides Pham and Pagh 2013), and the small
matrices of all modules are added up: S = sum of P_m B_m A_m Q_m. As signs are independent, the mean of <S, S'> is <D,
D'>. The hashes are of names alone, so that sketches of all adapters of a base, made at any time, can be compared. They
only choose what is compared exactly.

How much of its parent's delta a link takes back is -<D_c, D_p> / |D_p|^2, D being the deltas of the two links. <B A, B'
A'> is the sum of the elements of (B^T B') * (A A'^T): two small products for each matrix, a third of the time that
norms from triangles take (`registry.tensors.analysis.deltas` has this figure too, with angles). Right to about 1e-15
||B|| ||A|| ||B'|| ||A'||, so no figure is given for a parent whose factors cancel.

Of many siblings the inner products of all pairs are made from factors that are read once. <B_i A_i, B_j A_j> is the sum
of the elements of (B_i^T B_j) * (A_i A_j^T), which are as small as the ranks: one product of all B of a matrix with
themselves, and one of all A. That is right to 1e-15 ||B_i|| ||A_i|| ||B_j|| ||A_j||, which for single links is as good
as the dense way. Norms come from the triangles (`registry.tensors.truncation.truncate`), as the square root of a
rounding error would be 1e-8.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
import torch

from registry.progress import SILENT, Progress
from registry.schemas.difference import ChildDelta, DeltaMatrix
from registry.tensors.analysis.deltas import SinceLink, counting
from registry.tensors.analysis.matrices import ChangedMatrix, MatrixName, changed_matrices, changed_side_by_side
from registry.tensors.analysis.statistics import other_changes
from registry.tensors.arithmetic.kernel import block_rows
from registry.tensors.arithmetic.threads import in_order
from registry.tensors.path.low_rank import StackedPairs
from registry.tensors.path.programs import BoundLink, path_programs
from registry.tensors.table.targets import TargetTable
from registry.tensors.truncation.truncate import decompose


def delta_matrix(
    path: str, children: Sequence[SinceLink], table: TargetTable, *, progress: Progress = SILENT
) -> DeltaMatrix:
    """Compare the deltas of single links, all with all.

    Args:
        path: whose children they are.
        children: paths from one base model, of each the last link alone.
        table: of the base model.
        progress: of matrices.

    Raises:
        InvalidAdapterError: what `changed_side_by_side` raises; ``overflow``, a delta is not finite.
    """
    changed = changed_side_by_side([(child.links, child.since) for child in children], table)
    matrices: dict[MatrixName, dict[int, StackedPairs]] = {}
    for number, (one, child) in enumerate(zip(changed, children, strict=True)):
        for matrix in one.by_pairs:
            if not matrix.adds_after_scaling(child.since):
                matrices.setdefault(matrix.name, {})[number] = matrix.pairs(child.since)
    products = torch.zeros(len(children), len(children), dtype=torch.float64)
    norms: list[list[float]] = [[] for _ in children]
    made = in_order(lambda name: inner_products(matrices[name], name[0]), sorted(matrices))
    for found in counting(made, len(matrices), progress):
        numbers = torch.tensor(found.numbers)
        products[numbers[:, None], numbers] += found.products
        for number, norm in zip(found.numbers, found.norms, strict=True):
            norms[number].append(norm)
    whole = [math.hypot(*some) for some in norms]
    return DeltaMatrix(
        path=path,
        children=tuple(
            ChildDelta(
                reference=child.name.reference,
                parent=child.name.since,
                frobenius=norm,
                scaled=any(matrix.is_scaled(child.since) for matrix in one.by_pairs),
                others=tuple(other_changes(one, child.since)),
            )
            for child, one, norm in zip(children, changed, whole, strict=True)
        ),
        cosine=_square(whole, products, _cosine),
        energy_ratio=_square(whole, products, _energy_ratio),
    )


@dataclass(frozen=True, eq=False)
class InnerProducts:
    """Those of the deltas of one matrix, of the children that change it."""

    numbers: tuple[int, ...]  # of the children
    norms: tuple[float, ...]
    products: torch.Tensor  # (children, children)


def inner_products(deltas: Mapping[int, StackedPairs], name: str) -> InnerProducts:
    """All inner products of some deltas of one matrix; each factor is read once. Call it on a lane.

    Raises:
        InvalidAdapterError: ``overflow``, a delta is not finite.
    """
    pairs = list(deltas.values())
    ranks = [one.rank for one in pairs]
    b = torch.empty(pairs[0].out_features, sum(ranks), dtype=torch.float64)
    a = torch.empty(sum(ranks), pairs[0].in_features, dtype=torch.float64)
    norms, first = [], 0
    for one in pairs:
        own = slice(first, first := first + one.rank)
        b[:, own] = one.b_rows(0, one.out_features, torch.float64)
        a[own] = one.a(torch.float64)
        norms.append(math.hypot(*decompose(b[:, own], a[own], name=repr(name)).singular_values))
    products = (b.T @ b) * (a @ a.T)
    child = torch.repeat_interleave(torch.arange(len(pairs)), torch.tensor(ranks))
    for dimension in (0, 1):
        shape = (len(pairs), products.shape[1]) if dimension == 0 else (len(pairs), len(pairs))
        products = torch.zeros(shape, dtype=torch.float64).index_add_(dimension, child, products)
    return InnerProducts(tuple(deltas), tuple(norms), products)


def _square(
    norms: Sequence[float], products: torch.Tensor, figure: Callable[[float, float, float], float | None]
) -> tuple[tuple[float | None, ...], ...]:
    """A figure of all pairs, from their inner product and norms; the same both ways."""
    each = range(len(norms))
    values = {
        (i, j): figure(norms[i] * norms[i] if i == j else products[i, j].item(), norms[i], norms[j])
        for i in each
        for j in each[i:]
    }
    return tuple(tuple(values[min(i, j), max(i, j)] for j in each) for i in each)


def _cosine(product: float, a: float, b: float) -> float | None:
    return max(-1.0, min(1.0, product / a / b)) if a and b else None


def _energy_ratio(product: float, a: float, b: float) -> float | None:
    return 1 + 2 * product / (a * a + b * b) if a or b else None


_CANCELLED: Final = 1e-9  # of the factors' norms, squared


class _Products(NamedTuple):
    both: float  # <D_p, D_c>
    parent: float  # |D_p|^2
    bound: float  # (||B_p|| ||A_p||)^2


def undone_share(links: Sequence[BoundLink], table: TargetTable) -> float | None:
    """The share of the delta of the last link but one that the last link takes back; negative: it adds to it.

    None: the parent adds nothing, or its factors cancel.

    Args:
        links: of a path, root first: two at least.
        table: of the base model.
    """
    last = len(links) - 1
    sides = [(links[:last], last - 1), (links, last)]
    parent, child = (
        {(one.module, one.expert): one.pairs(since) for one in side.by_pairs if not one.adds_after_scaling(since)}
        for side, (_, since) in zip(changed_side_by_side(sides, table), sides, strict=True)
    )
    names = sorted(parent, key=lambda name: (name[0], -1 if name[1] is None else name[1]))
    found = list(in_order(lambda name: _products(parent[name], child.get(name)), names))
    energy, bound = math.fsum(one.parent for one in found), math.fsum(one.bound for one in found)
    if not _CANCELLED * bound < energy < math.inf:
        return None
    return 0.0 - math.fsum(one.both for one in found) / energy


def _products(parent: StackedPairs, child: StackedPairs | None) -> _Products:
    """Call it on a lane."""
    b, a = _factors(parent)
    bound = torch.linalg.matrix_norm(b).item() ** 2 * torch.linalg.matrix_norm(a).item() ** 2
    other = None if child is None else _factors(child)
    both = 0.0 if other is None else _product(b, a, *other)
    return _Products(both, _product(b, a, b, a), bound)


def _factors(pairs: StackedPairs) -> tuple[torch.Tensor, torch.Tensor]:
    return pairs.b_rows(0, pairs.out_features, torch.float64), pairs.a(torch.float64)


def _product(b: torch.Tensor, a: torch.Tensor, other_b: torch.Tensor, other_a: torch.Tensor) -> float:
    return float(((b.T @ other_b) * (a @ other_a.T)).sum())


BUCKETS: Final = 16


def sketch(links: Sequence[BoundLink], table: TargetTable) -> bytes:
    """The sketch of what the last link of a path adds, as 256 float32: of norm 1, or zeros where it adds nothing.

    Raises:
        InvalidAdapterError: what `registry.tensors.path.programs.path_programs` raises.
    """
    last = len(links) - 1
    changed = changed_matrices(links, path_programs(links, table), table, last)
    summed = [one for one in changed.by_pairs if not one.adds_after_scaling(last)]
    total = torch.zeros(BUCKETS, BUCKETS, dtype=torch.float64)
    for one in in_order(lambda matrix: _sketched(matrix, last), summed):
        total += one
    norm = torch.linalg.matrix_norm(total)
    direction = total / norm if 0 < norm < math.inf else torch.zeros_like(total)
    return direction.to(torch.float32).numpy().astype("<f4").tobytes()


def likeness(one: bytes, others: Sequence[bytes]) -> list[float]:
    """About the cosines of the deltas, from their sketches."""
    if not others:
        return []
    stacked = np.frombuffer(b"".join(others), "<f4").reshape(len(others), -1).astype(np.float64)
    found: list[float] = (stacked @ np.frombuffer(one, "<f4").astype(np.float64)).tolist()
    return found


def _sketched(matrix: ChangedMatrix, since: int) -> torch.Tensor:
    """Call it on a lane."""
    pairs = matrix.pairs(since)
    name = f"{matrix.module}\0{-1 if matrix.expert is None else matrix.expert}"
    a = pairs.a(torch.float32) @ _hashes(f"{name}\0in", pairs.in_features).T
    rows = _hashes(f"{name}\0out", pairs.out_features)
    b = torch.zeros(BUCKETS, pairs.rank)
    step = block_rows(pairs.out_features, pairs.rank)
    for start in range(0, pairs.out_features, step):
        stop = min(start + step, pairs.out_features)
        b += rows[:, start:stop] @ pairs.b_rows(start, stop, torch.float32)
    return b.to(torch.float64) @ a.to(torch.float64)


def _hashes(name: str, count: int) -> torch.Tensor:
    """The matrix (16, count) that adds each row or column to its bucket, with its sign."""
    bits = torch.frombuffer(bytearray(hashlib.shake_256(name.encode()).digest(count)), dtype=torch.uint8)
    found = torch.zeros(BUCKETS, count)
    found[(bits & (BUCKETS - 1)).to(torch.int64), torch.arange(count)] = 1.0 - 2.0 * ((bits >> 4) & 1)
    return found
