"""What one link of a path does to one slot, with the open file that holds its numbers.

Four steps suffice for every kind of LoRA: a slot's values are replaced, some of its stored rows are replaced, a product
is added, or its oriented rows are rescaled to a magnitude (DoRA, Liu et al. 2024, arXiv:2402.09353).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from registry.files.header import TensorEntry
from registry.files.source import ByteSource
from registry.tensors.factors.matrices import FactorMatrix, read_rows


@dataclass(frozen=True)
class BoundPair:
    """A pair of one slot: adds ``scale`` B A in oriented space (out x in)."""

    a: FactorMatrix  # (rank, in_features)
    b: FactorMatrix  # (out_features, rank)
    scale: float
    source: ByteSource

    @property
    def rank(self) -> int:
        """Rows of A and columns of B."""
        return self.a.shape[0]

    def a_rows(self, start: int, stop: int, dtype: torch.dtype) -> torch.Tensor:
        """Rows ``start`` to ``stop`` of A, shape (stop - start, in_features)."""
        return self.a.read(self.source, start, stop).to(dtype)

    def b_rows(self, start: int, stop: int, dtype: torch.dtype) -> torch.Tensor:
        """Rows ``start`` to ``stop`` of scale * B, shape (stop - start, rank), rounded once to ``dtype``."""
        rows = self.b.read(self.source, start, stop)
        # The product of two float32 is exact in float64. Where the scale is a float32 too, as most are, multiplying in
        # float32 rounds the same product once.
        is_wide = rows.dtype is torch.float64 or torch.tensor(self.scale, dtype=dtype).item() != self.scale
        # never in place: `to` makes no copy of what has the dtype already
        return (rows.to(torch.float64 if is_wide else dtype) * self.scale).to(dtype)


@dataclass(frozen=True)
class Replace:
    """The slot's values are rows ``first`` on of a tensor that is seen as a matrix with the slot's columns."""

    link: int
    entry: TensorEntry
    source: ByteSource
    columns: int
    first: int = 0
    tied: bool = False

    def read(self, start: int, stop: int) -> torch.Tensor:
        """Stored rows ``start`` to ``stop`` of the slot, in the file's dtype."""
        return read_rows(self.source, self.entry, self.first + start, self.first + stop, columns=self.columns)


@dataclass(frozen=True)
class SetRows:
    """Stored row ``rows[i]`` is row i of a tensor."""

    link: int
    entry: TensorEntry
    source: ByteSource
    rows: tuple[int, ...]
    tied: bool = False

    def read(self) -> torch.Tensor:
        """All rows, shape (len(rows), columns), in the file's dtype."""
        return read_rows(self.source, self.entry, 0, len(self.rows))


@dataclass(frozen=True)
class Add:
    """A product is added."""

    link: int
    pair: BoundPair
    tied: bool = False


@dataclass(frozen=True)
class Rescale:
    """Every oriented row v becomes ``magnitude * v / |v|`` (DoRA; PEFT's ``tuners/lora/dora.py``)."""

    link: int
    entry: TensorEntry
    source: ByteSource
    tied: bool = False

    def read(self, dtype: torch.dtype) -> torch.Tensor:
        """The magnitudes, shape (out_features,)."""
        return read_rows(self.source, self.entry, 0, self.entry.elements, columns=1).to(dtype).flatten()


Step = Replace | SetRows | Add | Rescale
