"""How blocks of weights compare, bit by bit, with what the usual ways of merging make of a path.

In the precision of merging, so much faster than measuring how far they are. Elements that are, bit for bit, what one of
the ways makes need not be measured; where a few sums round otherwise than here, these are left to be.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any, Final

import numpy as np
import torch

from registry.tensors.arithmetic.kernel import add_product, round_into, scratch
from registry.tensors.comparison.candidates import BlockRange
from registry.tensors.comparison.roundings import SHORT, Way, links_of, ways, with_rounded_factors
from registry.tensors.path.origins import BaseTensors
from registry.tensors.path.programs import Program
from registry.tensors.path.slot_values import Factors, KeptFactors, RecentFactors, SlotValues
from registry.tensors.path.steps import Add
from registry.tensors.table.slots import Slot

Words = np.ndarray[Any, Any]
_FEW: Final = 1 / 16
"""Of a block: with more elements that are something else, all of it is measured."""
_ENOUGH: Final = 1 / 4096
"""Of a block: the way that explained the last one is right, and no other is tried. Other sums turn fewer roundings."""
_OTHER_FACTORS: Final = 1 / 64
"""Of a block: with more elements that are something else, it is tried whether the factors were rounded first."""
_ONE_PANEL: Final = 128
"""Up to this rank a product is the same bits whether it is added where it is summed or afterwards."""
_FACTORS_KEPT: Final = 16
"""Cached factors: of each link, for the slots that a few lanes work on."""


@dataclass(frozen=True)
class FactorsOf:
    """Factors of one program, among those of others. Programs live as long as what is compared."""

    kept: KeptFactors
    owner: Hashable

    def get(self, key: Hashable, make: Callable[[], Factors]) -> Factors:
        """The factors of that key."""
        return self.kept.get((self.owner, key), make)


@dataclass(frozen=True)
class Look:
    """How some rows compare with what one way of merging makes of a program."""

    program: Program  # that of the path, or the same with rounded factors
    way: Way | None  # None: summed first, and rounded once
    units: float  # the largest error of that way, in units in the last place
    wrong: torch.Tensor  # the elements that are something else, by their numbers in the flat rows


@dataclass(frozen=True)
class QuickComparison:
    """Compares blocks bit by bit; of several ways of merging the one that explained the last block comes first."""

    base: BaseTensors
    kept: KeptFactors = field(default_factory=lambda: RecentFactors(_FACTORS_KEPT))
    likely: dict[int, tuple[torch.dtype | None, Way | None]] = field(default_factory=dict)
    """By the number of links: what factors are rounded to, and the way."""
    _turned: dict[tuple[int, torch.dtype], Program | None] = field(default_factory=dict)

    def with_factors(self, program: Program, dtype: torch.dtype | None) -> Program | None:
        """A program with factors that are rounded to a dtype, the same one each time; None: they are not changed."""
        if dtype is None:
            return program
        key = id(program), dtype
        if key not in self._turned:
            self._turned[key] = with_rounded_factors(program, dtype)
        return self._turned[key]

    def at(self, place: BlockRange, found: torch.Tensor) -> Rows:
        """Some blocks of a region; ``found`` are their rows, as they were found."""
        return Rows(self, place, found)


@dataclass(frozen=True)
class Rows:
    """Some blocks of a region, whose rows of the base are read once."""

    of: QuickComparison
    place: BlockRange
    found: torch.Tensor
    _origins: dict[Slot, torch.Tensor] = field(default_factory=dict)
    _rooms: dict[tuple[str, torch.dtype, int], torch.Tensor] = field(default_factory=dict)

    def looks(self, programs: Sequence[Program]) -> list[Look] | None:
        """How the rows compare with each program; None: for one of them, too much of them is something else."""
        at_once: dict[Hashable, Look] = {}  # by steps as a set: the order of steps that add does not show in the values
        several = len(programs) > 1
        found = []
        for program in programs:
            look = self._look(program, frozenset(program.steps) if several else None, at_once)
            if look is None:
                return None
            found.append(look)
        return found

    def origin(self, slot: Slot) -> torch.Tensor:
        """The base's rows, as they are stored."""
        if slot not in self._origins:
            first = self.place.first_row
            self._origins[slot] = self.of.base.rows(slot)(first, first + self.found.shape[0])
        return self._origins[slot]

    def values(self, program: Program, dtype: torch.dtype, *, merge_products: bool = True) -> SlotValues:
        """What a program makes, with factors that are cached between blocks."""
        kept = FactorsOf(self.of.kept, (id(program), dtype, merge_products))
        rows = self.place.region.rows_a_block
        return self.of.base.values(program, dtype, kept=kept, merge_products=merge_products, rows_a_block=rows)

    def _look(self, program: Program, key: Hashable, at_once: dict[Hashable, Look]) -> Look | None:
        """``key`` is the same for programs that add the same."""
        links, adds = links_of(program), only_adds(program)
        shorts = self._shorts(program)
        likely = self.of.likely.get(links, (None, None))[0]
        best: Look | None = None
        for short in sorted((None, *shorts), key=lambda short: short != likely):
            turned = self.of.with_factors(program, short)
            if turned is None:
                continue
            look = self._best_way(turned, key if short is None else None, at_once, links)
            if look is not None and (best is None or len(look.wrong) < len(best.wrong)):
                best = look
                if program.steps:
                    self.of.likely[links] = short, look.way
            if best is not None and len(best.wrong) <= _OTHER_FACTORS * self.found.numel():
                break
        if best is None or len(best.wrong) > (_FEW * self.found.numel() if adds else 0):
            return None
        return best

    def _shorts(self, program: Program) -> tuple[torch.dtype, ...]:
        """The dtypes that factors may have been rounded to first."""
        if program.origin is None or not program.steps or not only_adds(program):
            return ()
        dtypes = dict.fromkeys((self.of.base.dtype(program.origin), self.found.dtype))
        return tuple(dtype for dtype in dtypes if dtype in SHORT)

    def _best_way(self, program: Program, key: Hashable, at_once: dict[Hashable, Look], links: int) -> Look | None:
        """The way of merging that explains most; None: one can't be tried in the precision of merging."""
        adds = only_adds(program)
        known, likely = links in self.of.likely, self.of.likely.get(links, (None, None))[1]
        best: Look | None = None
        for way in sorted(self._ways(program), key=lambda way: way != likely):
            if way is None and key is not None and key in at_once:
                look: Look | None = at_once[key]
            else:
                unlike = self._unlike(program, way)
                look = None if unlike is None else Look(program, way, _error_of(way, program), unlike)
                if look is not None and way is None and adds and key is not None:
                    at_once[key] = look
            if look is None:
                return None
            if best is None or len(look.wrong) < len(best.wrong):
                best = look
            if not len(best.wrong) or (known and len(best.wrong) <= _ENOUGH * self.found.numel()):
                break
        return best

    def _ways(self, program: Program) -> list[Way | None]:
        """The ways that are tried; the same ones give the same bits."""
        if not program.steps or not only_adds(program):
            return [None]
        assert program.origin is not None
        links, stored = links_of(program), self.found.dtype
        own = self.of.base.dtype(program.origin)
        if torch.float64 in (own, stored, self.values(program, torch.float32).dtype):
            return [None]
        found: list[Way | None] = [None]
        for dtype in dict.fromkeys((own, stored)):
            of_one = ways((dtype,)) if dtype in SHORT else (Way(dtype, deltas=False),)
            # of one link, a sum in float32, or in the dtype of both the base and the file, is one summed at once
            same = links == 1 and (dtype not in SHORT or own is dtype is stored)
            found += [way for way in of_one if way.deltas or not same]
        return found

    def _unlike(self, program: Program, way: Way | None) -> torch.Tensor | None:
        """The elements that a way of merging makes something else; None: it isn't in the precision of merging.

        Block by block, so that what is computed stays in a processor's cache until it is compared.
        """
        make = self._making(program, way)
        if make is None:
            return None
        unlike = []
        for rows in self._blocks:
            at = self._unequal(make(rows), rows)
            if at.numel():
                unlike.append(at + rows.start * self.found.shape[1])
        return torch.cat(unlike) if unlike else _NONE

    @cached_property
    def _blocks(self) -> list[slice]:
        """Where the blocks are among the rows."""
        rows, count = self.place.region.rows_a_block, self.found.shape[0]
        return [slice(start, min(start + rows, count)) for start in range(0, count, rows)]

    def _making(self, program: Program, way: Way | None) -> Callable[[slice], torch.Tensor] | None:
        """What makes a block as a way of merging does, which lasts until the next; None: not in its precision."""
        origin = None if program.origin is None else self.origin(program.origin)
        if not program.steps:
            return None if origin is None else origin.__getitem__
        if way is not None:
            assert origin is not None
            return partial(self._stepwise, origin, list(self._factors(program)), way)
        whole = self.values(program, torch.float32)
        if whole.dtype is not torch.float32:
            return None
        if origin is None or whole.replaces:
            return lambda rows: whole.block((self.place.first_row + rows.start) // whole.rows_a_block)
        if whole.only_adds:
            left, right = whole.product(0)
            return partial(self._with_product, origin, left[self.place.first_row :], right)
        return partial(self._at_once, origin, whole)

    def _with_product(self, origin: torch.Tensor, left: torch.Tensor, right: torch.Tensor, rows: slice) -> torch.Tensor:
        """A block and what all steps add, not rounded."""
        total = self._as_summed(origin, rows)
        add_product(total, left[rows], right)
        return total

    def _at_once(self, origin: torch.Tensor, whole: SlotValues, rows: slice) -> torch.Tensor:
        """A block after all steps, not rounded."""
        first, total = self.place.first_row, self._as_summed(origin, rows)
        whole.put_on(range(first + rows.start, first + rows.stop), total)
        return total

    def _stepwise(self, origin: torch.Tensor, links: Sequence[Factors], way: Way, rows: slice) -> torch.Tensor:
        """A block after the links one by one, each sum rounded, in the dtype of the way."""
        total = self._as_summed(origin, rows)
        if way.dtype is torch.float32:
            for left, right in links:
                _add(total, left[rows], right)
            return total
        short = self._room("sum", rows, way.dtype)
        if origin.dtype is not way.dtype:
            total.copy_(short.copy_(total))
        for number, (left, right) in enumerate(links):
            if number:
                total.copy_(short)
            if way.deltas:
                delta = torch.mm(left[rows], right, out=self._room("delta", rows, torch.float32))
                total += delta.to(way.dtype)
            else:
                _add(total, left[rows], right)
            short.copy_(total)
        return short

    def _factors(self, program: Program) -> Iterator[Factors]:
        """The factors of each step, the left ones from the first of the rows on."""
        for number, step in enumerate(program.steps):
            one = replace(program, steps=(step,))
            kept = FactorsOf(self.of.kept, (id(program), number))
            rows = self.place.region.rows_a_block
            left, right = self.of.base.values(one, torch.float32, kept=kept, rows_a_block=rows).product(0)
            yield left[self.place.first_row :], right

    def _as_summed(self, origin: torch.Tensor, rows: slice) -> torch.Tensor:
        return self._room("total", rows, torch.float32).copy_(origin[rows])

    def _room(self, what: str, rows: slice, dtype: torch.dtype) -> torch.Tensor:
        """Memory for a block, the same for all of one size."""
        key = what, dtype, rows.stop - rows.start
        if key not in self._rooms:
            self._rooms[key] = scratch((rows.stop - rows.start, self.found.shape[1]), dtype)
        return self._rooms[key]

    def _unequal(self, made: torch.Tensor, rows: slice) -> torch.Tensor:
        """The elements of a block of other bits; those of two zeros, or NaN, are measured to be the same."""
        if made.dtype is not self.found.dtype:
            made, values = self._room("stored", rows, self.found.dtype), made
            round_into(made, values)
        columns = self.found.shape[1]
        ours, theirs = _words(made), self._words[rows.start * columns : rows.stop * columns]
        wide = len(ours) * ours.itemsize // 8 * 8 // ours.itemsize
        if (ours[:wide].view(np.int64) == theirs[:wide].view(np.int64)).all():
            return _NONE if wide == len(ours) else _apart(ours[wide:], theirs[wide:]) + wide
        return _apart(ours, theirs)

    @cached_property
    def _words(self) -> Words:
        return _words(self.found)


_NONE: Final = torch.zeros(0, dtype=torch.int64)


def _add(total: torch.Tensor, left: torch.Tensor, right: torch.Tensor) -> None:
    """Add a product that was summed by itself."""
    if right.shape[0] <= _ONE_PANEL:
        total.addmm_(left, right)
    else:
        total += torch.mm(left, right, out=scratch(total.shape, total.dtype))


def only_adds(program: Program) -> bool:
    """Whether a program adds products to what the base has, so that elements can be measured one by one."""
    return program.origin is not None and all(isinstance(step, Add) for step in program.steps)


def _error_of(way: Way | None, program: Program) -> float:
    """The largest error of a way of merging, in units in the last place."""
    if way is None:
        return 0.5 if program.steps else 0.0
    return links_of(program) * (1.0 if way.deltas else 0.5)


def _apart(ours: Words, theirs: Words) -> torch.Tensor:
    return torch.from_numpy(np.flatnonzero(ours != theirs))


def _words(rows: torch.Tensor) -> Words:
    """The bits of each element."""
    words: Words = rows.contiguous().view(-1).view(_BITS[rows.dtype.itemsize]).numpy()
    return words


_BITS: Final = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
