"""What one block shows of each candidate: whether every element fits, how far it is, and where it lies between two.

A candidate *fits* if each element is within one unit a rounding. That alone can't distinguish two candidates whose
difference is below the units. So the block is also *projected*: with r = (weights - candidate) / unit for each of them,
the products of all r with each other show where the weights lie on the line between any two.

A third figure shows whether the weights *are* a candidate's: how many elements no usual way of merging gives, bit for
bit. Of what was merged these are none, but for sums that nobody here thought of; of the same adapter some steps
earlier they are a few in a hundred, although every one of them fits.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final

import torch

from registry.tensors.comparison.candidates import BlockRange
from registry.tensors.comparison.quick import Look, QuickComparison, Rows
from registry.tensors.comparison.roundings import (
    SHORT,
    RoundedBlock,
    coarser,
    last_place,
    links_of,
    rounded,
    rounded_block,
    rounded_elements,
    with_rounded_factors,
)
from registry.tensors.path.origins import BaseTensors
from registry.tensors.path.programs import Program

_FLOOR: Final = 2.0**-25
"""Half of the smallest number of float16, through which weights of 16 bits may have gone."""

_EVERY: Final = 16
_TRIED: Final = 4096
"""Elements that nearly always show that a block did not come through a dtype."""


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
    unlike: int = 0  # elements that no one way of merging gives, bit for bit


@dataclass(frozen=True)
class Sample:
    """What a block shows."""

    place: BlockRange
    shares: tuple[Share, ...]
    products: torch.Tensor  # (shares, shares), of the residuals in units
    elements: int  # that were measured
    bytes: int  # that were read


def quick_sample(
    place: BlockRange, quick: QuickComparison, found: BaseTensors, candidates: Sequence[int]
) -> Sample | None:
    """Blocks of which only those elements are measured that are not, bit for bit, what the candidates give.

    None: these are too many.
    """
    programs = place.region.grouped(tuple(candidates))
    rows, stored = _found_rows(place, found)
    at = quick.at(place, rows)
    looks = at.looks(list(programs))
    if looks is None:
        return None
    some = rows[::_EVERY]  # what distances are relative to, where another block does not fit
    size = float(torch.linalg.vector_norm(some, dtype=torch.float32)) ** 2 * rows.shape[0] / some.shape[0]
    read = place.elements * stored.itemsize
    wrong = torch.unique(torch.cat([look.wrong for look in looks]))
    if not len(wrong):
        shares = tuple(
            Share(tuple(numbers), True, -1.0, 0, 0, look.units, 0.0, size)
            for look, numbers in zip(looks, programs.values(), strict=True)
        )
        return Sample(place, shares, torch.zeros(len(shares), len(shares), dtype=torch.float64), 0, read)
    values, least = rows.flatten()[wrong].to(torch.float64), least_dtype(rows, stored)
    measured = []
    for numbers, look in zip(programs.values(), looks, strict=True):
        judged, rendering, explained = _elements(at, look, wrong, values, least)
        other = torch.isin(wrong, look.wrong)
        left = torch.where(other, values - rendering, 0.0)
        share = _share(numbers, judged, place, wrong)
        unlike = int((other & ~explained).count_nonzero())
        share = replace(share, units=max(share.units, look.units), size=size, unlike=unlike)
        measured.append((share, left, judged.units))
    return _sample(place, measured, len(wrong), read)


def take_sample(
    place: BlockRange, base: BaseTensors, found: BaseTensors, candidates: Sequence[int], *, bits: bool = True
) -> Sample:
    """Read a block of the weights that were ``found`` (by the names of the base's files), and compare it.

    ``bits``: also count the elements that no one way of merging gives.
    """
    region = place.region
    rows, stored = _found_rows(place, found)
    values, least = rows.to(torch.float64).flatten(), least_dtype(rows, stored)
    read = place.elements * stored.itemsize
    measured, numbered = [], torch.arange(place.elements)
    for program, numbers in region.grouped(tuple(candidates)).items():
        own = stored if program.origin is None else base.dtype(program.origin)
        shorts = {own, least, stored}.intersection(SHORT)
        block, kept = _block_of(place, base, program, own, shorts, bounded=bits)
        judged = _Judged.of(block, values, program, own, kept, least)
        left = _nearest(values, block.renderings(least), judged.step)
        unlike = _unlike(values, block, least) if bits else 0
        for turned in (with_rounded_factors(program, short) for short in shorts if unlike):
            if turned is None:
                continue
            other, _ = _block_of(place, base, turned, own, shorts, bounded=True)
            if (fewer := _unlike(values, other, least)) < unlike:
                unlike, left = fewer, _nearest(values, other.renderings(least), judged.step)
        measured.append((replace(_share(numbers, judged, place, numbered), unlike=unlike), left, judged.units))
        read += place.elements * own.itemsize
    return _sample(place, measured, place.elements, read)


def _block_of(
    place: BlockRange,
    base: BaseTensors,
    program: Program,
    own: torch.dtype,
    shorts: Iterable[torch.dtype],
    *,
    bounded: bool,
) -> tuple[RoundedBlock, torch.dtype]:
    """A block after a program, and the dtype that the base's own values of it came through."""
    values = base.values(program, torch.float64, merge_products=False, rows_a_block=place.region.rows_a_block)
    # what a quantised base means came through no short dtype: whoever loads it rounds once more than links do
    exact = own if program.origin is None else base.exact_dtype(program.origin)
    kept = least_dtype(values.origin_block(place.index), exact)
    return rounded_block(values, place.index, shorts, bounded=bounded).flat(), kept


def _unlike(values: torch.Tensor, block: RoundedBlock, dtype: torch.dtype) -> int:
    return values.numel() - int(block.explained_by_one(values, dtype).count_nonzero())


def _elements(
    at: Rows, look: Look, wrong: torch.Tensor, values: torch.Tensor, least: torch.dtype
) -> tuple[_Judged, torch.Tensor, torch.Tensor]:
    """What a program makes of chosen elements, how the way of merging that explains the others renders them, and
    which of them it explains as well, whatever its sums in float32 gave."""
    program = look.program
    assert program.origin is not None
    origin, stored = at.origin(program.origin), at.found.dtype
    columns = origin.shape[1]
    rows = wrong // columns + at.place.first_row
    dtypes = {origin.dtype, least, stored}.intersection(SHORT) | ({look.way.dtype} if look.way else set())
    exact = at.values(program, torch.float64, merge_products=False)
    before = origin.flatten()[wrong].to(torch.float64)
    block = rounded_elements(exact, rows, wrong % columns, before, dtypes)
    rendering = rounded(block.values if look.way is None else block.stepwise[look.way], stored)
    explained = block.explained(values, look.way, stored, stored)
    kept = least_dtype(origin, origin.dtype)
    return _Judged.of(block, values, program, origin.dtype, kept, least), rendering, explained


@dataclass(frozen=True)
class _Judged:
    """Elements of one program against what was found: how far they may be from it, and how far they are."""

    block: RoundedBlock
    coarse: torch.dtype
    step: torch.Tensor  # of one rounding on the way
    units: torch.Tensor  # of what the weights came through: bits tell
    allowed: torch.Tensor
    apart: torch.Tensor

    @classmethod
    def of(
        cls,
        block: RoundedBlock,
        values: torch.Tensor,
        program: Program,
        own: torch.dtype,
        kept: torch.dtype,
        least: torch.dtype,
    ) -> _Judged:
        """Of the ``values`` that were found, which came through ``least``; the base's are ``own`` through ``kept``."""
        roundings = links_of(program) + (least is not kept)
        floor = _FLOOR if least in SHORT or own in SHORT else 0.0
        coarse = coarser(own, least)
        step = block.unit(coarse)
        allowed = roundings * step + (1 + roundings) * floor + block.factor_error(coarse)
        # a base may hold numbers that are not finite, in unused rows
        same = (values == block.values) | (values.isnan() & block.values.isnan())
        apart = torch.where(same, 0.0, (values - block.values).abs())
        return cls(block, coarse, step, block.unit(least), allowed, apart)

    @property
    def excess(self) -> torch.Tensor:
        """How much further than roundings explain, in units; below 0 where they do."""
        excess = ((self.apart - self.allowed) / self.step).nan_to_num(nan=torch.inf)
        return torch.where(self.apart == 0, -1.0, excess)


def _sample(
    place: BlockRange, measured: Sequence[tuple[Share, torch.Tensor, torch.Tensor]], elements: int, read: int
) -> Sample:
    """Of shares, the residual of the weights against each, and units."""
    if not measured:  # a head that none of them has
        return Sample(place, (), torch.zeros(0, 0, dtype=torch.float64), 0, read)
    units = torch.stack([one for _, _, one in measured]).amax(dim=0)
    rows = torch.stack([(left / units).nan_to_num(0.0, 0.0, 0.0) for _, left, _ in measured])
    return Sample(place, tuple(share for share, _, _ in measured), rows @ rows.T, elements, read)


def _share(numbers: Sequence[int], judged: _Judged, place: BlockRange, elements: torch.Tensor) -> Share:
    """``elements`` are their numbers in the place."""
    excess, columns = judged.excess, place.region.slot.columns
    at = int(excess.argmax())
    worst, element = excess[at].item(), int(elements[at])
    ulps = (judged.apart / last_place(judged.block.scale, judged.coarse)).nan_to_num(torch.inf)
    return Share(
        candidates=tuple(numbers),
        fits=worst <= 0,
        excess=worst,
        row=place.first_row + element // columns,
        column=element % columns,
        units=ulps.max().item(),
        squares=judged.apart.square().sum().item(),
        size=judged.block.values.nan_to_num(0.0, 0.0, 0.0).square().sum().item(),
    )


def _nearest(values: torch.Tensor, renderings: Iterable[torch.Tensor], step: torch.Tensor) -> torch.Tensor:
    """The residual of the weights against the rendering that explains most of them."""
    left = [values - rendering for rendering in renderings]
    return min(left, key=lambda one: (one / step).square().sum().nan_to_num(torch.inf, torch.inf).item())


def _found_rows(place: BlockRange, found: BaseTensors) -> tuple[torch.Tensor, torch.dtype]:
    """The blocks as they were found, and their dtype."""
    slot = place.region.slot
    if any(run.tensor not in found.tensors for run in slot.places):  # a tied weight that only the other side holds
        slot = next(program.origin for program in place.region.programs if program and program.origin)
    stored = found.dtype(slot)
    rows = found.rows(slot)(place.first_row, place.first_row + place.rows)
    return rows, stored


def least_dtype(values: torch.Tensor, stored: torch.dtype) -> torch.dtype:
    """The dtype of fewest digits that the values have come through, whatever they are stored in."""
    for dtype in SHORT:
        if dtype is stored or (_came_through(values.flatten()[:_TRIED], dtype) and _came_through(values, dtype)):
            return dtype
    return stored


def _came_through(values: torch.Tensor, dtype: torch.dtype) -> bool:
    values = values.to(torch.float64)
    return torch.equal(rounded(values, dtype), values)
