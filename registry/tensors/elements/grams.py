"""Gram matrices of factors, taken while their bytes pass by: all that the energy of a product needs of each.

numpy, as all watches: in the thread that reads, torch would start threads of its own, which cost three times as much.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from registry.files.header import TensorEntry
from registry.tensors.elements.passing import PassingElements

MOST_BYTES: Final = 64 << 20
"""Larger tensors have no Gram matrix here: each is in memory as a whole, where it does not come in one piece."""

_DTYPES: Final = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}

Values = NDArray[Any]


@dataclass(frozen=True)
class FactorShape:
    """How a tensor holds the factors of some experts, or of one matrix: ``rank`` rows, or ``rank`` columns, of each.

    ``rows``: (experts * rank, n), expert by expert. ``columns``: (n, rank * experts), the expert fastest.
    """

    side: Literal["rows", "columns"]
    rank: int
    experts: int = 1


@dataclass(frozen=True)
class Gram:
    """Gram matrices of the factors in a tensor, (experts, rank, rank); ``is_zero``: all of its elements are zero."""

    values: Values  # float32, of a tensor in float64 float64; infinite or zero where squares leave that
    is_zero: bool


class GramWatch:
    """Call it as `PassingElements` is called.

    Args:
        entries: the tensors of the file.
        shapes: of those that are factors, by name.
        take: called with the name and the Gram matrices of each that is not too large, in the order of the file.
    """

    def __init__(
        self, entries: Mapping[str, TensorEntry], shapes: Mapping[str, FactorShape], take: Callable[[str, Gram], None]
    ) -> None:
        some = {name: entries[name] for name in shapes if entries[name].stop - entries[name].start <= MOST_BYTES}
        self._shapes = shapes
        self._take = take
        self._begun = bytearray()  # of the tensor that is coming, where it does not come in one piece
        self._elements = PassingElements(some, _DTYPES, self._piece)

    def __call__(self, offset: int, chunk: memoryview) -> None:
        self._elements(offset, chunk)

    def _piece(self, entry: TensorEntry, _index: int, piece: memoryview) -> None:
        size = entry.stop - entry.start
        if len(piece) == size:
            self._take(entry.name, _gram(piece, entry, self._shapes[entry.name]))
            return
        self._begun += piece
        if len(self._begun) == size:
            begun, self._begun = self._begun, bytearray()
            self._take(entry.name, _gram(begun, entry, self._shapes[entry.name]))


def _gram(data: memoryview | bytearray, entry: TensorEntry, shape: FactorShape) -> Gram:
    values = _widened(np.frombuffer(data, _DTYPES[entry.dtype]), entry.dtype)
    experts, rank = shape.experts, shape.rank
    if shape.side == "rows":
        factors = values.reshape(experts, rank, -1)
    else:
        factors = values.reshape(-1, rank, experts).transpose(2, 1, 0)
        if experts > 1:  # BLAS takes a transposed matrix as it is, but not one whose elements lie apart
            factors = np.ascontiguousarray(factors)
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):  # who takes it looks
        found = np.matmul(factors, factors.transpose(0, 2, 1))
    return Gram(found, is_zero=not found.any() and not values.any())


def _widened(values: Values, dtype: str) -> Values:
    if dtype == "BF16":  # numpy has none: it is the upper half of a float32
        return (values.astype("<u4") << 16).view("<f4")
    return values.astype("<f4") if dtype == "F16" else values
