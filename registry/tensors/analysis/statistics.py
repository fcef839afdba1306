"""Statistics of deltas: singular values from the factors, then figures of modules and of all of them.

The singular values of B A come from two small triangles (`registry.tensors.truncation.truncate`), in float64: right to
1e-13 of ||B|| ||A||, and no delta is ever made. No weight of the base is read; its norms are given.

The figures are norms, and how many directions a delta has. With singular values s_1 >= s_2 >= ..., energy E = sum s_i^2
and shares p_i = s_i^2 / E:

- Frobenius norm sqrt(E), spectral norm s_1;
- stable rank E / s_1^2 (Rudelson and Vershynin 2007);
- effective rank exp(-sum p_i ln p_i). Tools differ: Roy and Vetterli (2007) take p_i = s_i / sum s;
- the rank that holds a share P of the energy: the smallest k with s_1^2 + ... + s_k^2 >= P E. The best pair of that
  rank has a relative error of at most sqrt(1 - P) (Eckart and Young 1936).

Several matrices together are the blocks of one block-diagonal matrix: energies add up, the spectral norm is the
largest, the rank that holds a share is the smallest cap, equal for all, that does; stable and effective rank are means
weighted by energy, as those of the block-diagonal matrix would grow with the number of blocks.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch

from registry.schemas.statistics import (
    DeltaStatistics,
    ExpertStatistics,
    GroupStatistics,
    ModuleStatistics,
    OtherChange,
)
from registry.tensors.analysis.matrices import ChangedMatrices, ChangedMatrix, changed_matrices
from registry.tensors.arithmetic.kernel import block_rows
from registry.tensors.arithmetic.threads import in_order
from registry.tensors.path.low_rank import StackedPairs
from registry.tensors.path.programs import BoundLink, path_programs
from registry.tensors.path.steps import Replace
from registry.tensors.table.slots import Slot
from registry.tensors.table.targets import TargetTable
from registry.tensors.truncation.truncate import from_triangles, triangle

SHARES: Final = {"rank90": 0.90, "rank95": 0.95, "rank99": 0.99}
"""Names of the ranks that hold so much of the energy."""


def figures(spectra: Sequence[Sequence[float]], rank: int, base_norm: float | None) -> dict[str, Any]:
    """The fields of `registry.schemas.statistics.Figures` of some matrices together.

    Args:
        spectra: singular values of each matrix, largest first, zeros left out.
        rank: of the factors.
        base_norm: Frobenius norm of the base's weights that they change; None where it is not known.
    """
    energies = [math.fsum(value * value for value in values) for values in spectra]
    energy = math.fsum(energies)
    spectral = max((values[0] for values in spectra if values), default=0.0)
    frobenius = math.sqrt(energy)
    return {
        "rank": rank,
        "energy": energy,
        "frobenius": frobenius,
        "spectral": spectral,
        "stable_rank": _mean(stable_rank, spectra, energies),
        "effective_rank": _mean(effective_rank, spectra, energies),
        **ranks_that_hold(spectra),
        "relative_frobenius": frobenius / base_norm if base_norm else None,
        "relative_spectral": spectral / base_norm if base_norm else None,
    }


def stable_rank(values: Sequence[float]) -> float:
    """Energy over the largest singular value squared; 0 of a zero matrix."""
    return math.fsum((value / values[0]) ** 2 for value in values) if values else 0.0


def effective_rank(values: Sequence[float]) -> float:
    """The exponential of the entropy of the energy's shares; 0 of a zero matrix."""
    if not values:
        return 0.0
    shares = [(value / values[0]) ** 2 for value in values]
    total = math.fsum(shares)
    return math.exp(-math.fsum(share / total * math.log(share / total) for share in shares if share > 0))


def ranks_that_hold(spectra: Sequence[Sequence[float]]) -> dict[str, int]:
    """The smallest cap for all matrices that holds each of `SHARES` of their energy; 0 where they are zero."""
    left_out = _left_out(spectra)
    return {
        name: next(rank for rank, energy in enumerate(left_out) if energy <= (1 - share) * left_out[0])
        for name, share in SHARES.items()
    }


def energy_by_rank(spectra: Sequence[Sequence[float]]) -> tuple[float, ...]:
    """The share of the energy that a cap of 1, 2, ... for all matrices holds, up to the largest rank."""
    left_out = _left_out(spectra)
    return tuple(1 - energy / left_out[0] for energy in left_out[1:])


def _left_out(spectra: Sequence[Sequence[float]]) -> list[float]:
    """The energy that a cap of 0, 1, ... for all matrices leaves out."""
    longest = max((len(values) for values in spectra), default=0)
    found = [0.0]
    for k in reversed(range(longest)):
        found.append(found[-1] + math.fsum(values[k] ** 2 for values in spectra if k < len(values)))
    return found[::-1]


def _mean(
    figure: Callable[[Sequence[float]], float], spectra: Sequence[Sequence[float]], energies: Sequence[float]
) -> float:
    total = math.fsum(energies)
    if not total:
        return 0.0
    return math.fsum(energy / total * figure(values) for values, energy in zip(spectra, energies, strict=True))


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
    whole = figures(every, ranks, base_norm([one.matrix for one in measured], norms or {}))
    return DeltaStatistics(
        **whole,
        modules=modules,
        kinds=_groups(modules, lambda module: place_of(module)[1]),
        depths=_groups(modules, layers_of(one.module for one in modules)),
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

    Call it on a lane (`registry.tensors.arithmetic.threads`).
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
    """Depth and kind of a module: the first number in its name, and what follows it; of others no depth.

    A block of a UNet has blocks in it, which are no part of the kind.
    """
    parts = module.split(".")
    at = next((n for n, part in enumerate(parts[:-1]) if part.isdecimal()), None)
    return (None, module) if at is None else (int(parts[at]), _INNER.sub("", ".".join(parts[at + 1 :])))


_INNER: Final = re.compile(r"^((attentions|resnets|downsamplers|upsamplers|transformer_blocks|motion_modules)\.\d+\.)+")


def layers_of(modules: Iterable[str]) -> Callable[[str], str]:
    """What groups modules by layer: their depth, with the name of their stack where there are several stacks."""
    stacks = {_stack(module) for module in modules} - {None}

    def layer(module: str) -> str:
        depth = place_of(module)[0]
        if depth is None:
            return "none"
        return str(depth) if len(stacks) == 1 else f"{_stack(module)}.{depth}"

    return layer


def _stack(module: str) -> str | None:
    """What stands before the first number in the name of a module: down_blocks; None: it has no depth."""
    found = re.match(r"(.+?)\.\d+\.", module)
    return None if found is None else found[1]


def in_order_of_layers(name: str) -> tuple[bool, list[tuple[bool, int, str]]]:
    """A key that sorts names of groups, numbers in them by their value."""
    return name == "none", [(part.isdecimal(), int(part) if part.isdecimal() else 0, part) for part in name.split(".")]


def _figures(matrices: Sequence[Measured], since: int, norms: Norms) -> dict[str, Any]:
    rank = max(one.matrix.pairs(since).rank for one in matrices)
    return figures([one.values for one in matrices], rank, base_norm([one.matrix for one in matrices], norms))


def base_norm(matrices: Sequence[ChangedMatrix], norms: Norms) -> float | None:
    """The Frobenius norm of the base's weights of some matrices; None where one of them is not known."""
    slots = [slot for matrix in matrices for slot in matrix.slots]
    if not slots or any(slot not in norms for slot in slots) or not all(matrix.slots for matrix in matrices):
        return None
    return math.hypot(*(norms[slot] for slot in slots))


def _groups(modules: Sequence[ModuleStatistics], name_of: Callable[[str], str]) -> tuple[GroupStatistics, ...]:
    total = math.fsum(module.energy for module in modules)
    by_name: dict[str, list[float]] = {}
    for module in modules:
        by_name.setdefault(name_of(module.module), []).append(module.energy)
    found = []
    for name in sorted(by_name, key=in_order_of_layers):
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
