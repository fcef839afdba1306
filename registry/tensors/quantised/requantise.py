"""Merged values put back on the grid of a quantised tensor: the stored scales, and the nearest code to each value.

Scales stay as they are stored, except that of a block whose values lie beyond its largest code by more than half a
step: it gets f32(amax / 448), or the next power of two. A change is mostly smaller than half a step of the codes, and
then nothing of it arrives: what does is measured before anything is written (docs/quantised.md).
"""

from __future__ import annotations

import math
from typing import Final

import torch

from registry.errors import AccuracyError
from registry.files.header import Tensors
from registry.files.strict_json import shown
from registry.quantised.reading import Decoding, FlatBlocks, Grid
from registry.tensors.arithmetic.dtypes import FLOATS
from registry.tensors.arithmetic.kernel import round_into, widened_into
from registry.tensors.quantised.grid import FlatScales, GridScales, flat_layout, grid_layout, numbers_of

FP8: Final = torch.float8_e4m3fn
MOST: Final = 448.0
"""The largest number of F8_E4M3."""
_BEYOND: Final = 464.0  # half a step above it


class CodeGrid:
    """The numbers that a quantised matrix can hold: those of its codes times its scales.

    Rows and columns are those of the plain tensor.

    Args:
        decoding: how it is made.
        stored: the tensors of the checkpoint.
        matrix: which of its matrices.
    """

    def __init__(self, decoding: Decoding, stored: Tensors, matrix: int = 0) -> None:
        self.decoding = decoding
        self.rows, self.columns = decoding.plain_shape[-2:]
        self._zeros: torch.Tensor | None = None
        dtype = stored[decoding.parts[0]][1].dtype
        if isinstance(decoding, FlatBlocks):
            self._block = (1, decoding.block)
            scales = FlatScales(decoding, stored, flat_layout(decoding))
            self.scales = scales.read(0, -(-self.rows * self.columns // decoding.block), 0, 1).to(torch.float64)
            numbers = numbers_of(decoding.map, 4, dtype)
        else:
            layout = grid_layout(decoding)
            self._block = decoding.scale.block
            grids = GridScales(decoding, stored, layout)
            top = matrix * layout.grid_rows
            every = (top, top + layout.grid_rows, 0, layout.grid_columns)
            self.scales = grids.with_factor(grids.read(*every).to(torch.float64))
            self._zeros = grids.zeros(*every)
            if decoding.transposed:
                self._block = self._block[::-1]
                self.scales = self.scales.t().contiguous()
                self._zeros = None if self._zeros is None else self._zeros.t().contiguous()
            numbers = numbers_of(decoding.codes.coding, decoding.codes.bits, dtype)
        known = numbers.to(torch.float64).flatten()
        self._numbers = torch.unique(known[known.isfinite()])
        self._middles = (self._numbers[1:] + self._numbers[:-1]) / 2

    @property
    def is_fp8(self) -> bool:
        """Whether it is one matrix of codes in F8_E4M3, times scales alone: what is written again."""
        grid = self.decoding
        plain = isinstance(grid, Grid) and grid.codes.coding == "float8" and grid.factor is None and grid.zero is None
        return plain and len(grid.shape) == 2 and not grid.transposed

    def spread(self, grid: torch.Tensor, first: int, last: int) -> torch.Tensor:
        """A number for each block as one for each element of rows ``first`` to ``last``."""
        if isinstance(self.decoding, FlatBlocks):
            elements = torch.arange(first * self.columns, last * self.columns)
            return grid.view(-1)[elements // self.decoding.block].view(last - first, self.columns)
        down, across = self._block
        rows, columns = torch.arange(first, last) // down, torch.arange(self.columns) // across
        return grid[rows][:, columns]

    def nearest(self, values: torch.Tensor, first: int) -> torch.Tensor:
        """The nearest number of the grid to each of some rows of values, float64, from row ``first`` on."""
        last = first + values.shape[0]
        scales = self.spread(self.scales, first, last)
        if self.is_fp8:
            return codes_of(values, scales).to(torch.float64) * scales
        ratios = values / scales
        zeros = None if self._zeros is None else self.spread(self._zeros.to(torch.float64), first, last)
        found = self._numbers[torch.bucketize(ratios if zeros is None else ratios + zeros, self._middles)]
        return torch.where(scales == 0, scales, (found if zeros is None else found - zeros) * scales)

    def block_peaks(self, values: torch.Tensor, first: int) -> torch.Tensor:
        """The largest magnitude of some rows in each block, on the grid of the scales; 0 where they have none."""
        down, across = self._block
        peaks = torch.zeros_like(self.scales)
        pad = -self.columns % across
        sizes = torch.nn.functional.pad(values.abs(), (0, pad)).view(values.shape[0], -1, across).amax(dim=2)
        at = (torch.arange(first, first + values.shape[0]) // down).unsqueeze(1).expand_as(sizes)
        return peaks.scatter_reduce(0, at, sizes, "amax")

    def widen(self, peaks: torch.Tensor, stored: Tensors, name: str) -> torch.Tensor | None:
        """Take larger scales for blocks whose ``peaks`` lie beyond their codes; the new grid as it is stored, or None.

        Raises:
            AccuracyError: ``not_representable``, a scale is not positive, or none that can be stored is large enough.
        """
        grid = self.decoding
        assert isinstance(grid, Grid)
        if not bool((self.scales > 0).all()):
            raise AccuracyError(
                f"A scale of {shown(name)} is zero or negative, so nothing can be put on its grid: use --dtype keep.",
                code="not_representable",
            )
        beyond = peaks > _BEYOND * self.scales
        if not bool(beyond.any()):
            return None
        wanted = peaks / MOST
        entry = stored[grid.scale.name][1]
        if grid.scale.coding == "exponent" or entry.dtype == "F8_E8M0":
            exponents = torch.ceil(torch.log2(wanted)).clamp(-127, 128)
            made, numbers = (exponents + 127).to(torch.uint8), torch.exp2(exponents)
            before = (torch.log2(self.scales) + 127).round().to(torch.uint8)
        else:
            dtype = FLOATS[entry.dtype]
            made = torch.empty(wanted.shape, dtype=dtype)
            round_into(made, wanted * (1 + 2.0**-8) if dtype.itemsize == 2 else wanted)
            numbers = made.to(torch.float64)
            before = self.scales.to(dtype)
        if not bool((numbers[beyond].isfinite() & (exponent_fits(numbers[beyond]))).all()):
            raise AccuracyError(
                f"Values of {shown(name)} are too large for any scale that its dtype holds: use --dtype keep.",
                code="not_representable",
            )
        self.scales = torch.where(beyond, numbers, self.scales)
        return torch.where(beyond, made, before)


def exponent_fits(scales: torch.Tensor) -> torch.Tensor:
    """Whether exponent bytes hold these scales: 2^127 at most."""
    return scales <= math.ldexp(1.0, 127)


def codes_of(values: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    """The codes of values in float64 under their scales: the quotient rounded once, to nearest, ties to even."""
    ratios = torch.empty(values.shape, dtype=torch.float32)
    widened_into(ratios, values / scales)
    return ratios.clamp_(-MOST, MOST).to(FP8)
