"""Whether blocks of weights are, bit for bit, what one of the usual ways of merging makes of a path.

In the precision of merging, so much faster than measuring how far they are. Where a few sums round otherwise than here,
the answer is no, and the blocks have to be measured.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch

from registry.tensors.arithmetic.rounding import round_into
from registry.tensors.comparison.places import Place, Region
from registry.tensors.comparison.rounded_path import SHORT, Way, links_of, ways
from registry.tensors.factors.slots import Slot
from registry.tensors.path.kept_factors import Factors, KeptFactors, RecentFactors
from registry.tensors.path.origins import BaseTensors
from registry.tensors.path.programs import Program
from registry.tensors.path.slot_values import SlotValues
from registry.tensors.path.steps import Add


@dataclass(frozen=True)
class FactorsOf:
    """Factors of one program, among those of others. Programs live as long as what is compared."""

    kept: KeptFactors
    owner: Hashable

    def get(self, key: Hashable, make: Callable[[], Factors]) -> Factors:
        """The factors of that key."""
        return self.kept.get((self.owner, key), make)


@dataclass(frozen=True)
class QuickComparison:
    """Compares blocks bit by bit; of several ways of merging the one that explained the last block comes first."""

    base: BaseTensors
    kept: KeptFactors = field(default_factory=RecentFactors)
    stepwise: dict[int, Way] = field(default_factory=dict)  # by the number of links; none: merged at once

    def errors(self, place: Place, programs: Sequence[Program], found: torch.Tensor) -> list[float] | None:
        """The largest error of each program's rendering, in units in the last place; None: the rows are not all theirs.

        Args:
            place: the blocks.
            programs: what the candidates do to their region.
            found: their rows, as they were found.
        """
        at = _Blocks(self, place, found)
        groups: dict[frozenset[object], list[int]] = {}  # summed at once, the order of steps that add does not show
        for number, program in enumerate(programs):
            adds = program.origin is not None and all(isinstance(step, Add) for step in program.steps)
            groups.setdefault(frozenset(program.steps) if adds else frozenset((program,)), []).append(number)
        errors = [0.0] * len(programs)
        for numbers in groups.values():
            same = [programs[number] for number in numbers]
            for index in place.indexes:
                for number, error in zip(numbers, at.errors(same, index), strict=True):
                    if error is None:
                        return None
                    errors[number] = max(errors[number], error)
        return errors


@dataclass(frozen=True)
class _Blocks:
    """Some blocks of a region, whose rows of the base are read once."""

    of: QuickComparison
    place: Place
    found: torch.Tensor
    origins: dict[Slot, torch.Tensor] = field(default_factory=dict)

    @property
    def _region(self) -> Region:
        return self.place.region

    def errors(self, programs: Sequence[Program], index: int) -> list[float | None]:
        """The errors of programs that differ in the order of what they add, in one block; None: it is not theirs."""
        rows = self._rows(index)
        first = self.place.first_row
        found = self.found[rows.start - first : rows.stop - first]
        program = programs[0]
        if not program.steps:
            return [0.0 if program.origin is not None and _same(self._origin(program.origin, rows), found) else None]
        links = links_of(program)
        by_steps = links > 1 and program.origin is not None and all(isinstance(step, Add) for step in program.steps)
        likely = self.of.stepwise.get(links) if by_steps else None
        if likely is None and self._at_once(program, index, rows, found):
            return [0.5] * len(programs)
        stepwise = [self._stepwise(one, rows, found, likely) if by_steps else None for one in programs]
        if likely is not None and None in stepwise and self._at_once(program, index, rows, found):
            self.of.stepwise.pop(links, None)
            return [0.5] * len(programs)
        for way in stepwise:
            if way is not None:
                self.of.stepwise[links] = way
        return [None if way is None else links * (1.0 if way.deltas else 0.5) for way in stepwise]

    def _at_once(self, program: Program, index: int, rows: range, found: torch.Tensor) -> bool:
        """Whether the block is what summing first makes of a program."""
        whole = self._values(program, id(program))
        if whole.dtype is not torch.float32:
            return False
        if program.origin is None or whole.replaces:
            return _same(whole.block(index), found)
        values = self._origin(program.origin, rows).to(torch.float32)
        whole.put_on(rows, values)
        return _same(values, found)

    def _stepwise(self, program: Program, rows: range, found: torch.Tensor, likely: Way | None) -> Way | None:
        """The way of merging step by step in the base's dtype that makes the block, the ``likely`` one first."""
        assert program.origin is not None
        own = self.of.base.dtype(program.origin)
        if own not in SHORT:
            return None
        before = self._origin(program.origin, rows).to(torch.float32)
        deltas = list(self._deltas(program, rows, before))
        for way in sorted(ways((own,)), key=lambda way: way != likely):
            total = before
            for number, delta in enumerate(deltas):
                now = torch.add(total, delta.to(own) if way.deltas else delta).to(own)
                total = now.to(torch.float32) if number + 1 < len(deltas) else now
            if _same(total, found):
                return way
        return None

    def _deltas(self, program: Program, rows: range, like: torch.Tensor) -> Iterator[torch.Tensor]:
        for number, step in enumerate(program.steps):
            one = replace(program, steps=(step,))
            delta = torch.empty_like(like)
            self._values(one, (id(program), number)).added_to(rows, delta)
            yield delta

    def _values(self, program: Program, owner: Hashable) -> SlotValues:
        kept = FactorsOf(self.of.kept, owner)
        return self.of.base.values(program, torch.float32, kept=kept, rows_a_block=self._region.rows_a_block)

    def _origin(self, slot: Slot, rows: range) -> torch.Tensor:
        """The base's rows, as they are kept."""
        first = self.place.first_row
        if slot not in self.origins:
            self.origins[slot] = self.of.base.rows(slot)(first, first + self.found.shape[0])
        return self.origins[slot][rows.start - first : rows.stop - first]

    def _rows(self, index: int) -> range:
        first = index * self._region.rows_a_block
        return range(first, min(first + self._region.rows_a_block, self._region.slot.rows))


def _same(values: torch.Tensor, found: torch.Tensor) -> bool:
    """Whether rows as they are stored are those that were found, after a rounding to their dtype."""
    if values.dtype is not found.dtype:
        out = torch.empty(found.shape, dtype=found.dtype)
        round_into(out, values)
        values = out
    return _same_bytes(values, found) or torch.equal(values, found)


def _same_bytes(one: torch.Tensor, other: torch.Tensor) -> bool:
    if not (one.is_contiguous() and other.is_contiguous()):
        return False
    ours, theirs = (rows.view(-1).view(torch.uint8).numpy() for rows in (one, other))
    wide = len(ours) // 8 * 8
    return np.array_equal(ours[:wide].view(np.int64), theirs[:wide].view(np.int64)) and np.array_equal(
        ours[wide:], theirs[wide:]
    )
