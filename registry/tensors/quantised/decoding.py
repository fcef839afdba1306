"""The numbers that a quantised tensor means: code, scale and zero point multiplied out exactly, by ranges.

Products are made in float32 if every one of them is exact in it, else in float64, in the order of the format
(docs/quantised.md); they are never rounded to a loader's dtype in between. Rounding to bf16 has a shortcut: a product
in float32 rounds as the exact one does unless it lies midway between two numbers of bf16; only then float64 is used.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

import torch

from registry.files.header import Tensors
from registry.quantised.reading import Decoding, Grid
from registry.tensors.arithmetic.kernel import round_into, scratch
from registry.tensors.quantised.grid import (
    FlatScales,
    GridScales,
    Piece,
    flat_layout,
    grid_layout,
    in_range,
    look_up,
    numbers_of,
    raw,
)

_LEAST, _MOST = -(2**31), 2**31 - 1  # of int32
_RUN: Final = 1 << 10


@dataclass(frozen=True)
class _Read:
    """Bytes of codes from number ``start`` on, and scales from a row and a column of the grids on."""

    codes: torch.Tensor
    start: int
    scales: torch.Tensor
    zeros: torch.Tensor | None
    alike: bool  # their products round to bf16 by way of float32
    row: int
    column: int


@dataclass(frozen=True)
class _Tile:
    """The codes of a piece as numbers, less their zero points, and the scales of its rows."""

    codes: torch.Tensor  # (rows, columns), float32
    scales: torch.Tensor  # (rows, blocks that the columns touch)
    alike: bool
    inset: int  # columns of the first block that are not in the piece
    block: int  # columns of a block


class DecodedTensor:
    """A plain tensor that is decoded while it is read, by any thread.

    Args:
        decoding: how it is made.
        stored: the tensors of the checkpoint, and the open files that hold them.
    """

    def __init__(self, decoding: Decoding, stored: Tensors) -> None:
        self._source, self._entry = stored[decoding.parts[0]]
        self._scales: GridScales | FlatScales
        if isinstance(decoding, Grid):
            self._layout = grid_layout(decoding)
            self._table = numbers_of(decoding.codes.coding, decoding.codes.bits, self._entry.dtype)
            self._scales = GridScales(decoding, stored, self._layout)
        else:
            self._layout = flat_layout(decoding)
            self._table = numbers_of(decoding.map, self._layout.bits, self._entry.dtype)
            self._scales = FlatScales(decoding, stored, self._layout)
        self.dtype: Final = self._scales.dtype
        """That of `values`: float32 where it holds every product exactly, unless one is beyond its range."""
        self._elements = math.prod(decoding.shape)
        self._lock = threading.Lock()
        self._kept: tuple[int, _Read] | None = None

    def values(self, first: int, last: int) -> torch.Tensor:
        """Elements ``first`` to ``last`` of the plain tensor in row-major order, exact, in `dtype`."""
        out = scratch((last - first,), self.dtype)
        for tile, place in self._tiles(first, last, out):
            place.copy_(self._products(tile, self.dtype))
        return out

    def rounded(self, first: int, last: int, dtype: torch.dtype) -> torch.Tensor:
        """The same, each rounded once to ``dtype``: to nearest, ties to even."""
        out = scratch((last - first,), dtype)
        exact = self.dtype is torch.float32 or (dtype is torch.float32 and not self._scales.loose)
        for tile, place in self._tiles(first, last, out):
            if exact or (dtype is torch.bfloat16 and tile.alike):
                _put(self._products(tile, torch.float32), place)
            elif dtype is not torch.bfloat16 or not self._put_nearest(tile, place):
                _put(self._products(tile, torch.float64), place)
        return out

    def _tiles(self, first: int, last: int, out: torch.Tensor) -> Iterator[tuple[_Tile, torch.Tensor]]:
        """What elements are made of, and where in ``out`` they belong, as a matrix of the shape of the codes."""
        if not 0 <= first <= last <= self._elements:
            raise ValueError(f"elements {first} to {last} of {self._elements}")
        pieces = list(self._layout.pieces(first, last))
        turned = self._layout.turned
        read = self._read(pieces[0], pieces[-1]) if pieces and not turned else None
        for piece in pieces:
            place = out[piece.at : piece.at + piece.elements]
            down, across = piece.bottom - piece.top, piece.right - piece.left
            shaped = place.view(across, down).t() if turned else place.view(down, across)
            yield self._tile(piece, read or self._whole(piece.matrix)), shaped

    def _whole(self, matrix: int) -> _Read:
        """A whole matrix of codes, whose columns are wanted: the last one is cached."""
        with self._lock:
            if self._kept is None or self._kept[0] != matrix:
                self._kept = None  # one at a time
                every = Piece(0, matrix, 0, self._layout.rows, 0, self._layout.columns)
                self._kept = matrix, self._read(every, every)
            return self._kept[1]

    def _read(self, begin: Piece, end: Piece) -> _Read:
        """The codes and scales from the first of ``begin`` to the last of ``end``."""
        layout = self._layout
        start, stop = layout.span(begin, end)
        if layout.split:
            halves = raw(self._source, self._entry, start // 2, -(-stop // 2))
            codes = torch.stack((halves >> 4, halves & 15), dim=1).view(-1)
        else:
            codes = raw(self._source, self._entry, start, stop)
        top, bottom = layout.grid_span(begin, end)
        left, right = 0, layout.grid_columns
        if begin.matrix == end.matrix and begin.top == end.bottom - 1:
            left, right = begin.left // layout.block[1], -(-end.right // layout.block[1])
        where = (top, bottom, left, right)
        scales = self._scales.read(*where)
        alike = self._scales.round_alike(scales, codes.numel())
        return _Read(codes, start, scales, self._scales.zeros(*where), alike, top, left)

    def _tile(self, piece: Piece, read: _Read) -> _Tile:
        layout = self._layout
        (down, across), (start, stop) = layout.block, layout.span(piece, piece)
        rows = piece.bottom - piece.top
        width = stop - start - (rows - 1) * layout.stride
        data = read.codes.as_strided(
            (rows, width), (layout.stride, 1), read.codes.storage_offset() + start - read.start
        )
        skipped = piece.left * layout.bits % 8 // layout.bits
        codes = look_up(self._table, data)[:, skipped : skipped + piece.right - piece.left]
        first, last = layout.grid_span(piece, piece)
        left, right = piece.left // across, -(-piece.right // across)
        part = slice(first - read.row, last - read.row), slice(left - read.column, right - read.column)

        def of_rows(grid: torch.Tensor) -> torch.Tensor:
            if last - first == 1:
                return grid[part].expand(rows, right - left)
            return grid[part] if down == 1 else grid[part][_over(piece.top, piece.bottom, down)]

        inset = piece.left - left * across
        if read.zeros is not None:
            _by_blocks(torch.sub, codes, of_rows(read.zeros), inset, across, codes)
        return _Tile(codes, of_rows(read.scales), read.alike, inset, across)

    def _products(self, tile: _Tile, dtype: torch.dtype) -> torch.Tensor:
        """Code times scale, then the factor, each operation in ``dtype``."""
        products = scratch(tile.codes.shape, dtype).copy_(tile.codes) if dtype is torch.float64 else tile.codes
        _by_blocks(torch.mul, products, tile.scales.to(dtype), tile.inset, tile.block, products)
        return self._scales.with_factor(products)

    def _put_nearest(self, tile: _Tile, place: torch.Tensor) -> bool:
        """The products as bf16, by way of float32; False, and nothing is put, where float32 is too narrow for that.

        The step to float32 misses by at most half a unit in its last place, and by one and a half where the scale was
        rounded before: only so near to the middle between two numbers of bf16 does it matter.
        """
        scales = tile.scales
        if self._scales.loose:
            scales = self._scales.with_factor(scales.clone())
            if not in_range(scales):
                return False
        products = scratch(tile.codes.shape, torch.float32)
        _by_blocks(torch.mul, tile.codes, scales.to(torch.float32), tile.inset, tile.block, products)
        _put(products, place)
        # The lower half of the bits, as the upper half of a number: the least is the middle, the largest is below it.
        below = scratch(products.shape, torch.int32)
        torch.bitwise_left_shift(products.view(torch.int32), 16, out=below)
        found = _extremes(below.view(-1), 2 << 16 if self._scales.loose else 0)
        if found is not None:
            rows, columns = torch.div(found, below.shape[1], rounding_mode="floor"), found % below.shape[1]
            blocks = torch.div(columns + tile.inset, tile.block, rounding_mode="floor")
            exact = self._scales.with_factor(tile.codes[rows, columns].to(torch.float64) * tile.scales[rows, blocks])
            nearest = torch.empty(exact.shape, dtype=torch.bfloat16)
            round_into(nearest, exact)
            place[rows, columns] = nearest
        return True


def _extremes(numbers: torch.Tensor, near: int) -> torch.Tensor | None:
    """Where int32 ``numbers`` are at most ``near`` away from their least value, or nearer to the largest one.

    They are few, and looking for the least of each run costs a twentieth of comparing every number.
    """
    run = _RUN if len(numbers) % _RUN == 0 else len(numbers)
    runs = numbers.view(-1, run)
    some = runs.amin(1) <= _LEAST + near
    if near:
        some |= runs.amax(1) > _MOST - near
    at = torch.nonzero(some).view(-1)
    if not len(at):
        return None
    looked = runs[at]
    inside = looked <= _LEAST + near
    if near:
        inside |= looked > _MOST - near
    which, place = torch.nonzero(inside, as_tuple=True)
    return at[which] * run + place


def _over(first: int, last: int, down: int) -> torch.Tensor:
    """The row of the grid of each row ``first`` to ``last``, from that of the first on."""
    return torch.div(torch.arange(first, last), down, rounding_mode="floor") - first // down


def _put(products: torch.Tensor, place: torch.Tensor) -> None:
    """Round them into their place, which may be a transposed one."""
    if place.is_contiguous():
        round_into(place, products)
        return
    rounded = scratch(products.shape, place.dtype)
    round_into(rounded, products)
    place.copy_(rounded)


def _by_blocks(
    operation: Callable[..., torch.Tensor],
    numbers: torch.Tensor,
    grid: torch.Tensor,
    inset: int,
    block: int,
    out: torch.Tensor,
) -> None:
    """``operation`` on numbers (rows, columns) and the number of their block of columns, into ``out``."""
    columns = numbers.shape[1]
    begun = min(columns, -inset % block)
    whole = (columns - begun) // block
    end, at = begun + whole * block, 0
    if begun:
        operation(numbers[:, :begun], grid[:, :1], out=out[:, :begun])
        at = 1
    if whole:
        middle = slice(begun, end)
        operation(_cut(numbers[:, middle], block), grid[:, at : at + whole, None], out=_cut(out[:, middle], block))
    if end < columns:
        operation(numbers[:, end:], grid[:, at + whole :], out=out[:, end:])


def _cut(numbers: torch.Tensor, block: int) -> torch.Tensor:
    """(rows, columns) as (rows, blocks, columns of a block), in the same memory."""
    return numbers.view(numbers.shape[0], -1, block)
