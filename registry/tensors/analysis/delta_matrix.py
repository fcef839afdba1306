"""The deltas of many siblings beside each other: the inner products of all pairs, from factors that are read once.

<B_i A_i, B_j A_j> is the sum of the elements of (B_i^T B_j) * (A_i A_j^T), which are as small as the ranks: one product
of all B of a matrix with themselves, and one of all A. That is right to 1e-15 ||B_i|| ||A_i|| ||B_j|| ||A_j||, which
for single links is as good as the dense way. Norms come from the triangles (`registry.tensors.truncation.truncate`), as
the square root of a rounding error would be 1e-8.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

from registry.progress import SILENT, Progress
from registry.schemas.difference import ChildDelta, DeltaMatrix
from registry.tensors.analysis.deltas import SinceLink, counting
from registry.tensors.analysis.matrices import changed_side_by_side
from registry.tensors.analysis.statistics import other_changes
from registry.tensors.arithmetic.lanes import in_order
from registry.tensors.path.stacked_pairs import StackedPairs
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
        InvalidAdapterError: what `path_programs` raises; ``overflow``, a delta is not finite.
    """
    changed = changed_side_by_side([(child.links, child.since) for child in children], table)
    matrices: dict[tuple[str, int], dict[int, StackedPairs]] = {}
    for number, (one, child) in enumerate(zip(changed, children, strict=True)):
        for matrix in one.by_pairs:
            name = (matrix.module, -1 if matrix.expert is None else matrix.expert)
            matrices.setdefault(name, {})[number] = matrix.pairs(child.since)
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
