"""What one block shows of each candidate: whether every element fits, how far it is, and where it lies between two.

A candidate *fits* if each element is within one unit a rounding. That alone can't tell two candidates apart whose
difference is below the units. So the block is also *projected*: with r = (weights - candidate) / unit for each of them,
the products of all r with each other say where the weights lie on the line between any two.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import torch

from registry.tensors.comparison.places import Place
from registry.tensors.comparison.quick import QuickComparison
from registry.tensors.comparison.rounded_path import (
    SHORT,
    coarser,
    last_place,
    links_of,
    rounded,
    rounded_block,
)
from registry.tensors.path.origins import BaseTensors
from registry.tensors.path.programs import Program

_FLOOR: Final = 2.0**-25
"""Half of the smallest number of float16, through which weights of 16 bits may have gone."""

_EVERY: Final = 16


@dataclass(frozen=True)
class Share:
    """What a block shows of the candidates that make the same of it."""

    candidates: tuple[int, ...]  # by number
    fits: bool
    excess: float  # the largest, in units, beyond what roundings explain; below 0 where all fit
    row: int  # where that is
    column: int
    units: float  # the largest difference, in units in the last place of what is rounded on the way
    squares: float  # sum of (weights - candidate)^2
    size: float  # sum of candidate^2


@dataclass(frozen=True)
class Sample:
    """What a block shows."""

    place: Place
    shares: tuple[Share, ...]
    products: torch.Tensor  # (shares, shares), of the residuals in units
    elements: int  # that were measured
    bytes: int  # that were read


def exact_sample(place: Place, quick: QuickComparison, found: BaseTensors, candidates: Sequence[int]) -> Sample | None:
    """Blocks that are bit for bit what all candidates give, without measuring anything; None: they are not."""
    programs: dict[Program, list[int]] = {}
    for number in candidates:
        program = place.region.programs[number]
        if program is not None:
            programs.setdefault(program, []).append(number)
    rows, stored = _found_rows(place, found)
    errors = quick.errors(place, list(programs), rows)
    if errors is None:
        return None
    some = rows[::_EVERY]  # what distances are relative to, where another block does not fit
    size = float(torch.linalg.vector_norm(some, dtype=torch.float32)) ** 2 * rows.shape[0] / some.shape[0]
    shares = tuple(
        Share(tuple(numbers), True, -1.0, 0, 0, units, 0.0, size)
        for units, numbers in zip(errors, programs.values(), strict=True)
    )
    nothing = torch.zeros(len(shares), len(shares), dtype=torch.float64)
    return Sample(place, shares, nothing, 0, place.elements * stored.itemsize)


def take_sample(place: Place, base: BaseTensors, found: BaseTensors, candidates: Sequence[int]) -> Sample:
    """Read a block of the weights that were ``found`` (by the names of the base's files), and compare it."""
    region = place.region
    groups: dict[Program, list[int]] = {}
    for number in candidates:
        program = region.programs[number]
        if program is not None:
            groups.setdefault(program, []).append(number)
    values, stored = _found_block(place, found)
    least = least_dtype(values, stored)
    read = place.elements * stored.itemsize
    residuals, shares, units = [], [], torch.zeros_like(values)  # units of what the weights came through: bits tell
    for program, numbers in groups.items():
        slot_values = base.values(program, torch.float64, merge_products=False, rows_a_block=region.rows_a_block)
        own = stored if program.origin is None else base.dtype(program.origin)
        kept = least_dtype(slot_values.origin_block(place.index).to(torch.float64), own)
        block = rounded_block(slot_values, place.index, {own, least, stored}.intersection(SHORT))
        roundings = links_of(program) + (least is not kept)
        floor = _FLOOR if least in SHORT or own in SHORT else 0.0
        coarse = coarser(own, least)
        step = block.unit(coarse)
        units = torch.maximum(units, block.unit(least))
        allowed = roundings * step + (1 + roundings) * floor + block.factor_error(coarse)
        apart = _apart(values, block.values)
        excess = ((apart - allowed) / step).nan_to_num(nan=torch.inf)
        residuals.append(_nearest(values, block.renderings(least), step))
        ulps = (apart / last_place(block.scale, coarse)).nan_to_num(torch.inf).max().item()
        shares.append(_share(numbers, torch.where(apart == 0, -1.0, excess), apart, block.values, place, ulps))
        read += place.elements * own.itemsize
    if not residuals:  # a head that none of them has
        return Sample(place, (), torch.zeros(0, 0, dtype=torch.float64), 0, read)
    rows = torch.stack([(residual / units).nan_to_num(0.0, 0.0, 0.0).flatten() for residual in residuals])
    return Sample(place, tuple(shares), rows @ rows.T, place.elements, read)


def _apart(values: torch.Tensor, expected: torch.Tensor) -> torch.Tensor:
    """How far each element is from what is expected; a base may hold numbers that are not finite, in unused rows."""
    same = (values == expected) | (values.isnan() & expected.isnan())
    return torch.where(same, 0.0, (values - expected).abs())


def _share(
    numbers: Sequence[int],
    excess: torch.Tensor,
    apart: torch.Tensor,
    expected: torch.Tensor,
    place: Place,
    units: float,
) -> Share:
    at, columns = int(excess.argmax()), excess.shape[1]
    worst = excess.flatten()[at].item()
    return Share(
        candidates=tuple(numbers),
        fits=worst <= 0,
        excess=worst,
        row=place.index * place.region.rows_a_block + at // columns,
        column=at % columns,
        units=units,
        squares=apart.square().sum().item(),
        size=expected.nan_to_num(0.0, 0.0, 0.0).square().sum().item(),
    )


def _nearest(values: torch.Tensor, renderings: Iterable[torch.Tensor], step: torch.Tensor) -> torch.Tensor:
    """What is left of the weights beside the rendering that explains most of them."""
    left = [values - rendering for rendering in renderings]
    return min(left, key=lambda one: (one / step).square().sum().nan_to_num(torch.inf, torch.inf).item())


def _found_block(place: Place, found: BaseTensors) -> tuple[torch.Tensor, torch.dtype]:
    """The block of the weights that were found, in float64, and the dtype that they are kept in."""
    rows, stored = _found_rows(place, found)
    return rows.to(torch.float64), stored


def _found_rows(place: Place, found: BaseTensors) -> tuple[torch.Tensor, torch.dtype]:
    """The blocks as they were found, and their dtype."""
    slot = place.region.slot
    if any(run.tensor not in found.tensors for run in slot.places):  # a tied weight that only the other side holds
        slot = next(program.origin for program in place.region.programs if program and program.origin)
    stored = found.dtype(slot)
    rows = found.rows(slot)(place.first_row, place.first_row + place.rows)
    return rows, stored


def least_dtype(values: torch.Tensor, stored: torch.dtype) -> torch.dtype:
    """The dtype of fewest digits that the values have come through, whatever they are kept in."""
    for dtype in SHORT:
        if dtype is stored or torch.equal(rounded(values, dtype), values):
            return dtype
    return stored
