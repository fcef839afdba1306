"""The grid of a quantised tensor: where its codes, scales and zero points lie, and the numbers that they stand for.

Codes are matrices, with one scale for each block of a grid; scales and zero points are read by rows of it. Blocks of a
flat tensor are the rows of a matrix, each with one scale. Of a transposed one, whose rows are columns of what is
stored, they become parts of rows: as long as every part lies in one block.

What codes stand for is a table of numbers for each coding, indexed by the byte that holds them. All numbers here are
exact in float32. One look-up gives two of them, of a byte with two codes or of two bytes with one each: that takes a
tenth of the time of torch's conversion of float8, which computes each element by itself.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Final

import torch

from registry.files.header import SIZES, TensorEntry, Tensors
from registry.files.source import ByteSource, look_at
from registry.quantised.reading import MAPS, FlatBlocks, Grid, ZeroPoint
from registry.tensors.arithmetic.dtypes import FLOATS
from registry.tensors.arithmetic.kernel import scratch

_MANY: Final = 1 << 12
"""Bytes for which a table of pairs is worth its half a MiB."""
_E2M1: Final = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
_E2M1_SIGNED: Final = (*_E2M1, *(-value for value in _E2M1))  # code 8 is -0: the sign of zero is preserved


@cache
def float8(dtype: str) -> torch.Tensor:
    """The 256 numbers of F8_E4M3 (bias 7, no infinity), F8_E5M2 (bias 15), and F8_E8M0: 2^(byte - 127), 255 is NaN."""
    if dtype == "F8_E8M0":
        return _table([2.0 ** (byte - 127) for byte in range(255)] + [float("nan")], 1)
    fraction, bias = (3, 7) if dtype == "F8_E4M3" else (2, 15)
    return _table((_float8(byte, fraction, bias) for byte in range(256)), 1)


def _float8(byte: int, fraction: int, bias: int) -> float:
    exponent, rest = divmod(byte & 0x7F, 1 << fraction)
    most = (0x7F >> fraction, (1 << fraction) - 1)
    if fraction == 3 and (exponent, rest) == most:
        value = float("nan")
    elif fraction == 2 and exponent == most[0]:
        value = float("nan") if rest else float("inf")
    else:  # below exponent 1 are the subnormals
        value = (rest + (1 << fraction if exponent else 0)) * 2.0 ** (max(exponent, 1) - bias - fraction)
    return -value if byte & 0x80 else value


@cache
def numbers_of(coding: str, bits: int, dtype: str) -> torch.Tensor:
    """The numbers of the codes in each byte, (256, codes in a byte), float32.

    Args:
        coding: of `registry.quantised.reading.Codes`, or a map of bitsandbytes.
        bits: of a packed code: 1, 2, 4 or 8, so that none lies in two bytes.
        dtype: of the stored tensor.
    """
    if coding == "float8":
        return float8(dtype)
    if coding == "int8":
        return _table((byte - 256 if byte > 127 else byte for byte in range(256)), 1)
    if coding == "packed":
        mask, offset = (1 << bits) - 1, 1 << (bits - 1)
        places = range(0, 8, bits)
        return _table(((byte >> at & mask) - offset for byte in range(256) for at in places), len(places))
    if coding == "e2m1":
        return _table((_E2M1_SIGNED[half] for byte in range(256) for half in (byte & 15, byte >> 4)), 2)
    if bits == 8:  # a byte for each code
        return _table((MAPS[coding][byte & 15] for byte in range(256)), 1)
    return _table((MAPS[coding][half] for byte in range(256) for half in (byte >> 4, byte & 15)), 2)


@cache
def _pairs(table: torch.Tensor) -> torch.Tensor:
    """The numbers of two bytes with a code each, by the 16 bits of both."""
    both = torch.arange(1 << 16)
    return torch.stack((table.view(-1)[both & 255], table.view(-1)[both >> 8]), dim=1).view(torch.complex64).view(-1)


def _table(values: Iterable[float], codes: int) -> torch.Tensor:
    return torch.tensor(list(values), dtype=torch.float32).view(256, codes)


def look_up(table: torch.Tensor, data: torch.Tensor) -> torch.Tensor:
    """The numbers of the codes in ``data``, bytes (rows, bytes of a row): (rows, codes of a row), float32."""
    rows, width = data.shape
    codes = table.shape[1]
    flat = data.reshape(-1)
    if codes == 1 and len(flat) >= _MANY and len(flat) % 2 == 0:
        if flat.data_ptr() % 2 or flat.storage_offset() % 2:
            flat = flat.clone()
        flat, numbers = flat.view(torch.uint16), _pairs(table)
    elif codes == 1:
        numbers = table.view(-1)
    else:  # a pair is one element: a complex number of 8 bytes
        numbers = table.view(torch.complex64).view(-1) if codes == 2 else table
    index = scratch((len(flat),), torch.int32).copy_(flat)
    found = scratch((len(flat), *numbers.shape[1:]), numbers.dtype)
    torch.index_select(numbers, 0, index, out=found)
    return found.view(torch.float32).view(rows, width * codes)


def raw(source: ByteSource, entry: TensorEntry, start: int, stop: int) -> torch.Tensor:
    """Bytes ``start`` to ``stop`` of a tensor, uint8; not to be changed."""
    found = look_at(source, entry.start + start, entry.start + stop)
    if found.readonly:  # torch warns of memory that it may not write, even where nobody does
        found = memoryview(bytearray(found))
    return torch.frombuffer(found, dtype=torch.uint8) if found else torch.empty(0, dtype=torch.uint8)


_TILE: Final = 1 << 16
"""Elements that are computed at a time: what they pass through stays in the processor's cache."""
_TURNED_TILE: Final = 1 << 19
"""The same of a transposed tensor: a line of the cache holds codes of many of its rows."""


@dataclass(frozen=True)
class Piece:
    """Rows ``top`` to ``bottom`` and columns ``left`` to ``right`` of a matrix of codes, as it is stored."""

    at: int  # where its first element is in the requested range
    matrix: int
    top: int
    bottom: int
    left: int
    right: int

    @property
    def elements(self) -> int:
        """Number of elements."""
        return (self.bottom - self.top) * (self.right - self.left)


@dataclass(frozen=True)
class Layout:
    """Matrices of codes, one after another, and the blocks of their grid."""

    rows: int
    columns: int
    bits: int  # of a code
    stride: int  # bytes of a row
    block: tuple[int, int]
    turned: bool  # the plain tensor has their columns as rows
    split: bool = False  # two codes of a stored byte are made two bytes before

    @property
    def grid_rows(self) -> int:
        """Rows of a matrix's grid."""
        return -(-self.rows // self.block[0])

    @property
    def grid_columns(self) -> int:
        """Columns of a matrix's grid."""
        return -(-self.columns // self.block[1])

    def span(self, begin: Piece, end: Piece) -> tuple[int, int]:
        """The bytes of the codes from the first of ``begin`` to the last of ``end``."""
        first, last = begin.matrix * self.rows + begin.top, end.matrix * self.rows + end.bottom - 1
        return first * self.stride + begin.left * self.bits // 8, last * self.stride - (-end.right * self.bits // 8)

    def grid_span(self, begin: Piece, end: Piece) -> tuple[int, int]:
        """The rows of the grids, one below another, from the first of ``begin`` to the last of ``end``."""
        first = begin.matrix * self.grid_rows + begin.top // self.block[0]
        return first, end.matrix * self.grid_rows + (end.bottom - 1) // self.block[0] + 1

    def pieces(self, first: int, last: int) -> Iterator[Piece]:
        """Elements ``first`` to ``last`` of the plain tensor, in its order, as pieces of some ten thousand elements."""
        across, down = (self.rows, self.columns) if self.turned else (self.columns, self.rows)
        most = _TURNED_TILE if self.turned else _TILE
        at = first
        while at < last:
            line, left = divmod(at, across)
            matrix, top = divmod(line, down)
            lines = min((last - at) // across, max(1, most // across), down - top)
            if left or not lines or across > most:
                lines, right = 1, min(across, left + last - at, left + most)
            else:
                right = across
            bounds = (left, right, top, top + lines) if self.turned else (top, top + lines, left, right)
            piece = Piece(at - first, matrix, *bounds)
            yield piece
            at += piece.elements


def grid_layout(grid: Grid) -> Layout:
    """That of a `Grid`."""
    bits = {"e2m1": 4, "packed": grid.codes.bits}.get(grid.codes.coding, 8)
    rows, columns = grid.shape[-2:]
    words = 32 if grid.codes.coding == "packed" else 8
    return Layout(rows, columns, bits, -(-columns * bits // words) * words // 8, grid.scale.block, grid.transposed)


def flat_layout(blocks: FlatBlocks) -> Layout:
    """That of `FlatBlocks`."""
    elements, (rows, columns) = math.prod(blocks.shape), blocks.shape[-2:]
    if not blocks.transposed:
        return Layout(-(-elements // blocks.block), blocks.block, 4, blocks.block // 2, (1, blocks.block), turned=False)
    # An odd number of columns lets rows begin amid a byte: each code gets a byte of its own then (`split`).
    bits, stride = (8, columns) if columns % 2 else (4, columns // 2)
    return Layout(rows, columns, bits, stride, (1, math.gcd(columns, blocks.block)), turned=True, split=bits == 8)


_SMALL, _LARGE = 2.0**-100, 2.0**100


def read_numbers(stored: Tensors, name: str, first: int, last: int, *, coding: str = "float") -> torch.Tensor:
    """Elements ``first`` to ``last`` of a stored tensor as float32, or float64 if stored so; bytes by ``coding``."""
    source, entry = stored[name]
    size = SIZES[entry.dtype]
    data = raw(source, entry, first * size, last * size)
    if coding in ("exponent", "int8"):
        table = float8("F8_E8M0") if coding == "exponent" else numbers_of("int8", 8, "I8")
        return look_up(table, data.view(1, -1)).view(-1)
    if entry.dtype not in FLOATS:
        return look_up(float8(entry.dtype), data.view(1, -1)).view(-1)
    dtype = FLOATS[entry.dtype]
    if data.data_ptr() % size:  # a file's numbers may begin at any byte, a processor's only at some
        data = data.clone()
    found = data.view(dtype)
    return found if size >= 4 else found.to(torch.float32)


def in_range(scales: torch.Tensor) -> bool:
    """Whether float32 has all bits of a scale, or zero, and of its product with any code."""
    sizes = scales.abs()
    return bool(((sizes > _SMALL) & (sizes < _LARGE) | (sizes == 0)).all())


class GridScales:
    """Those of a `Grid`, float64 where float32 does not hold every product."""

    def __init__(self, grid: Grid, stored: Tensors, layout: Layout) -> None:
        self._grid = grid
        self._stored = stored
        self._columns = layout.grid_columns
        exact = grid.factor is None and stored[grid.scale.name][1].dtype not in ("F32", "F64")
        self.dtype = torch.float32 if exact else torch.float64
        self.loose = grid.factor is not None
        """Whether a product of these, rounded to float32, and a code is not the nearest float32 of their product."""

    @cached_property
    def factor(self) -> float:
        """The number that products are multiplied or divided by; 1: by none."""
        factor = self._grid.factor
        if factor is None or factor.name is None:
            return 1.0 if factor is None or factor.value is None else factor.value
        return read_numbers(self._stored, factor.name, 0, 1).item()

    def with_factor(self, products: torch.Tensor) -> torch.Tensor:
        """Multiply or divide in place."""
        if self._grid.factor is None:
            return products
        return products.mul_(self.factor) if self._grid.factor.operation == "multiply" else products.div_(self.factor)

    def round_alike(self, scales: torch.Tensor, elements: int) -> bool:
        """Whether every product with a code, rounded to float32 and then to bf16, is the nearest bf16.

        It is, unless it is not exact in float32 and its float32 lies midway between two of bf16. Of a code only its odd
        factor matters. False too if this check would take longer than checking the ``elements`` products themselves.
        """
        if self.loose or len(self._odd) * scales.numel() * 4 > elements:
            return False
        exact = scales.reshape(-1, 1).to(torch.float64) * self._odd
        near = exact.to(torch.float32)
        middle = (near.view(torch.int32) & 0xFFFF) == 0x8000
        return bool(in_range(scales)) and not bool((middle & (near != exact)).any())

    @cached_property
    def _odd(self) -> torch.Tensor:
        codes = self._grid.codes
        most = {"float8": 15, "e2m1": 3}.get(codes.coding, 1 << (codes.bits - (self._grid.zero is None)))
        return torch.arange(1, most + 1, 2, dtype=torch.float64)

    def read(self, top: int, bottom: int, left: int, right: int) -> torch.Tensor:
        """Rows ``top`` to ``bottom`` of the grids, one below another; of a single one columns ``left`` to ``right``."""
        if bottom - top > 1:
            left, right = 0, self._columns
        at = top * self._columns
        scale = self._grid.scale
        found = read_numbers(
            self._stored, scale.name, at + left, (bottom - 1) * self._columns + right, coding=scale.coding
        )
        return found.to(self.dtype).view(bottom - top, right - left)

    def zeros(self, top: int, bottom: int, left: int, right: int) -> torch.Tensor | None:
        """The zero points of these rows and columns, float32; None: the format has none."""
        zero = self._grid.zero
        if zero is None:
            return None
        if bottom - top > 1:
            left, right = 0, self._columns
        if zero.coding == "packed":
            return self._packed(zero, top, bottom)[:, left:right]
        first, last = top * self._columns + left, (bottom - 1) * self._columns + right
        return read_numbers(self._stored, zero.name, first, last, coding="int8").view(bottom - top, right - left)

    def _packed(self, zero: ZeroPoint, top: int, bottom: int) -> torch.Tensor:
        """Words of I32 (rows * bits / 32, columns): those of a column are its stream of bits."""
        source, entry = self._stored[zero.name]
        first, last = top * zero.bits // 32, -(-bottom * zero.bits // 32)
        words = raw(source, entry, first * self._columns * 4, last * self._columns * 4).view(-1, self._columns, 4)
        down = words.permute(1, 0, 2).reshape(self._columns, -1)  # each column's bytes
        begin = top - first * 32 // zero.bits
        return look_up(numbers_of("packed", zero.bits, "I32"), down)[:, begin : begin + bottom - top].t()


class FlatScales:
    """Those of `FlatBlocks`."""

    dtype = torch.float64

    def __init__(self, blocks: FlatBlocks, stored: Tensors, layout: Layout) -> None:
        self._blocks = blocks
        self._stored = stored
        self._layout = layout
        self.loose = blocks.nested is not None

    def with_factor(self, products: torch.Tensor) -> torch.Tensor:
        """The products unchanged: no factor exists."""
        return products

    def round_alike(self, scales: torch.Tensor, elements: int) -> bool:  # noqa: ARG002 (as `GridScales` has it)
        """Unknown: numbers of 24 bits are multiplied."""
        return False

    def read(self, top: int, bottom: int, left: int, right: int) -> torch.Tensor:
        """As `GridScales.read`; of a transposed tensor all rows and columns are requested."""
        if not self._layout.turned:
            return self._absmax(top, bottom).view(-1, 1)
        blocks = self._blocks
        every = self._absmax(0, -(-math.prod(blocks.shape) // blocks.block))
        starts = torch.arange(top, bottom).view(-1, 1) * self._layout.columns
        begun = torch.arange(left, right) * self._layout.block[1]
        return every[torch.div(starts + begun, blocks.block, rounding_mode="floor")]

    def zeros(self, top: int, bottom: int, left: int, right: int) -> None:
        """None: no zero points exist."""

    @cached_property
    def _map(self) -> torch.Tensor:
        assert self._blocks.nested is not None
        return read_numbers(self._stored, self._blocks.nested.map, 0, 256).to(torch.float64)

    def _absmax(self, first: int, last: int) -> torch.Tensor:
        nested = self._blocks.nested
        if nested is None:
            return read_numbers(self._stored, self._blocks.absmax, first, last).to(torch.float64)
        source, entry = self._stored[self._blocks.absmax]
        codes = self._map[raw(source, entry, first, last).to(torch.int64)]
        begin, end = first // nested.block, -(-last // nested.block)
        absmax = read_numbers(self._stored, nested.absmax, begin, end).to(torch.float64)
        of = torch.div(torch.arange(first, last), nested.block, rounding_mode="floor") - begin
        return codes * absmax[of] + nested.offset
