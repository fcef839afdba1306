"""Where the codes and scales of a quantised tensor lie: matrices of codes, and one scale for each block of a grid.

Blocks of a flat tensor are the rows of a matrix, each with one scale. Of a transposed one, whose rows are columns of
what is stored, they become parts of rows: as long as every part lies in one block.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from registry.quantised.reading import FlatBlocks, Grid

_TILE: Final = 1 << 16
"""Elements that are computed at a time: what they pass through stays in the processor's cache."""
_TURNED_TILE: Final = 1 << 19
"""The same of a transposed tensor: a line of the cache holds codes of many of its rows."""


@dataclass(frozen=True)
class Piece:
    """Rows ``top`` to ``bottom`` and columns ``left`` to ``right`` of a matrix of codes, as it is stored."""

    at: int  # where its first element is in the range that was asked for
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
