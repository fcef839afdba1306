"""Statistics of deltas: singular values from the factors, then figures of modules and of all of them.

The singular values of B A come from two small triangles (`registry.tensors.truncation.truncate`), in float64: right to
1e-13 of ||B|| ||A||, and no delta is ever made. No weight of the base is read; its norms are given.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from registry.schemas.statistics import (
    DeltaStatistics,
    ExpertStatistics,
    GroupStatistics,
    ModuleStatistics,
    OtherChange,
)
from registry.tensors.analysis.matrices import ChangedMatrices, ChangedMatrix, changed_matrices
from registry.tensors.analysis.spectra import energy_by_rank, figures
from registry.tensors.arithmetic.blocks import block_rows
from registry.tensors.arithmetic.lanes import in_order
from registry.tensors.factors.slots import Slot
from registry.tensors.path.programs import BoundLink, path_programs
from registry.tensors.path.stacked_pairs import StackedPairs
from registry.tensors.path.steps import Replace
from registry.tensors.table.targets import TargetTable
from registry.tensors.truncation.truncate import from_triangles, triangle

Norms = Mapping[Slot, float]
"""Frobenius norms of the base's slots, as far as they are known."""


def delta_statistics(
    links: Sequence[BoundLink], table: TargetTable, *, since: int = 0, norms: Norms | None = None
) -> DeltaStatistics:
    """Statistics of what the links from number ``since`` on add together.

    Args:
        links: the whole path, root first.
        table: the base's target table.
        since: number of the first link that counts; the last link alone is ``len(links) - 1``.
        norms: of the base's slots, for the relative figures.

    Raises:
        InvalidAdapterError: what `path_programs` raises; ``overflow``, a delta is not finite.
    """
    changed = changed_matrices(links, path_programs(links, table), table, since)
    summed = [one for one in changed.by_pairs if not one.adds_after_scaling(since)]
    spectra = list(in_order(lambda one: singular_values(one.pairs(since), one.module), summed))
    measured = [Measured(one, values) for one, values in zip(summed, spectra, strict=True)]
    modules = tuple(_modules(measured, since, norms or {}))
    every = [one.values for one in measured]
    ranks = max((module.rank for module in modules), default=0)
    whole = figures(every, ranks, _norm([one.matrix for one in measured], norms or {}))
    return DeltaStatistics(
        **whole,
        modules=modules,
        kinds=_groups(modules, lambda module: module.kind),
        depths=_groups(modules, lambda module: "none" if module.depth is None else str(module.depth)),
        energy_by_rank=energy_by_rank(every),
        others=tuple(other_changes(changed, since)),
    )


@dataclass(frozen=True)
class Measured:
    """A matrix and the singular values of its delta, largest first, zeros left out."""

    matrix: ChangedMatrix
    values: tuple[float, ...]


def singular_values(pairs: StackedPairs, name: str) -> tuple[float, ...]:
    """Singular values of the sum of pairs, largest first; those that are zero up to rounding are left out.

    Call it on a lane (`registry.tensors.arithmetic.lanes`).
    """
    if not pairs.parts:
        return ()
    step = max(block_rows(pairs.out_features, pairs.rank), 4 * pairs.rank)

    def blocks() -> Iterator[torch.Tensor]:
        for start in range(0, pairs.out_features, step):
            yield pairs.b_rows(start, min(start + step, pairs.out_features), torch.float64)

    return from_triangles(triangle(blocks()), triangle([pairs.a(torch.float64).T]), name=repr(name)).singular_values


def _modules(measured: Sequence[Measured], since: int, norms: Norms) -> Iterator[ModuleStatistics]:
    by_name: dict[str, list[Measured]] = {}
    for one in measured:
        by_name.setdefault(one.matrix.module, []).append(one)
    for name, matrices in by_name.items():
        depth, kind = place_of(name)
        yield ModuleStatistics(
            **_figures(matrices, since, norms),
            module=name,
            kind=kind,
            depth=depth,
            scaled=any(one.matrix.is_scaled(since) for one in matrices),
            replaced=any(one.matrix.is_replaced(since) for one in matrices),
            experts=tuple(
                ExpertStatistics(**_figures([one], since, norms), expert=one.matrix.expert)
                for one in matrices
                if one.matrix.expert is not None
            ),
        )


def place_of(module: str) -> tuple[int | None, str]:
    """Depth and kind of a module: the first number in its name, and what follows it; of others no depth."""
    parts = module.split(".")
    at = next((n for n, part in enumerate(parts[:-1]) if part.isdecimal()), None)
    return (None, module) if at is None else (int(parts[at]), ".".join(parts[at + 1 :]))


def _figures(matrices: Sequence[Measured], since: int, norms: Norms) -> dict[str, Any]:
    rank = max(one.matrix.pairs(since).rank for one in matrices)
    return figures([one.values for one in matrices], rank, _norm([one.matrix for one in matrices], norms))


def _norm(matrices: Sequence[ChangedMatrix], norms: Norms) -> float | None:
    """The Frobenius norm of the base's weights of some matrices; None where one of them is not known."""
    slots = [slot for matrix in matrices for slot in matrix.slots]
    if not slots or any(slot not in norms for slot in slots) or not all(matrix.slots for matrix in matrices):
        return None
    return math.hypot(*(norms[slot] for slot in slots))


def _groups(
    modules: Sequence[ModuleStatistics], name_of: Callable[[ModuleStatistics], str]
) -> tuple[GroupStatistics, ...]:
    total = math.fsum(module.energy for module in modules)
    by_name: dict[str, list[float]] = {}
    for module in modules:
        by_name.setdefault(name_of(module), []).append(module.energy)
    found = []
    for name in sorted(by_name, key=lambda name: (not name.isdecimal(), int(name) if name.isdecimal() else 0, name)):
        energy = math.fsum(by_name[name])
        share = energy / total if total else 0.0
        found.append(GroupStatistics(name=name, modules=len(by_name[name]), energy=energy, share=share))
    return tuple(found)


def other_changes(changed: ChangedMatrices, since: int) -> Iterator[OtherChange]:
    """What the links from number ``since`` on change by no sum of products, so that no figure has it."""
    for matrix in changed.by_pairs:
        if matrix.adds_after_scaling(since):
            name = matrix.module if matrix.expert is None else f"{matrix.module}.{matrix.expert}"
            yield OtherChange(name=name, how="rescaled and added to")
    for name, program in changed.others.items():
        whole = any(isinstance(step, Replace) for step in program.since(since))
        yield OtherChange(name=name, how="replaced" if whole else "rows replaced")
