"""Factors that a file keeps in parts, computed row by row when they are read.

Numbers are float64: a product of two stored numbers of up to 24 digits is exact in it, and where products are summed
the rounding is that of float64, far below the one that is made when weights are written. Sums are computed on the grid
of `registry.tensors.arithmetic.kernel`, so that a row has the same bits whatever range of rows is read.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from registry.files.header import TensorEntry
from registry.files.source import ByteSource
from registry.images.expressions import (
    ColumnByColumn,
    ComputedEntry,
    Elementwise,
    Expression,
    Eye,
    HalvesSwapped,
    Kronecker,
    Product,
    RowByRow,
    Tensor,
    Tucker,
    is_summed,
)
from registry.tensors.arithmetic.kernel import add_product, block_rows
from registry.tensors.checkpoint.factors import read_rows, read_whole


@dataclass(frozen=True)
class Computed:
    """A factor that no tensor of a checkpoint holds."""

    entry: ComputedEntry

    @property
    def dtype(self) -> torch.dtype:
        """That of the rows that `read` gives."""
        return torch.float64

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns)."""
        return self.entry.shape[0], math.prod(self.entry.shape[1:])

    @property
    def is_identity(self) -> bool:
        """Whether the other factor is the change itself."""
        return isinstance(self.entry.made, Eye)

    def read(self, source: ByteSource, start: int, stop: int, /) -> torch.Tensor:
        """Rows ``start`` to ``stop``, shape (stop - start, columns)."""
        made, first, last = self.entry.made, self.entry.first + start, self.entry.first + stop
        if not is_summed(made):
            return _rows(made, source, first, last)
        rows, columns = made.shape
        step = block_rows(rows, columns)
        around = first // step * step
        parts = [_rows(made, source, at, min(at + step, rows)) for at in range(around, last, step)]
        return torch.cat(parts)[first - around : last - around]


def _rows(one: Expression, source: ByteSource, start: int, stop: int) -> torch.Tensor:
    """Rows of a matrix in float64."""
    if isinstance(one, Tensor):
        return _stored(one, source, start, stop)
    if isinstance(one, Kronecker | ColumnByColumn):
        return _pairwise(one, source, start, stop)
    if isinstance(one, Tucker):
        return _tucker(one, source, start, stop)
    if isinstance(one, Eye):
        found = torch.zeros(stop - start, one.size, dtype=torch.float64)
        found[range(stop - start), range(start, stop)] = 1.0
        return found
    if isinstance(one, HalvesSwapped):
        return _swapped(one, source, start, stop)
    return _made_of_both(one, source, start, stop)


def _made_of_both(one: Product | Elementwise | RowByRow, source: ByteSource, start: int, stop: int) -> torch.Tensor:
    left = _rows(one.left, source, start, stop)
    if isinstance(one, Product):
        return _product(left, _whole(one.right, source))
    right = _rows(one.right, source, start, stop)
    return left * right if isinstance(one, Elementwise) else (left.unsqueeze(2) * right.unsqueeze(1)).flatten(1)


def _swapped(one: HalvesSwapped, source: ByteSource, start: int, stop: int) -> torch.Tensor:
    half = one.shape[0] // 2
    ranges = ((start, min(stop, half), half), (max(start, half), stop, -half))
    return torch.cat([_rows(one.of, source, first + at, last + at) for first, last, at in ranges if first < last])


def _stored(one: Tensor, source: ByteSource, start: int, stop: int) -> torch.Tensor:
    if one.turned:
        return _matrix(source, one.entry).T[start:stop].to(torch.float64)
    return read_rows(source, one.entry, start, stop, columns=one.shape[1]).to(torch.float64)


def _matrix(source: ByteSource, entry: TensorEntry) -> torch.Tensor:
    return read_whole(source, entry).view(entry.shape[0], -1)


def _whole(one: Expression, source: ByteSource) -> torch.Tensor:
    if isinstance(one, Tensor) and not one.turned:
        return _matrix(source, one.entry).to(torch.float64)
    return _rows(one, source, 0, one.shape[0])


def _product(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    found = torch.zeros(left.shape[0], right.shape[1], dtype=torch.float64)
    add_product(found, left, right)
    return found


def _tucker(one: Tucker, source: ByteSource, start: int, stop: int) -> torch.Tensor:
    """Each tap is a product of three matrices, of which the two on the right are one for all rows."""
    right = _whole(one.right, source)
    core = _matrix(source, one.core).to(torch.float64).view(*one.core.shape[:2], one.taps)
    alone = isinstance(one.left, Eye)
    if alone:
        core = core[start:stop]
    inner = torch.stack([_product(core[:, :, tap].contiguous(), right) for tap in range(one.taps)], dim=2).flatten(1)
    return inner if alone else _product(_rows(one.left, source, start, stop), inner)


def _pairwise(one: Kronecker | ColumnByColumn, source: ByteSource, start: int, stop: int) -> torch.Tensor:
    """Rows (i, k) of row i of one and row k of the other."""
    inner = one.right.shape[0]
    left = _rows(one.left, source, start // inner, -(-stop // inner))
    found = torch.empty(stop - start, one.shape[1], dtype=torch.float64)
    for at, row in enumerate(left, start // inner):
        first, last = max(start, at * inner), min(stop, (at + 1) * inner)
        right = _rows(one.right, source, first - at * inner, last - at * inner)
        out = found[first - start : last - start]
        if isinstance(one, Kronecker):
            torch.mul(row.view(1, -1, 1), right.unsqueeze(1), out=out.view(last - first, len(row), -1))
        else:
            torch.mul(row, right, out=out)
    return found
