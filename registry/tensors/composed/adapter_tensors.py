"""The tensors of a composed adapter: each is made by blocks of rows when it is read."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import torch

from registry.files.header import TensorEntry, write_header
from registry.files.source import ByteSource, read_range
from registry.tensors.arithmetic.blocks import block_rows, rounded
from registry.tensors.artifacts.artifact import ArtifactFile, bytes_region
from registry.tensors.artifacts.merged import as_buffer, overflow
from registry.tensors.artifacts.pieces import Buffer, Region
from registry.tensors.elements.dtypes import TORCH
from registry.tensors.factors.slots import as_matrix
from registry.tensors.path.slot_values import SlotValues

WEIGHTS: Final = "adapter_model.safetensors"
LEAD: Final = "base_model.model."

Rows = Callable[[int, int], torch.Tensor]
"""Rows start to stop of a tensor that is seen as a matrix, in the precision of sums."""


@dataclass(frozen=True)
class AdapterTensor:
    """One tensor: its name, its shape, and any rows of it; rows are asked for on the grid of its blocks."""

    name: str
    shape: tuple[int, ...]
    rows: Rows
    columns: int | None = None  # of the matrix as which it is seen; None: as `as_matrix` sees its shape
    dtype: str | None = None  # of whole numbers, which are kept as they are; None: that of the file

    @property
    def matrix(self) -> tuple[int, int]:
        """(rows, columns) as which `rows` gives it."""
        if self.columns is None:
            return as_matrix(self.shape)
        return math.prod(self.shape) // self.columns, self.columns


def whole_value(name: str, shape: tuple[int, ...], values: SlotValues) -> AdapterTensor:
    """A tensor that holds all the values of a slot."""

    def rows(start: int, stop: int) -> torch.Tensor:
        block = values.block(start // values.rows_a_block)
        if block.shape[0] != stop - start:
            raise AssertionError("values are read on the grid of their blocks")
        return block

    return AdapterTensor(name, shape, rows)


def stored_value(name: str, source: ByteSource, entry: TensorEntry) -> AdapterTensor:
    """Whole numbers as the base has them: indices, masks, counts."""
    columns, dtype = as_matrix(entry.shape)[1], TORCH[entry.dtype]
    row = columns * dtype.itemsize

    def rows(start: int, stop: int) -> torch.Tensor:
        data = read_range(source, entry.start + start * row, entry.start + stop * row)
        return torch.frombuffer(data, dtype=dtype).view(stop - start, columns)

    return AdapterTensor(name, entry.shape, rows, dtype=entry.dtype)


def turned(tensor: AdapterTensor, name: str) -> AdapterTensor:
    """The transpose of a matrix, under another name, number for number."""
    rows, columns = tensor.matrix

    def read(start: int, stop: int) -> torch.Tensor:
        step = block_rows(rows, columns)
        parts = [tensor.rows(first, min(first + step, rows))[:, start:stop] for first in range(0, rows, step)]
        return torch.cat(parts).T.contiguous()

    return AdapterTensor(name, (columns, rows), read)


def weights_file(tensors: Sequence[AdapterTensor], dtype: str) -> ArtifactFile:
    """adapter_model.safetensors with these tensors, by name, weights all in one dtype (``F32``)."""
    in_order = sorted(tensors, key=lambda tensor: tensor.name)
    listed = ((tensor.name, tensor.dtype or dtype, tensor.shape) for tensor in in_order)
    lead, header = write_header(listed, {"format": "pt"})
    regions = [bytes_region(0, lead)]
    for tensor in in_order:
        entry = header.entries[tensor.name]
        rows, columns = tensor.matrix
        step = block_rows(rows, columns)
        row_bytes = columns * TORCH[entry.dtype].itemsize
        regions.append(Region(entry.start, entry.stop, step * row_bytes, _maker(tensor, step, TORCH[entry.dtype])))
    return ArtifactFile(WEIGHTS, regions, header)


def _maker(tensor: AdapterTensor, step: int, dtype: torch.dtype) -> Callable[[int], Buffer]:
    rows, _ = tensor.matrix

    def make(index: int) -> Buffer:
        found = tensor.rows(index * step, min((index + 1) * step, rows))
        values = found if tensor.dtype else rounded(found, dtype)
        if values is None:
            raise overflow(tensor.name, dtype, found)
        return as_buffer(values)

    return make
