"""A path whose adapters were turned into a short dtype before they were merged: a usual way that roundings alone hide.

``model.half()`` does that, and PEFT's ``autocast_adapter_dtype=False``. Rounded factors add something else than the
adapter says, by more than a rounding of the sum, so the bits only show it where the same is done again.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from registry.files.source import ByteSource
from registry.tensors.elements.dtypes import FLOATS
from registry.tensors.factors.matrices import FactorMatrix
from registry.tensors.path.programs import Program
from registry.tensors.path.steps import Add, Rescale, Step


@dataclass(frozen=True)
class _Rounded:
    """A factor, its numbers rounded when they are read."""

    matrix: FactorMatrix
    dtype: torch.dtype

    @property
    def shape(self) -> tuple[int, int]:
        return self.matrix.shape

    def read(self, source: ByteSource, start: int, stop: int, /) -> torch.Tensor:
        return self.matrix.read(source, start, stop).to(self.dtype)


@dataclass(frozen=True)
class _RoundedRescale(Rescale):
    """A rescaling to rounded magnitudes."""

    short: torch.dtype = torch.float32

    def read(self, dtype: torch.dtype) -> torch.Tensor:
        return super().read(torch.float64).to(self.short).to(dtype)


def with_rounded_factors(program: Program, dtype: torch.dtype) -> Program | None:
    """The same program, its factors and magnitudes rounded to ``dtype``; None: they are of it already, or none."""
    steps = tuple(_rounded(step, dtype) for step in program.steps)
    return None if steps == program.steps else replace(program, steps=steps)


def _rounded(step: Step, dtype: torch.dtype) -> Step:
    if isinstance(step, Add):
        a, b = (one if one.dtype is dtype else _Rounded(one, dtype) for one in (step.pair.a, step.pair.b))
        return replace(step, pair=replace(step.pair, a=a, b=b))
    if isinstance(step, Rescale) and FLOATS[step.entry.dtype] is not dtype:
        return _RoundedRescale(step.link, step.entry, step.source, step.tied, dtype)
    return step
