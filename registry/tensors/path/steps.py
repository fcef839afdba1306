"""What one link of a path does to one slot, with the open file that holds its numbers; and a slot's scattered rows.

Four steps suffice for every kind of LoRA: a slot's values are replaced, some of its stored rows are replaced, a product
is added, or its oriented rows or columns are rescaled, to a magnitude (DoRA, Liu et al. 2024, arXiv:2402.09353) or by
a factor (IA3).

Rows of a slot that lie in several places of the files, or in another order, are gathered, and scattered again; see
`registry.tensors.table.parameters.Run`. Rows change places within a group only, so any range of rows is read with at
most a group more on each side.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from registry.files.header import TensorEntry
from registry.files.source import ByteSource
from registry.tensors.checkpoint.computed import Computed
from registry.tensors.checkpoint.factors import FactorMatrix, read_rows
from registry.tensors.table.parameters import Run
from registry.tensors.table.slots import Slot

RunRows = Callable[[Run, int, int], torch.Tensor]
"""Stored rows start to stop of a run, counted from its first."""


def gathered(runs: Sequence[Run], read: RunRows, start: int, stop: int) -> torch.Tensor:
    """Rows ``start`` to ``stop`` of a slot, in its order."""
    parts, at = [], 0
    for run in runs:
        first, last = max(start, at) - at, min(stop, at + run.rows) - at
        if first < last:
            parts.append(_reordered(run, read, first, last))
        at += run.rows
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _reordered(run: Run, read: RunRows, first: int, last: int) -> torch.Tensor:
    if run.in_order:
        return read(run, first, last)
    around, beyond = whole_groups(run, first, last)
    return read(run, around, beyond)[[run.stored(row) - around for row in range(first, last)]]


def whole_groups(run: Run, first: int, last: int) -> tuple[int, int]:
    """The rows of all groups that rows ``first`` to ``last`` of a run have a part in."""
    return first // run.group * run.group, -(-last // run.group) * run.group


@dataclass(frozen=True)
class PlacedRun:
    """One run of a slot, and which of the slot's rows is its first."""

    run: Run
    at: int

    def scattered(self, rows: Callable[[int, int], torch.Tensor], start: int, stop: int) -> torch.Tensor:
        """Rows ``start`` to ``stop`` of the run as they are stored, of a slot whose rows are read in its order."""
        around, beyond = whole_groups(self.run, start, stop)
        found = rows(self.at + around, self.at + beyond)
        if self.run.in_order:
            return found
        return found[[self.run.meant(row) - around for row in range(start, stop)]]


def placed_runs(runs: Sequence[Run]) -> list[PlacedRun]:
    """The runs of a slot."""
    found, at = [], 0
    for run in runs:
        found.append(PlacedRun(run, at))
        at += run.rows
    return found


@dataclass(frozen=True)
class BoundPair:
    """A pair of one slot: adds ``scale`` B A in oriented space (out x in)."""

    a: FactorMatrix  # (rank, in_features)
    b: FactorMatrix  # (out_features, rank)
    scale: float
    source: ByteSource

    @property
    def rank(self) -> int:
        """Rows of A and columns of B."""
        return self.a.shape[0]

    @property
    def is_computed(self) -> bool:
        """Whether a factor is no tensor of a file, so that its numbers are those of float64."""
        return isinstance(self.a, Computed) or isinstance(self.b, Computed)

    @property
    def is_whole(self) -> bool:
        """Whether one factor is the change itself, and the other the identity."""
        return any(isinstance(one, Computed) and one.is_identity for one in (self.a, self.b))

    def whole_rows(self, start: int, stop: int, dtype: torch.dtype) -> torch.Tensor:
        """Rows ``start`` to ``stop`` of what a pair adds that `is_whole`, shape (stop - start, in_features)."""
        if isinstance(self.a, Computed) and self.a.is_identity:
            return self.b_rows(start, stop, dtype)
        return (self.a.read(self.source, start, stop).to(torch.float64) * self.scale).to(dtype)

    def a_rows(self, start: int, stop: int, dtype: torch.dtype) -> torch.Tensor:
        """Rows ``start`` to ``stop`` of A, shape (stop - start, in_features)."""
        return self.a.read(self.source, start, stop).to(dtype)

    def b_rows(self, start: int, stop: int, dtype: torch.dtype) -> torch.Tensor:
        """Rows ``start`` to ``stop`` of scale * B, shape (stop - start, rank), rounded once to ``dtype``."""
        rows = self.b.read(self.source, start, stop)
        # The product of two float32 is exact in float64. Where the scale is a float32 too, as most are, multiplying in
        # float32 rounds the same product once.
        is_wide = rows.dtype is torch.float64 or torch.tensor(self.scale, dtype=dtype).item() != self.scale
        # never in place: `to` makes no copy of what has the dtype already
        return (rows.to(torch.float64 if is_wide else dtype) * self.scale).to(dtype)


@dataclass(frozen=True)
class Replace:
    """The slot's values are rows ``first`` on of a tensor that is seen as a matrix with the slot's columns."""

    link: int
    entry: TensorEntry
    source: ByteSource
    columns: int
    first: int = 0
    tied: bool = False

    def read(self, start: int, stop: int) -> torch.Tensor:
        """Stored rows ``start`` to ``stop`` of the slot, in the file's dtype."""
        return read_rows(self.source, self.entry, self.first + start, self.first + stop, columns=self.columns)


@dataclass(frozen=True)
class SetRows:
    """Stored row ``rows[i]`` is row i of a tensor."""

    link: int
    entry: TensorEntry
    source: ByteSource
    rows: tuple[int, ...]
    tied: bool = False

    def read(self) -> torch.Tensor:
        """All rows, shape (len(rows), columns), in the file's dtype."""
        return read_rows(self.source, self.entry, 0, len(self.rows))


@dataclass(frozen=True)
class Add:
    """A product is added."""

    link: int
    pair: BoundPair
    tied: bool = False


@dataclass(frozen=True)
class Neighbour:
    """Another slot, as it is before a rescaling in whose norms its columns count."""

    slot: Slot
    steps: tuple[Step, ...]
    origin: Slot | None


@dataclass(frozen=True)
class Rescale:
    """Every oriented row v becomes ``magnitude * v / |v|`` (DoRA; PEFT's ``tuners/lora/dora.py``).

    ``by_input``: so do the columns instead, those of all taps of a channel as one (LyCORIS: ``wd_on_out=False``).
    With a ``strength`` the factors are ``1 + strength * entry`` (IA3, Liu et al. 2022, arXiv:2205.05638).
    """

    link: int
    entry: TensorEntry
    source: ByteSource
    tied: bool = False
    by_input: bool = False
    beside: tuple[Neighbour, ...] = ()  # the other rows of a matrix that the base keeps in several slots
    strength: float | None = None

    def read(self, dtype: torch.dtype) -> torch.Tensor:
        """The magnitudes, or the factors themselves, shape (out_features,) or (input channels,)."""
        found = read_rows(self.source, self.entry, 0, self.entry.elements, columns=1).flatten()
        return (found if self.strength is None else 1.0 + self.strength * found.to(torch.float64)).to(dtype)


Step = Replace | SetRows | Add | Rescale
