"""A merged model on the grid of its quantised base: the stored files, with other codes where the path changes some."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import torch

from registry.errors import AccuracyError, UsageError
from registry.files.header import TensorEntry, Tensors
from registry.files.strict_json import shown
from registry.quantised.listing import PlainListing
from registry.quantised.reading import Grid
from registry.schemas.artifacts import Fidelity
from registry.tensors.arithmetic.threads import in_order
from registry.tensors.artifacts.artifact import Buffer, Region, bytes_region
from registry.tensors.fidelity.meter import SlotMeter, fidelity_of
from registry.tensors.path.origins import BaseTensors
from registry.tensors.path.programs import Program
from registry.tensors.path.slot_values import SlotValues
from registry.tensors.quantised.requantise import FP8, CodeGrid, codes_of

Regions = Callable[[TensorEntry], list[Region]]
"""The bytes of a tensor of the output, at the place that its entry gives."""


@dataclass(frozen=True)
class Requantised:
    """What the path makes of quantised weights: bytes by stored tensor, and how much of its change arrives."""

    made: Mapping[str, Regions]
    fidelity: Fidelity | None
    unwritten: str | None  # a weight that is not written as codes again


@dataclass(frozen=True)
class _Settled:
    """What a first look at all changed weights of a plan found."""

    fidelity: Fidelity | None
    widened: Mapping[str, tuple[torch.Tensor, torch.Tensor]]  # plain name -> scales as numbers, and as they are stored


_KEPT: Final = 32
_lock = threading.Lock()
_settled: OrderedDict[str, _Settled] = OrderedDict()
"""By digest of their plans, those looked at last: a service opens an artifact for each range that is read of it."""


def requantised(
    plan: str, listing: PlainListing, stored: Tensors, base: BaseTensors, programs: Mapping[str, Sequence[Program]]
) -> Requantised:
    """Put changed weights back on the grids of their codes.

    Every changed weight is computed once here, for scales and figures, and again when its bytes are read.

    Args:
        plan: digest of the plan.
        listing: of the base model.
        stored: its stored tensors.
        base: its plain tensors.
        programs: what the path does, by the plain name of the decoded tensor that it changes.

    Raises:
        UsageError: a program changes no whole matrix.
        AccuracyError: ``not_representable``, a scale is not positive or none is large enough.
    """
    made: dict[str, Regions] = {}
    measured = []
    unwritten = None
    widened: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
    with _lock:
        known = _settled.get(plan)
    for name, several in sorted(programs.items()):
        decoding = listing.decoded[name]
        for program in several:
            grid = CodeGrid(decoding, stored, _matrix(name, program, decoding.plain_shape))
            slot = _Slot(name, grid, base.values(program, torch.float64))
            if known is None:
                scales = slot.settle(stored)
                measured.append((name, FP8, slot.meter.total("full")))
            else:
                grid.scales, scales = known.widened.get(name, (grid.scales, None))
            if not isinstance(decoding, Grid) or not grid.is_fp8:
                unwritten = unwritten or name  # figures alone
                continue
            made[decoding.codes.name] = slot.codes
            if scales is not None:
                widened[name] = grid.scales, scales
                made[decoding.scale.name] = _bytes_of(scales)
    if known is None:
        known = _Settled(fidelity_of("full", measured, ()), widened)
        with _lock:
            _settled[plan] = known
            while len(_settled) > _KEPT:
                _settled.popitem(last=False)
    return Requantised(made, known.fidelity, unwritten)


def _matrix(name: str, program: Program, shape: tuple[int, ...]) -> int:
    """Which matrix of a tensor a program changes."""
    slot, (rows, columns) = program.slot, shape[-2:]
    if len(slot.places) != 1 or (slot.rows, slot.columns) != (rows, columns) or slot.first % rows:
        raise UsageError(f"The path changes parts of {shown(name)}, which are not put on its grid: use --dtype keep.")
    return slot.first // rows


def _bytes_of(values: torch.Tensor) -> Regions:
    data = values.contiguous().view(torch.uint8).numpy().tobytes()
    return lambda entry: [bytes_region(entry.start, data)]


class _Slot:
    def __init__(self, name: str, grid: CodeGrid, values: SlotValues) -> None:
        self._name, self._grid, self._values = name, grid, values
        self.meter = SlotMeter(values, torch.float64, "full")

    def settle(self, stored: Tensors) -> torch.Tensor | None:
        """Measure the weight on its grid; the scales as they are stored then, where one had to be widened."""
        peaks = torch.zeros_like(self._grid.scales)
        for found in in_order(self._measured, range(self._values.blocks)):
            peaks = torch.maximum(peaks, found)
        widened = self._grid.widen(peaks, stored, self._name) if self._grid.is_fp8 else None
        if widened is not None:
            for _ in in_order(self._measured, range(self._values.blocks)):
                pass
        return widened

    def _measured(self, index: int) -> torch.Tensor:
        before, after = self._values.before_and_after(index)
        first = index * self._values.rows_a_block
        self.meter.see(index, before.to(torch.float64), self._grid.nearest(after, first))
        return self._grid.block_peaks(after, first) if self._grid.is_fp8 else torch.zeros_like(self._grid.scales)

    def codes(self, entry: TensorEntry) -> list[Region]:
        """The codes, by blocks of the grid on which values are computed."""
        row, step = self._values.slot.columns, self._values.rows_a_block

        def make(index: int) -> Buffer:
            _, after = self._values.before_and_after(index)
            first = index * step
            scales = self._grid.spread(self._grid.scales, first, first + after.shape[0])
            codes = codes_of(after, scales)
            return codes.view(torch.uint8).numpy().data.cast("B")

        return [Region(entry.start, entry.stop, step * row, make)]


def check_arrives(found: Requantised, kind: str, least: float | None, reference: str) -> None:
    """Refuse codes of which too little of the change arrives, or that are not written.

    Args:
        found: the codes, with their figures.
        kind: the format of the base model.
        least: the share of the change that has to survive; None: something has to, with an error below the change.
        reference: what is merged.

    Raises:
        AccuracyError: ``not_representable``.
    """
    fidelity = found.fidelity
    survives, error = (None, None) if fidelity is None else (fidelity.surviving_share, fidelity.relative_error)
    if found.unwritten is not None:
        why = f"only single matrices of FP8 are written as codes again, unlike {shown(found.unwritten)} ({kind})"
    elif survives is None or error is None or ((survives >= least) if least is not None else (error < 1)):
        return
    else:
        why = f"at least {least:.0%} was asked for" if least is not None else "an error below the change is expected"
    said = f"How much of {reference} survives can't be measured, since it replaces values or changes none"
    if survives is not None and error is not None:
        said = (
            f"On the grid of the stored codes {survives:.1%} of what {reference} changes survives, with an error of "
            f"{error:.2f} times the change"
        )
    raise AccuracyError(f"{said}, and {why}. Use --dtype keep, which loses nothing.", code="not_representable")
