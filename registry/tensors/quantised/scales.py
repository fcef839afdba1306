"""The scales and zero points of a quantised tensor as numbers, read by rows of their grid."""

from __future__ import annotations

import math
from functools import cached_property

import torch

from registry.files.header import SIZES
from registry.files.model_weights import Tensors
from registry.quantised.reading import FlatBlocks, Grid, ZeroPoint
from registry.tensors.elements.dtypes import FLOATS
from registry.tensors.quantised.codes import float8, look_up, numbers_of, raw
from registry.tensors.quantised.layout import Layout

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

        It is, unless it is not exact in float32 and lies in the middle there. Of a code only its odd factor matters.
        False too where looking would take longer than looking at the products, of which there are ``elements``.
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
        """The zero points there, float32; None: there are none."""
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
        """There is none."""
        return products

    def round_alike(self, scales: torch.Tensor, elements: int) -> bool:  # noqa: ARG002 (as `GridScales` has it)
        """Unknown: numbers of 24 bits are multiplied."""
        return False

    def read(self, top: int, bottom: int, left: int, right: int) -> torch.Tensor:
        """As `GridScales.read`; of a transposed tensor all rows and columns are asked for."""
        if not self._layout.turned:
            return self._absmax(top, bottom).view(-1, 1)
        blocks = self._blocks
        every = self._absmax(0, -(-math.prod(blocks.shape) // blocks.block))
        starts = torch.arange(top, bottom).view(-1, 1) * self._layout.columns
        begun = torch.arange(left, right) * self._layout.block[1]
        return every[torch.div(starts + begun, blocks.block, rounding_mode="floor")]

    def zeros(self, top: int, bottom: int, left: int, right: int) -> None:
        """There are none."""

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
