"""Energies of the rows of a file's tensors: sums of the squares of their elements, taken while its bytes pass by.

Needs no torch: a base model is added without it. Sums are in float64, in blocks that are counted from the start of a
tensor: they do not depend on where chunks end.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from registry.files.header import SIZES, TensorEntry
from registry.tensors.elements.passing import PassingElements

_BLOCK: Final = 1 << 16  # elements: the buffers that a block goes through stay in the processor's cache
_DOT: Final = 1 << 13  # elements of a dot product: OpenBLAS would take threads for longer ones

Energies = NDArray[np.float64]


@dataclass(frozen=True)
class RowEnergies:
    """The energies of a tensor's rows: the first dimension by the rest, a vector being a column."""

    columns: int
    rows: Energies  # not finite where an element is not

    def between(self, first: int, stop: int) -> float:
        """The energy of elements ``first`` to ``stop`` of the tensor, which are whole rows; 0 of none."""
        if not self.columns:
            return 0.0
        if first % self.columns or stop % self.columns:
            raise ValueError(f"elements {first} to {stop} are not whole rows of {self.columns}")
        return float(self.rows[first // self.columns : stop // self.columns].sum())


class EnergyWatch:
    """Call it as `PassingElements` is called; `tensors` are complete after the last chunk.

    It keeps one float64 for each row of the floating-point tensors, the only ones that it looks at.
    """

    def __init__(self, entries: Mapping[str, TensorEntry]) -> None:
        self.tensors = {name: _rows_of(entry) for name, entry in entries.items() if entry.dtype in _WIDEN}
        self._dtypes = {name: entry.dtype for name, entry in entries.items()}
        self._elements = PassingElements(entries, _WIDEN, self._take)
        self._values = np.empty(_BLOCK)
        self._half = np.empty(_BLOCK, np.uint32)

    def not_finite(self) -> dict[str, list[int]]:
        """Tensors with NaN or infinity, and the rows (of the first dimension) that hold them, ascending.

        In float64 a square may be infinite where its element is not, so of such tensors only NaN is seen.
        """
        found = {}
        for name, tensor in self.tensors.items():
            bad = np.isnan(tensor.rows) if self._dtypes[name] == "F64" else ~np.isfinite(tensor.rows)
            if bad.any():
                found[name] = [int(row) for row in np.flatnonzero(bad)]
        return found

    def __call__(self, offset: int, chunk: memoryview) -> None:
        with np.errstate(over="ignore", invalid="ignore"):  # what is not finite stays so
            self._elements(offset, chunk)

    def _take(self, entry: TensorEntry, index: int, piece: memoryview) -> None:
        count, at = len(piece) // SIZES[entry.dtype], 0
        while at < count:
            filled = (index + at) % _BLOCK
            stop = min(count, at + _BLOCK - filled)
            some = piece[at * SIZES[entry.dtype] : stop * SIZES[entry.dtype]]
            _WIDEN[entry.dtype](some, self._values[filled : filled + stop - at], self._half[: stop - at])
            filled, at = filled + stop - at, stop
            if filled == _BLOCK or index + at == entry.elements:
                _add_energies(self.tensors[entry.name], index + at - filled, self._values[:filled])


def _rows_of(entry: TensorEntry) -> RowEnergies:
    rows = entry.shape[0] if entry.shape else 1
    return RowEnergies(math.prod(entry.shape[1:]), np.zeros(rows))


def _add_energies(tensor: RowEnergies, first: int, values: Energies) -> None:
    """Add the energies of elements from number ``first`` on: the rest of a row, whole rows, the begin of one."""
    row, begun = divmod(first, tensor.columns)
    at = min(-begun % tensor.columns, len(values))
    if at:
        tensor.rows[row] += _energies_of(values[:at].reshape(1, -1))[0]
        row += 1
    whole = (len(values) - at) // tensor.columns
    if whole:
        stop = at + whole * tensor.columns
        tensor.rows[row : row + whole] = _energies_of(values[at:stop].reshape(whole, -1))
        row, at = row + whole, stop
    if at < len(values):
        tensor.rows[row] += _energies_of(values[at:].reshape(1, -1))[0]


def _energies_of(values: Energies) -> Energies:
    """The energy of each row, by dot products: twice as fast as `numpy.einsum`."""
    found = np.zeros(len(values))
    for at in range(0, values.shape[1], _DOT):
        part = values[:, at : at + _DOT]
        found += np.matmul(part[:, None, :], part[:, :, None])[:, 0, 0]
    return found


_Widen = Callable[[memoryview, Energies, NDArray[np.uint32]], None]
"""Writes bytes of elements as float64; the third is memory for as many elements."""


def _as(dtype: str) -> _Widen:
    def widen(piece: memoryview, values: Energies, _: NDArray[np.uint32]) -> None:
        values[:] = np.frombuffer(piece, dtype)

    return widen


def _bfloat16(piece: memoryview, values: Energies, half: NDArray[np.uint32]) -> None:
    """numpy has no bfloat16: it is the upper half of a float32."""
    half[:] = np.frombuffer(piece, "<u2")
    np.left_shift(half, 16, out=half)
    values[:] = half.view(np.float32)


_WIDEN: Final[Mapping[str, _Widen]] = {"F64": _as("<f8"), "F32": _as("<f4"), "F16": _as("<f2"), "BF16": _bfloat16}
