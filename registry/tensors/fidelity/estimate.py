"""Fidelity estimated from a random sample of the base's rows, without making a model: of each link, and of the path.

A link's change is against the weights that it was trained on, those of the path before it; the path's is against the
base. All of it is in float64, on the sampled rows alone.

The sample gives values for all rows with 99 % intervals. The rows of all slots, one slot below the other, are cut into
runs of about 64 KiB, which is what it costs to read few rows anyway. Neighbouring runs are put into strata of equal
length, and four of each are drawn. A figure is a ratio of two sums; its variance is that of a ratio in stratified
sampling (Cochran, Sampling Techniques, 1977, 6.11).
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final, Literal, NamedTuple

import torch

from registry.errors import InvalidAdapterError
from registry.schemas.artifacts import UnmeasuredTensor
from registry.tensors.arithmetic.kernel import holding
from registry.tensors.arithmetic.threads import in_order
from registry.tensors.fidelity.meter import NOTHING, Sums, in_dtype, sums
from registry.tensors.path.origins import BaseTensors
from registry.tensors.path.programs import BoundLink, Program, path_programs
from registry.tensors.path.slot_values import RecentFactors, SlotValues
from registry.tensors.path.steps import Add, Replace, Rescale, SetRows
from registry.tensors.table.targets import TargetTable

RUN: Final = 64 << 10
"""Bytes of a run, or one row where rows are longer."""
_DRAWN: Final = 4  # of each stratum: two would show how its runs differ, but not well where strata are few
_Z: Final = 2.5758293035489004  # 99 % of a normal variable lie within it
_FEWEST: Final = 3.0  # degrees of freedom down to which `_quantile` is right to a few percent


@dataclass(frozen=True)
class Stratum:
    """Some neighbouring units, by number, and those of them that are drawn."""

    units: range
    drawn: tuple[int, ...]


class Ratio(NamedTuple):
    """A ratio of two sums over all units, and the ends of its 99 % interval."""

    value: float
    low: float
    high: float


def strata(units: int, wanted: int, seed: int) -> list[Stratum]:
    """Strata of so many units, of which ``wanted`` are drawn: all if there are no more."""
    if wanted >= units:
        return [Stratum(range(units), tuple(range(units)))]
    drawn = min(_DRAWN, max(2, wanted))
    count = max(1, wanted // drawn)
    draw = random.Random(seed)  # noqa: S311 - the same sample each time
    ends = [units * number // count for number in range(count + 1)]
    found = []
    for start, stop in pairwise(ends):
        found.append(Stratum(range(start, stop), tuple(sorted(draw.sample(range(start, stop), drawn)))))
    return found


def ratio(sample: Sequence[Stratum], above: Sequence[float], below: Sequence[float]) -> Ratio | None:
    """The ratio of two sums over all units, from the drawn ones.

    Args:
        sample: the strata.
        above: the numerator's part of each drawn unit, stratum by stratum.
        below: the denominator's.

    Returns:
        None where the denominator is 0.
    """
    weights = [len(one.units) / len(one.drawn) for one in sample for _ in one.drawn]
    total = math.fsum(weight * value for weight, value in zip(weights, below, strict=True))
    if not total:
        return None
    value = math.fsum(weight * one for weight, one in zip(weights, above, strict=True)) / total
    variances, freedom, at = [], [], 0
    for one in sample:
        many = len(one.drawn)
        rest = [above[n] - value * below[n] for n in range(at, at + many)]
        at += many
        if many == len(one.units):
            continue
        mean = math.fsum(rest) / many
        spread = math.fsum((each - mean) ** 2 for each in rest) / (many - 1)
        variances.append(len(one.units) ** 2 * (1 - many / len(one.units)) * spread / many / total**2)
        freedom.append(many - 1)
    half = _half_width(variances, freedom)
    return Ratio(value, value - half, value + half)


def _half_width(variances: Sequence[float], freedom: Sequence[int]) -> float:
    """Half of a 99 % interval; the degrees of freedom are Satterthwaite's."""
    summed = math.fsum(variances)
    squares = math.fsum(one * one / many for one, many in zip(variances, freedom, strict=True))
    return _quantile(summed * summed / squares) * math.sqrt(summed) if squares else 0.0


def _quantile(freedom: float) -> float:
    """The 99.5 % quantile of Student's t, by the expansion of Cornish and Fisher."""
    n, z = max(freedom, _FEWEST), _Z
    first = (z**3 + z) / 4
    second = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + first / n + second / n**2 + third / n**3


LIMIT: Final = 16 << 20
"""Bytes of the base's rows that are read."""


@dataclass(frozen=True)
class Estimated:
    """Figures of one change; None each where it is 0."""

    relative_error: Ratio | None
    unchanged_share: Ratio | None
    surviving_share: Ratio | None


@dataclass(frozen=True)
class EstimatedPath:
    """Of each link from some number on, and of these together."""

    links: tuple[Estimated, ...]
    path: Estimated
    read: int  # bytes of the base's rows
    left_out: tuple[UnmeasuredTensor, ...]


def estimate(
    links: Sequence[BoundLink],
    table: TargetTable,
    base: BaseTensors,
    dtype: torch.dtype,
    *,
    seed: int,
    since: int = 0,
    limit: int = LIMIT,
) -> EstimatedPath:
    """Estimate what rounding to ``dtype`` leaves of a path and of its links.

    Args:
        links: the path, root first.
        table: the base's target table.
        base: its tensors.
        dtype: that merged weights would have.
        seed: draws the sample.
        since: number of the first link that counts; the path's change is then against the weights before it.
        limit: bytes of the base's rows that are read, about; where all rows are fewer, figures are exact.

    Raises:
        InvalidAdapterError: what `path_programs` raises; ``overflow``: a weight is too large for the dtype.
    """
    placed = path_programs(links, table).placed().values()
    programs = {program.slot: program for places in placed for _, program in places}
    reasons = {(slot.tensor, how) for slot, one in programs.items() if (how := _reason(one))}
    wanted = [one for _, one in sorted(programs.items()) if _is_measured(one)]
    kept = [RecentFactors() for _ in links]
    counted = range(since, len(links))
    units = [unit for program in wanted for unit in _units(_Chain(program, base, dtype, counted, kept))]
    total = sum(unit.bytes for unit in units)
    sample = strata(len(units), len(units) if total <= limit else max(2, limit * len(units) // total), seed)
    drawn = [units[number] for stratum in sample for number in stratum.drawn]
    found = list(in_order(_Unit.sums, drawn))
    return EstimatedPath(
        links=tuple(_figures(sample, [one[number] for one in found]) for number in range(len(counted))),
        path=_figures(sample, [one[-1] for one in found]),
        read=sum(unit.bytes for unit in drawn),
        left_out=tuple(UnmeasuredTensor(tensor=tensor, how=how) for tensor, how in sorted(reasons)),
    )


@dataclass(frozen=True)
class _Chain:
    """A slot and what each link does to it."""

    program: Program
    base: BaseTensors
    dtype: torch.dtype
    counted: range  # the numbers of the links that count, to the last one
    kept: Sequence[RecentFactors]

    @property
    def row(self) -> int:
        """Bytes of a row of the base."""
        if self.program.origin is None:
            raise AssertionError("a slot that the base lacks begins with a replacement")
        return self.program.slot.columns * self.base.dtype(self.program.origin).itemsize

    def read(self, rows: range) -> torch.Tensor:
        """The base's rows in float64."""
        if self.program.origin is None:
            raise AssertionError("a slot that the base lacks begins with a replacement")
        return self.base.rows(self.program.origin)(rows.start, rows.stop).to(torch.float64)

    def steps(self) -> Iterator[tuple[int, SlotValues]]:
        """The links that do something, by number, each with what it does."""
        for link in range(self.counted.stop):
            steps = tuple(step for step in self.program.steps if step.link == link)
            if steps:
                yield link, SlotValues(self.program.slot, _never, steps, torch.float64, self.kept[link])


def _never(start: int, stop: int) -> torch.Tensor:
    raise AssertionError(f"rows {start} to {stop} are given")


@dataclass(frozen=True)
class _Unit:
    """Some neighbouring rows of a slot."""

    chain: _Chain
    rows: range

    @property
    def bytes(self) -> int:
        return len(self.rows) * self.chain.row

    def sums(self) -> tuple[Sums, ...]:
        """Those of each link that counts, and last those of all of them."""
        chain = self.chain
        now = origin = chain.read(self.rows)
        replaced = {row for step in chain.program.steps if isinstance(step, SetRows) for row in step.rows}
        kept = [at for at, row in enumerate(self.rows) if row not in replaced]
        found = [NOTHING] * len(chain.counted)
        for link, values in chain.steps():
            after = now.clone()
            values.put_on(self.rows, after)
            if link < chain.counted.start:
                origin = after
            else:
                found[link - chain.counted.start] = self._sums(now, after, kept)
            now = after
        return (*found, self._sums(origin, now, kept))

    def _sums(self, before: torch.Tensor, after: torch.Tensor, kept: Sequence[int]) -> Sums:
        if len(kept) < len(self.rows):
            before, after = before[kept], after[kept]
        if not before.numel():
            return NOTHING
        one = sums(before, after - before, in_dtype(after, self.chain.dtype))
        if not math.isfinite(math.fsum(one)):
            name = str(self.chain.dtype).removeprefix("torch.")
            raise InvalidAdapterError(
                f"Tensor {self.chain.program.slot.tensor!r} has values that are not finite, or too large for {name}, "
                f"once it is merged{f'; {held} holds them' if (held := holding(after)) else ''}.",
                code="overflow",
            )
        return one


def _units(chain: _Chain) -> Iterator[_Unit]:
    step = max(1, RUN // chain.row)
    rows = chain.program.slot.rows
    for start in range(0, rows, step):
        yield _Unit(chain, range(start, min(start + step, rows)))


def _is_measured(program: Program) -> bool:
    changes = any(isinstance(step, Add | Rescale) for step in program.steps)
    return changes and _reason(program) in (None, "rows replaced")


def _reason(program: Program) -> Literal["replaced", "rows replaced", "rescaled by column"] | None:
    """Why a slot is left out, or some of its rows."""
    kinds = {type(step) for step in program.steps}
    if Replace in kinds:
        return "replaced"
    if any(isinstance(step, Rescale) and (step.by_input or program.slot.transposed) for step in program.steps):
        return "rescaled by column"
    return "rows replaced" if SetRows in kinds else None


def _figures(sample: Sequence[Stratum], found: Sequence[Sums]) -> Estimated:
    energy = [one.energy for one in found]
    lost = ratio(sample, [one.lost for one in found], energy)
    return Estimated(
        relative_error=None if lost is None else Ratio(*(math.sqrt(max(0.0, end)) for end in lost)),
        unchanged_share=ratio(sample, [one.unchanged for one in found], [one.changed for one in found]),
        surviving_share=ratio(sample, [one.kept for one in found], energy),
    )
