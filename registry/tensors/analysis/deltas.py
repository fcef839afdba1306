"""Two deltas compared module by module: whether they agree, pile up or cancel, and which directions they share.

With D_a and D_b as the deltas of one matrix, or as block-diagonal matrices of several:

- cosine <D_a, D_b> / (|D_a| |D_b|), in the Frobenius inner product;
- energy ratio |D_a + D_b|^2 / (|D_a|^2 + |D_b|^2) = 1 + 2 <D_a, D_b> / (|D_a|^2 + |D_b|^2);
- undone -<D_a, D_b> / |D|^2, the share of one of them, D, that the other takes back;
- principal angles of their row spaces, and of their column spaces;
- overlap, the mean of the squared cosines of these angles (Hu et al. 2021, arXiv:2106.09685, section 7.2).

No delta is ever made. With the factors of all of them side by side, [B_1 B_2 ...] = Q T and [A_1^T A_2^T ...] = P S
(QR), each delta is B_i A_i = Q (T_i S_i^T) P^T. Q and P have orthonormal columns, so norms, inner products, singular
values and angles of the deltas are those of the cores T_i S_i^T, which are as small as the sum of the ranks. Inner
products are right to about 1e-15 ||B_1|| ||A_1|| ||B_2|| ||A_2||, also where links cancel.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeVar

import torch

from registry.progress import SILENT, Progress
from registry.schemas.difference import (
    ComparedDelta,
    Deltas,
    ExpertDifference,
    GroupDifference,
    ModuleDifference,
    OtherDifference,
)
from registry.tensors.analysis.matrices import ChangedMatrices, ChangedMatrix, MatrixName, changed_side_by_side
from registry.tensors.analysis.statistics import in_order_of_layers, layers_of, other_changes, place_of
from registry.tensors.arithmetic.kernel import block_rows
from registry.tensors.arithmetic.threads import in_order
from registry.tensors.path.low_rank import StackedPairs
from registry.tensors.path.programs import BoundLink
from registry.tensors.table.targets import TargetTable
from registry.tensors.truncation.truncate import split_core, triangle

EPS: Final = torch.finfo(torch.float64).eps


@dataclass(frozen=True, eq=False)
class Core:
    """One delta in the bases that all of them share: left diag(values) right^T, zeros left out."""

    values: torch.Tensor  # singular values, largest first
    left: torch.Tensor  # (., rank), of its column space, which is of outputs
    right: torch.Tensor  # (., rank), of its row space, which is of inputs

    @property
    def rank(self) -> int:
        """The numerical rank of the delta."""
        return self.values.shape[0]

    @property
    def norm(self) -> float:
        """The Frobenius norm of the delta."""
        return math.hypot(*self.values.tolist())

    def unit(self) -> torch.Tensor:
        """The core over its norm, which must not be 0."""
        return (self.left * (self.values / self.norm)) @ self.right.T


def cores(deltas: Sequence[StackedPairs], name: str) -> list[Core]:
    """The cores of deltas of one matrix; of those without pairs too. Call it on a lane.

    A singular value counts if it is above max(m, n) eps of the largest, and above the rounding of the factors.

    Args:
        deltas: of matrices of one shape (m, n).
        name: of the module, for the error.

    Raises:
        InvalidAdapterError: ``overflow``, a delta is not finite, or its square leaves float64.
    """
    out_features, in_features = deltas[0].out_features, deltas[0].in_features
    width = sum(one.rank for one in deltas)
    step = max(block_rows(out_features, max(1, width)), 4 * width)

    def blocks() -> Iterator[torch.Tensor]:
        for start in range(0, out_features, step):
            stop = min(start + step, out_features)
            yield torch.cat([one.b_rows(start, stop, torch.float64) for one in deltas], dim=1)

    b = triangle(blocks())
    a = triangle([torch.cat([one.a(torch.float64) for one in deltas]).T])
    found, first = [], 0
    for one in deltas:
        own = slice(first, first := first + one.rank)
        found.append(_core(b[:, own], a[:, own], EPS * max(out_features, in_features), EPS * width, name))
    return found


def _core(b: torch.Tensor, a: torch.Tensor, relative: float, rounding: float, name: str) -> Core:
    left, values, right = split_core(b, a, rounding=rounding, relative=relative, name=name, what="compared")
    return Core(values, left, right.T)


def inner_product(a: Core, b: Core) -> float:
    """The inner product of two deltas over their norms; 0 where one of them is zero."""
    if not a.rank or not b.rank:
        return 0.0
    return max(-1.0, min(1.0, float((a.unit() * b.unit()).sum())))


def principal_angles(a: torch.Tensor, b: torch.Tensor) -> tuple[float, ...]:
    """Angles between two subspaces, smallest first, in radians: as many as the smaller one has dimensions.

    The cosines are the singular values of a^T b, the sines those of the part of b orthogonal to a. Small angles are
    taken from the sines, since in float64 the cosine of a small angle does not determine it (Bjorck and Golub 1973).

    Args:
        a, b: orthonormal columns.
    """
    if a.shape[1] < b.shape[1]:
        a, b = b, a
    if not b.shape[1]:
        return ()
    shared = a.T @ b
    cosines = torch.linalg.svdvals(shared).clamp(max=1.0)
    sines = torch.linalg.svdvals(b - a @ shared).flip(0).clamp(max=1.0)
    angles = torch.where(cosines**2 < 0.5, torch.acos(cosines), torch.asin(sines))
    return tuple(angles.tolist())


Side = Literal["a", "b"]
T = TypeVar("T")


@dataclass(frozen=True)
class SinceLink:
    """What the links of a path from number ``since`` on do together."""

    name: ComparedDelta
    links: Sequence[BoundLink]  # the whole path, root first
    since: int


def compare_deltas(
    a: SinceLink, b: SinceLink, table: TargetTable, *, undone_of: Side, progress: Progress = SILENT
) -> Deltas:
    """Compare what some links of two paths from one base model add.

    Args:
        a, b: the two deltas.
        table: of the base model of both.
        undone_of: whose share `undone` is.
        progress: of matrices.

    Raises:
        InvalidAdapterError: what `changed_side_by_side` raises; ``overflow``, a delta is not finite.
    """
    changed = changed_side_by_side([(side.links, side.since) for side in (a, b)], table)
    both = _by_name(changed)
    left_out = _others(changed, both, (a.since, b.since))
    matrices = [
        _Both(name, pair, (a.since, b.since), tuple(name[0] in one.others for one in changed))
        for name, pair in sorted(both.items())
        if not _has_no_sum(pair, (a.since, b.since))
    ]
    figured = in_order(lambda both: _Compared(both, figures_of_pairs(both.deltas(), both.name[0])), matrices)
    compared = list(counting(figured, len(matrices), progress))
    modules = tuple(_modules(compared, undone_of))
    return Deltas(
        **_figures([one.figures for one in compared], undone_of),
        a=a.name,
        b=b.name,
        undone_of=undone_of,
        modules=modules,
        kinds=_groups(compared, undone_of, lambda module: place_of(module)[1]),
        depths=_groups(compared, undone_of, layers_of(one.module for one in compared)),
        others=left_out,
    )


_Pair = tuple[ChangedMatrix | None, ChangedMatrix | None]
_Since = tuple[int, int]


def counting(made: Iterable[T], total: int, progress: Progress) -> Iterator[T]:
    """The same, with a step of the progress for each."""
    progress.begin("Comparing deltas", total)
    for one in made:
        progress.advance(1)
        yield one


@dataclass(frozen=True)
class _Both:
    """What both paths do to one matrix."""

    name: MatrixName
    pair: _Pair
    since: _Since
    by_values: tuple[bool, ...]  # whether values of it are replaced on a side that adds nothing to it

    def deltas(self) -> list[StackedPairs]:
        """The pairs of both; of a side that adds nothing, none."""
        shape = next((one.out_features, one.in_features) for one in self.pair if one is not None)
        return [
            StackedPairs((), *shape) if one is None else one.pairs(since)
            for one, since in zip(self.pair, self.since, strict=True)
        ]

    def any(self, told: Callable[[ChangedMatrix, int], bool]) -> bool:
        """Whether it is true of a side."""
        return any(one is not None and told(one, since) for one, since in zip(self.pair, self.since, strict=True))


@dataclass(frozen=True)
class MatrixFigures:
    """What is known of two deltas of one matrix."""

    norms: tuple[float, float]
    cosine: float  # 0 where one of them is zero
    row_angles: tuple[float, ...]
    column_angles: tuple[float, ...]


@dataclass(frozen=True)
class _Compared:
    both: _Both
    figures: MatrixFigures

    @property
    def module(self) -> str:
        return self.both.name[0]


def figures_of_pairs(deltas: Sequence[StackedPairs], name: str) -> MatrixFigures:
    """Compare two deltas of one matrix. Call it on a lane.

    Raises:
        InvalidAdapterError: ``overflow``, a delta is not finite.
    """
    a, b = cores(deltas, repr(name))
    return MatrixFigures(
        norms=(a.norm, b.norm),
        cosine=inner_product(a, b),
        row_angles=principal_angles(a.right, b.right),
        column_angles=principal_angles(a.left, b.left),
    )


def _by_name(changed: Sequence[ChangedMatrices]) -> dict[MatrixName, _Pair]:
    a, b = ({matrix.name: matrix for matrix in side.by_pairs} for side in changed)
    return {name: (a.get(name), b.get(name)) for name in a.keys() | b.keys()}


def _has_no_sum(pair: _Pair, since: _Since) -> bool:
    return any(one is not None and one.adds_after_scaling(first) for one, first in zip(pair, since, strict=True))


def _others(
    changed: Sequence[ChangedMatrices], both: Mapping[MatrixName, _Pair], since: _Since
) -> tuple[OtherDifference, ...]:
    """What is no product of factors on a side, with what the other side does where it is left out for that."""
    told: dict[str, dict[str, Any]] = {}
    for key, one, first in zip(("a", "b"), changed, since, strict=True):
        for other in other_changes(one, first):
            told.setdefault(other.name, {})[key] = other.how
    for (module, expert), pair in both.items():
        if _has_no_sum(pair, since):
            sides = told[module if expert < 0 else f"{module}.{expert}"]
            for key, matrix in zip(("a", "b"), pair, strict=True):
                if matrix is not None:
                    sides.setdefault(key, "added to")
    return tuple(OtherDifference(name=name, **sides) for name, sides in sorted(told.items()))


def _modules(compared: Sequence[_Compared], undone_of: Side) -> Iterator[ModuleDifference]:
    by_name: dict[str, list[_Compared]] = {}
    for one in compared:
        by_name.setdefault(one.module, []).append(one)
    for name, matrices in by_name.items():
        depth, kind = place_of(name)
        experts = [one for one in matrices if one.both.name[1] >= 0]
        yield ModuleDifference(
            **_figures([one.figures for one in matrices], undone_of),
            **({} if experts else _angles(matrices[0].figures)),
            module=name,
            kind=kind,
            depth=depth,
            scaled=any(one.both.any(ChangedMatrix.is_scaled) for one in matrices),
            replaced=any(any(one.both.by_values) or one.both.any(ChangedMatrix.is_replaced) for one in matrices),
            experts=tuple(
                ExpertDifference(**_figures([one.figures], undone_of), **_angles(one.figures), expert=one.both.name[1])
                for one in experts
            ),
        )


def _angles(figures: MatrixFigures) -> dict[str, Any]:
    return {"row_angles": figures.row_angles, "column_angles": figures.column_angles}


def _groups(
    compared: Sequence[_Compared], undone_of: Side, name_of: Callable[[str], str]
) -> tuple[GroupDifference, ...]:
    by_name: dict[str, list[_Compared]] = {}
    for one in compared:
        by_name.setdefault(name_of(one.module), []).append(one)
    return tuple(
        GroupDifference(
            **_figures([one.figures for one in by_name[name]], undone_of),
            name=name,
            modules=len({one.module for one in by_name[name]}),
        )
        for name in sorted(by_name, key=in_order_of_layers)
    )


def _figures(matrices: Sequence[MatrixFigures], undone_of: Side) -> dict[str, Any]:
    """The fields of `registry.schemas.difference.DeltaFigures`, of several matrices as of a block-diagonal one."""
    a, b = (math.hypot(*(one.norms[side] for one in matrices)) for side in (0, 1))
    return {
        "frobenius_a": a,
        "frobenius_b": b,
        **_agreement(a, b, matrices, undone_of),
        "row_overlap": _overlap([one.row_angles for one in matrices]),
        "column_overlap": _overlap([one.column_angles for one in matrices]),
    }


def _agreement(a: float, b: float, matrices: Sequence[MatrixFigures], undone_of: Side) -> dict[str, float | None]:
    """Cosine, energy ratio and the undone share; None where they are 0 / 0."""
    # Over the norms of the whole, as squares of small ones leave float64.
    cosine = math.fsum(one.cosine * (one.norms[0] / a) * (one.norms[1] / b) for one in matrices) if a and b else 0.0
    longer = max(a, b)
    share_a, share_b = (a / longer, b / longer) if longer else (0.0, 0.0)
    of, by = (a, b) if undone_of == "a" else (b, a)
    return {
        "cosine": max(-1.0, min(1.0, cosine)) if a and b else None,
        "energy_ratio": 1 + 2 * cosine * share_a * share_b / (share_a**2 + share_b**2) if longer else None,
        "undone": 0.0 - cosine * (by / of) if of else None,
    }


def _overlap(angles: Sequence[tuple[float, ...]]) -> float | None:
    every = [math.cos(angle) ** 2 for some in angles for angle in some]
    return math.fsum(every) / len(every) if every else None
