"""Rescaled modules as plain pairs: the nearest product of low rank to what a path changes of a merged weight.

A DoRA link makes ``diag(d) V`` of ``V = W + s B A``, with ``d = m / |V|``. So the change of the weight is
``diag(d - 1) W + diag(d) s B A``, which has full rank, whatever that of its factors is. For readers that know no
magnitudes it is cut to the directions that hold most of it (`registry.tensors.truncation.dense`), and what that leaves
out is measured on the weight. So is what rescales the columns of a weight.

One module is in memory at a time. The factors lie in a file that has no name until they are read.
"""

from __future__ import annotations

import math
import os
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import BinaryIO, Final

import torch

from registry.tensors.arithmetic.kernel import rounded
from registry.tensors.artifacts.merged import overflow
from registry.tensors.composed.pair import columns_filled, pair_tensors, rows_filled
from registry.tensors.composed.spelling import AdapterTensor
from registry.tensors.path.slot_values import SlotValues
from registry.tensors.table.targets import Target
from registry.tensors.truncation.dense import nearest
from registry.tensors.truncation.rank_choice import ModuleSpectrum
from registry.tensors.truncation.truncate import distance

_NUMBER: Final = 8  # bytes of a float64


class Aside:
    """A file without a name for the factors of modules; close it when the artifact is closed."""

    def __init__(self) -> None:
        self._file: BinaryIO = tempfile.TemporaryFile()  # noqa: SIM115 - closed by whoever opened it
        self._lock = threading.Lock()

    def __enter__(self) -> Aside:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def put(self, values: torch.Tensor) -> AsideRows:
        """Keep a matrix of float64."""
        with self._lock:
            start = self._file.seek(0, os.SEEK_END)
            self._file.write(values.contiguous().numpy().data)
            self._file.flush()
        return AsideRows(self, start, (values.shape[0], values.shape[1]))

    def read(self, start: int, count: int) -> torch.Tensor:
        """Numbers from byte ``start`` on."""
        data = bytearray(count * _NUMBER)
        view, at = memoryview(data), 0
        while at < len(data):
            found = os.preadv(self._file.fileno(), [view[at:]], start + at)
            if not found:
                raise AssertionError("the file of factors is shorter than what was put into it")
            at += found
        return torch.frombuffer(data, dtype=torch.float64) if data else torch.zeros(0, dtype=torch.float64)


@dataclass(frozen=True, eq=False)
class AsideRows:
    """A matrix in an `Aside`."""

    aside: Aside
    start: int
    shape: tuple[int, int]

    def rows(self, start: int, stop: int) -> torch.Tensor:
        """Rows ``start`` to ``stop``."""
        columns = self.shape[1]
        found = self.aside.read(self.start + start * columns * _NUMBER, (stop - start) * columns)
        return found.view(stop - start, columns)


@dataclass(frozen=True, eq=False)
class _Change:
    """What a path changes of a weight as it is stored, block by block."""

    before: SlotValues
    after: SlotValues

    @property
    def shape(self) -> tuple[int, int]:
        return self.after.slot.rows, self.after.slot.columns

    def blocks(self) -> Iterator[torch.Tensor]:
        for index in range(self.after.blocks):
            yield self.after.block(index) - self.before.block(index)


@dataclass(frozen=True)
class RescaledModule:
    """A module whose change is no product of low rank."""

    name: str  # as the adapter's tensors spell it
    target: Target
    before: SlotValues
    after: SlotValues

    @property
    def out_features(self) -> int:
        """Rows of the change as the module applies it."""
        return self.after.slot.out_features

    @property
    def in_features(self) -> int:
        """Columns of it."""
        return self.after.slot.in_features

    @property
    def rank(self) -> int:
        """Of the change: as large as it can be."""
        return min(self.in_features, self.out_features)

    def directions(self, aside: Aside, *, rank: int | None, max_error: float) -> Directions:
        """Find the directions that hold most of the change; see `nearest`, which says what is raised."""
        change = _Change(self.before, self.after)
        found = nearest(change, rank=rank, max_error=max_error, name=repr(self.target.module))
        b, a = (found.right.T, found.left.T) if self.after.slot.transposed else (found.left, found.right)
        cost = self.in_features + self.out_features
        spectrum = ModuleSpectrum(self.target.module, self.rank, cost, (found.values,), rest=found.rest)
        return Directions(self, spectrum, aside.put(b), aside.put(a))


@dataclass(frozen=True, eq=False)
class Directions:
    """The directions that were found of a module's change."""

    module: RescaledModule
    spectrum: ModuleSpectrum
    b: AsideRows  # (out_features, found)
    a: AsideRows  # (found, in_features)


@dataclass(frozen=True)
class FlattenedPair:
    """The plain pair of a rescaled module, of ``kept`` of its directions."""

    found: Directions
    kept: int
    at_least: int = 0
    target: Target = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "target", self.found.module.target)

    @property
    def rank(self) -> int:
        """Rank that the pair is written with."""
        return max(self.kept, self.at_least)

    def tensors(self) -> list[AdapterTensor]:
        """A and B."""
        module = self.found.module
        rows_a = rows_filled(self._a_rows, self._held, module.in_features)
        return pair_tensors(
            module.name, module.target, self.rank, rows_a, columns_filled(self._b_rows, self.rank), None
        )

    def pair_error(self, dtype: torch.dtype) -> float:
        """At most ||D - D'||_F of the pair as it is rounded to ``dtype``: what is left out and the rounding add up.

        Raises:
            InvalidAdapterError: ``overflow``, a factor is too large for ``dtype``.
        """
        module = self.found.module
        a, b = self._a_rows(0, self._held), self._b_rows(0, module.out_features)
        new_a, new_b = (self._as_written(one, dtype) for one in (a, b))
        moved = distance(b, a, new_b, new_a)[0] if self._held else 0.0
        return math.sqrt(self.found.spectrum.discarded(self.kept)) + moved

    def _as_written(self, values: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        made = rounded(values, dtype)
        if made is None:
            raise overflow(self.found.module.name, dtype, values)
        return made

    @property
    def _held(self) -> int:
        """Directions that are kept; none of a change that is zero."""
        return min(self.kept, self.found.a.shape[0])

    def _a_rows(self, start: int, stop: int) -> torch.Tensor:
        return self.found.a.rows(start, stop)

    def _b_rows(self, start: int, stop: int) -> torch.Tensor:
        return self.found.b.rows(start, stop)[:, : self._held]
