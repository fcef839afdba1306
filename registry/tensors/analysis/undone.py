"""How much of its parent's delta a link takes back: -<D_c, D_p> / |D_p|^2, the D being those of the two links.

<B A, B' A'> is the sum of the elements of (B^T B') * (A A'^T): two small products for each matrix, a third of the time
that norms from triangles take (`registry.tensors.analysis.deltas` has this figure too, beside angles). Right to about
1e-15 ||B|| ||A|| ||B'|| ||A'||, so of a parent whose factors cancel nothing is said.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

import torch

from registry.tensors.analysis.matrices import changed_side_by_side
from registry.tensors.arithmetic.lanes import in_order
from registry.tensors.path.programs import BoundLink
from registry.tensors.path.stacked_pairs import StackedPairs
from registry.tensors.table.targets import TargetTable

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
    found = list(in_order(lambda name: _products(parent[name], child.get(name)), _in_order_of_names(parent)))
    energy, bound = math.fsum(one.parent for one in found), math.fsum(one.bound for one in found)
    if not _CANCELLED * bound < energy < math.inf:
        return None
    return 0.0 - math.fsum(one.both for one in found) / energy


def _in_order_of_names(names: Iterable[tuple[str, int | None]]) -> list[tuple[str, int | None]]:
    return sorted(names, key=lambda name: (name[0], -1 if name[1] is None else name[1]))


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
