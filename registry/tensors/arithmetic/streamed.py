"""What is computed of a file's tensors while its bytes stream past: finite or not, energies of rows, Gram matrices.

Chunks may end inside an element. All of it is in numpy: a base model is added without torch, which would also start
threads of its own in the thread that reads, and cost three times as much. The energy of a row is the sum of the squares
of its elements; Gram matrices are all that the energy of a product needs of its factors. Sums of energies are in
float64, in blocks that are counted from the start of a tensor: they do not depend on where chunks end.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from registry.errors import InvalidAdapterError
from registry.files.header import SIZES, TensorEntry
from registry.files.source import ByteSource, read_range
from registry.files.strict_json import shown

_STEP: Final = 8 << 20

Watch = Callable[[int, memoryview], None]
"""Gets the chunks of a file in order, each with its offset."""

Take = Callable[[TensorEntry, int, memoryview], None]
"""Gets bytes of whole elements of a tensor, and the number of the first one; they are valid during the call only."""


class PassingElements:
    """Call it with each chunk of the file, from the first byte on and in order; ``take`` gets the elements in order.

    Args:
        entries: the tensors of the file.
        dtypes: those whose elements are looked at.
        take: called with elements of one tensor, any number of them at a time.
    """

    def __init__(self, entries: Mapping[str, TensorEntry], dtypes: Collection[str], take: Take) -> None:
        self._entries = sorted((one for one in entries.values() if one.dtype in dtypes), key=lambda one: one.start)
        self._take = take
        self._next = 0  # entry that the next byte may belong to
        self._at = 0
        self._carry = bytearray()  # bytes of an element that the last chunk cut

    def __call__(self, offset: int, chunk: memoryview) -> None:
        if offset != self._at:
            raise ValueError(f"chunk at byte {offset}, expected {self._at}")
        chunk = chunk.cast("B")
        self._at = stop = offset + len(chunk)
        while self._next < len(self._entries):
            entry = self._entries[self._next]
            first, last = max(entry.start, offset), min(entry.stop, stop)
            if first < last:
                self._whole(entry, first, chunk[first - offset : last - offset])
            if entry.stop > stop:
                return
            self._next += 1

    def _whole(self, entry: TensorEntry, start: int, piece: memoryview) -> None:
        size = SIZES[entry.dtype]
        if self._carry:
            missing = size - len(self._carry)
            self._carry += piece[:missing]
            if len(self._carry) < size:
                return
            self._take(entry, (start - entry.start) // size, memoryview(bytes(self._carry)))
            self._carry.clear()
            start, piece = start + missing, piece[missing:]
        whole = len(piece) - len(piece) % size
        self._carry += piece[whole:]
        if whole:
            self._take(entry, (start - entry.start) // size, piece[:whole])


def watched_by(*watches: Watch) -> Watch:
    """One watch of several, which get each chunk in this order."""

    def each(offset: int, chunk: memoryview) -> None:
        for watch in watches:
            watch(offset, chunk)

    return each


def pass_by(source: ByteSource, watch: Watch, advance: Callable[[int], None]) -> None:
    """Read a whole file for ``watch``."""
    for offset in range(0, source.size, _STEP):
        chunk = read_range(source, offset, min(offset + _STEP, source.size))
        watch(offset, memoryview(chunk))
        advance(len(chunk))


_BLOCK: Final = 256 * 1024  # bytes that are looked at twice, so they should stay in the cache


@dataclass(frozen=True)
class _Layout:
    """Infinity of a float dtype as bits: all patterns from it on, of either sign, are infinity or NaN (IEEE 754)."""

    unsigned: str
    signed: str
    infinity: int
    negative: int


_LAYOUTS: Final = {
    "F64": _Layout("<u8", "<i8", 0x7FF0 << 48, 0xFFF0 << 48),
    "F32": _Layout("<u4", "<i4", 0x7F80 << 16, 0xFF80 << 16),
    "BF16": _Layout("<u2", "<i2", 0x7F80, 0xFF80),
    "F16": _Layout("<u2", "<i2", 0x7C00, 0xFC00),
}


def check_finite(entries: Mapping[str, TensorEntry], source: ByteSource, advance: Callable[[int], None]) -> None:
    """Read a whole file; raises `InvalidAdapterError` as `FiniteWatch` does."""
    pass_by(source, FiniteWatch(entries), advance)


class FiniteWatch:
    """Call it as `PassingElements` is called.

    Raises:
        InvalidAdapterError: ``non_finite``, naming the tensor and the first bad element.
    """

    def __init__(self, entries: Mapping[str, TensorEntry]) -> None:
        self._elements = PassingElements(entries, _LAYOUTS, self._take)

    def __call__(self, offset: int, chunk: memoryview) -> None:
        self._elements(offset, chunk)

    def _take(self, entry: TensorEntry, index: int, piece: memoryview) -> None:
        for at in range(0, len(piece), _BLOCK):
            self._check(entry, index + at // SIZES[entry.dtype], piece[at : at + _BLOCK])

    def _check(self, entry: TensorEntry, index: int, block: memoryview) -> None:
        layout = _LAYOUTS[entry.dtype]
        bits = np.frombuffer(block, dtype=layout.unsigned)
        signed = bits.view(layout.signed)
        if bits.max() < layout.negative and signed.max() < layout.infinity:
            return
        bad = index + int(np.argmax((bits >= layout.negative) | (signed >= layout.infinity)))
        place = [int(at) for at in np.unravel_index(bad, entry.shape)]
        raise InvalidAdapterError(
            f"Tensor {shown(entry.name)} of shape {entry.shape} contains NaN or infinity, first at element {place}. "
            "Such an adapter has no meaning: publish a checkpoint from before the training diverged, or save it "
            "again.",
            code="non_finite",
        )


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


_ELEMENTS: Final = 1 << 16  # elements: the buffers that a block goes through stay in the processor's cache
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
        self._values = np.empty(_ELEMENTS)
        self._half = np.empty(_ELEMENTS, np.uint32)

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
            filled = (index + at) % _ELEMENTS
            stop = min(count, at + _ELEMENTS - filled)
            some = piece[at * SIZES[entry.dtype] : stop * SIZES[entry.dtype]]
            _WIDEN[entry.dtype](some, self._values[filled : filled + stop - at], self._half[: stop - at])
            filled, at = filled + stop - at, stop
            if filled == _ELEMENTS or index + at == entry.elements:
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
