"""Fidelity measured while the blocks of a merged model are made, from sums over their rows.

The rounded rows and the base's are in memory at that point. A fixed sample of rows is measured, or all of them; if all
are measured, the sample's figures are recorded too. Each block has its own sums, which are added in the order of the
blocks, so the figures do not depend on who made which block when. Nothing here changes a byte of the model.

The sums measure what was to change, and what did. With W' = round(W) in the output's dtype and D the intended change,
S = round(W + D) - W' is the change that the rounded weights hold. W' and round(W + D) have a few digits each, so S is
exact in float32 unless they lie 2^15 apart.

Memory of a lane for the few tensors that are made of some rows: used for the next rows again, so that it is warm.

Fresh memory for each costs a third of the time of measuring: the blocks of a merge go through all caches meanwhile.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterable, Iterator, Sequence
from typing import Final, NamedTuple

import numpy as np
import torch

from registry.schemas.artifacts import Fidelity, FidelityFigures, TensorFidelity, UnmeasuredTensor
from registry.schemas.form import MeasuredRows
from registry.tensors.arithmetic.dtypes import CONFIG_NAMES, FLOATS, OPTION_DTYPES
from registry.tensors.arithmetic.kernel import round_into, rounded
from registry.tensors.arithmetic.threads import in_order
from registry.tensors.path.programs import Program
from registry.tensors.path.slot_values import SlotValues
from registry.tensors.path.steps import Add, Replace, Rescale, SetRows


class _Rooms(threading.local):
    def __init__(self) -> None:
        self.made: dict[tuple[str, torch.dtype], torch.Tensor] = {}


_rooms = _Rooms()


def room(name: str, shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
    """A tensor of arbitrary values, contiguous; it is overwritten once this thread requests the same name again."""
    size = math.prod(shape)
    found = _rooms.made.get((name, dtype))
    if found is None or found.numel() < size:
        found = _rooms.made[name, dtype] = torch.empty(size, dtype=dtype)
    return found[:size].view(tuple(shape))


_SMALLEST: Final = 2.0**-60  # of sums of squares in float32: squares of less than 2^-63 would lose digits


class Sums(NamedTuple):
    """Over some elements; sums of several add up."""

    elements: float
    changed: float  # those where D is not 0
    unchanged: float  # of these, those where S is 0
    energy: float  # |D|^2
    kept: float  # <S, D>
    lost: float  # |S - D|^2

    def times(self, factor: float) -> Sums:
        """The sums for ``factor`` times as many of each."""
        return Sums(*(factor * value for value in self))

    @property
    def is_exact(self) -> bool:
        """Whether sums in float32 neither overflowed nor lost digits of small numbers."""
        return not self.changed or (self.energy / self.changed > _SMALLEST and math.isfinite(self.energy + self.lost))


NOTHING: Final = Sums(0, 0, 0, 0, 0, 0)


def added(many: Iterable[Sums]) -> Sums:
    """The sum of several, in their order."""
    found = list(many)
    if len(found) == 1:
        return found[0]
    return Sums(*map(math.fsum, zip(*found, strict=True))) if found else NOTHING


def sums(before: torch.Tensor, change: torch.Tensor, after: torch.Tensor) -> Sums:
    """The sums of some rows, shape (rows, columns) each; call it on a lane of one thread.

    Args:
        before: W, in any precision.
        change: D, in the precision of the sums: float32 where the output has 16 bits, or float64.
        after: round(W + D), in the output's dtype.
    """
    moved = room("moved", change.shape, change.dtype)
    moved.copy_(after)
    moved -= in_dtype(before, after.dtype)
    d, s = change.view(-1), moved.view(-1)
    changed, unchanged = _count_changed(d, s)
    energy, kept = torch.dot(d, d).item(), torch.dot(s, d).item()
    s -= d
    return Sums(d.numel(), changed, unchanged, energy, kept, torch.dot(s, s).item())


def _count_changed(d: torch.Tensor, s: torch.Tensor) -> tuple[int, int]:
    """How many of D are not 0, and of how many of these S is 0."""
    # numpy compares and counts several times as fast as torch does
    is_changed, is_moved = (room(name, d.shape, torch.bool).numpy() for name in ("is changed", "is moved"))
    np.not_equal(d.numpy(), 0, out=is_changed)
    np.not_equal(s.numpy(), 0, out=is_moved)
    changed = np.count_nonzero(is_changed)
    np.logical_and(is_changed, is_moved, out=is_moved)
    return int(changed), int(changed - np.count_nonzero(is_moved))


def in_dtype(values: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """The values rounded once to a dtype; themselves where they have it."""
    if values.dtype is dtype:
        return values
    out = torch.empty(values.shape, dtype=dtype)
    round_into(out, values)
    return out


_NAMES = {FLOATS[stored]: option for option, stored in OPTION_DTYPES.items()} | {torch.float8_e4m3fn: "fp8"}


def fidelity_of(
    rows: MeasuredRows, found: Sequence[tuple[str, torch.dtype, Sums]], left_out: Iterable[UnmeasuredTensor]
) -> Fidelity | None:
    """The figures of some slots, which are given with the tensor that they are part of; None: nothing is changed."""
    by_tensor: dict[str, list[Sums]] = {}
    dtypes = {}
    for tensor, dtype, one in found:
        by_tensor.setdefault(tensor, []).append(one)
        dtypes[tensor] = name_of(dtype)
    tensors = [
        TensorFidelity(tensor=tensor, dtype=dtypes[tensor], **figures(added(many)).model_dump())
        for tensor, many in sorted(by_tensor.items())
    ]
    named = tuple(sorted(left_out, key=lambda one: one.tensor))
    if not tensors and not named:
        return None
    whole = figures(added(one for _, _, one in found))
    return Fidelity(rows=rows, **whole.model_dump(), tensors=tuple(tensors), left_out=named)


def figures(total: Sums) -> FidelityFigures:
    """The figures of some sums; None each where nothing was to change."""
    if not total.changed or not total.energy:
        return FidelityFigures(relative_error=None, unchanged_share=None, surviving_share=None)
    return FidelityFigures(
        relative_error=math.sqrt(total.lost / total.energy),
        unchanged_share=total.unchanged / total.changed,
        surviving_share=total.kept / total.energy,
    )


def name_of(dtype: torch.dtype) -> str:
    """A dtype as options spell it; float64, which no option has, as configurations do."""
    return _NAMES.get(dtype) or next(CONFIG_NAMES[stored] for stored, one in FLOATS.items() if one is dtype)


EVERY: Final = 16
"""Of large slots, every row whose number is a multiple of it is in the sample."""
SMALL: Final = 1 << 16
"""Elements of a slot of which all rows are."""
_AT_ONCE: Final = 1 << 16  # elements, so that all that is made of them stays in a processor's cache
_SHORT: Final = (torch.bfloat16, torch.float16)


class SlotMeter:
    """Measures the blocks of one slot."""

    def __init__(self, values: SlotValues, dtype: torch.dtype, rows: MeasuredRows) -> None:
        self.values = values
        self.dtype = dtype
        slot = values.slot
        of_sample = 1 if slot.rows * slot.columns <= SMALL else EVERY
        self._steps = (1, of_sample) if rows == "full" and of_sample != 1 else (of_sample,)
        self._replaced = values.sets_rows()
        self._sums: list[tuple[Sums, ...] | None] = [None] * values.blocks

    def see(self, index: int, before: torch.Tensor, after: torch.Tensor) -> None:
        """Block ``index``: its stored rows before the steps, and its rounded rows after them."""
        first = index * self.values.rows_a_block
        self._sums[index] = tuple(added(self._parts(first, step, before, after)) for step in self._steps)

    @property
    def missing(self) -> Sequence[int]:
        """The blocks that were not made yet."""
        return [index for index, there in enumerate(self._sums) if there is None]

    def make(self, index: int) -> None:
        """Make a block for its figures alone."""
        before, values = self.values.before_and_after(index)
        after = rounded(values, self.dtype)
        if after is None:
            raise AssertionError(f"a file has these values of {self.values.slot.tensor}, so they can be rounded")
        self.see(index, before, after)

    def total(self, rows_of: MeasuredRows) -> Sums:
        """The sums of the whole slot, as the rows that were measured have them, or the sample of these."""
        found = added(one[-1 if rows_of == "sample" else 0] for one in self._sums if one is not None)
        rows = self.values.slot.rows - len(self._replaced)
        return found.times(rows * self.values.slot.columns / found.elements) if found.elements else found

    def _parts(self, first: int, step: int, before: torch.Tensor, after: torch.Tensor) -> Iterator[Sums]:
        rows = range(0, before.shape[0], step)
        many = max(1, _AT_ONCE // self.values.slot.columns)
        for some in (rows[at : at + many] for at in range(0, len(rows), many)):
            for kept in self._without_replaced(first, some):
                chosen = slice(kept.start, kept.stop, kept.step)
                there = range(first + kept.start, first + kept.stop, kept.step)
                yield self._measured(there, before[chosen], after[chosen])

    def _without_replaced(self, first: int, rows: range) -> Iterator[range]:
        """The rows of a block that begins at row ``first``, but those that a step replaces."""
        if self._replaced.isdisjoint(range(first + rows.start, first + rows.stop, rows.step)):
            yield rows
        else:
            yield from (range(row, row + 1) for row in rows if first + row not in self._replaced)

    def _measured(self, rows: range, before: torch.Tensor, after: torch.Tensor) -> Sums:
        if self.values.only_adds and self.values.dtype is torch.float32 and self.dtype in _SHORT:
            found = sums(before, self._change(rows, before, torch.float32), after)
            if found.is_exact:
                return found
        return sums(before, self._change(rows, before, torch.float64), after)

    def _change(self, rows: range, before: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        change = room("change", before.shape, dtype)
        if self.values.only_adds:
            self.values.added_to(rows, change)
            return change
        change.copy_(before)
        self.values.put_on(rows, change)
        change -= before
        return change


class FidelityMeter:
    """Measures the slots of one merged model.

    Args:
        rows: ``"sample"``, or ``"full"``: all of them.
    """

    def __init__(self, rows: MeasuredRows) -> None:
        self._rows = rows
        self._slots: dict[tuple[object, ...], SlotMeter] = {}
        self._left_out: dict[str, UnmeasuredTensor] = {}

    def slot(self, program: Program, values: SlotValues, dtype: torch.dtype) -> SlotMeter | None:
        """What measures a slot's blocks; None if nothing is to be measured, which the figures name."""
        steps, name = program.steps, program.slot.tensor
        if any(isinstance(step, Replace) for step in steps):
            self._left_out[name] = UnmeasuredTensor(tensor=name, how="replaced")
            return None
        if any(isinstance(step, SetRows) for step in steps):
            self._left_out.setdefault(name, UnmeasuredTensor(tensor=name, how="rows replaced"))
        if not any(isinstance(step, Add | Rescale) for step in steps):
            return None
        key = (program.slot, dtype)
        if key not in self._slots:
            self._slots[key] = SlotMeter(values, dtype, self._rows)
        return self._slots[key]

    def result(self, rows: MeasuredRows | None = None) -> Fidelity | None:
        """The figures; None where the path changes nothing, or not every block was made and measured on these rows."""
        rows = rows or self._rows
        if any(slot.missing for slot in self._slots.values()) or (rows, self._rows) == ("full", "sample"):
            return None
        found = [(slot.values.slot.tensor, slot.dtype, slot.total(rows)) for slot in self._slots.values()]
        return fidelity_of(rows, found, self._left_out.values())

    def finish(self) -> None:
        """Make the blocks that nobody made, for their figures alone."""
        missing = [(slot, index) for slot in self._slots.values() for index in slot.missing]
        for _ in in_order(lambda one: one[0].make(one[1]), missing):
            pass
