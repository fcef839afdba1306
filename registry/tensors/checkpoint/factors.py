"""The factors of a pair as matrices, in whatever form the file stores them: read by rows, nothing multiplied out.

A checkpoint keeps A and B of a linear module as matrices, of a convolution as kernels, of experts interleaved (PEFT's
``ParamWrapper``: A expert-major, B rank-major with the expert fastest), of block-diagonal LoRA as the blocks alone.

Factors of experts that an older PEFT wrote with in and out features taken for each other.

PEFT 0.17 and 0.18 read every parameter of three dimensions as (experts, in, out), PEFT 0.19.0 those that are not, and
only from 0.19.1 on is it right (huggingface/peft #3165). The adapter works all the same: with A (experts * rank, out)
and B (in, rank * experts) the change of one expert is (B_e A_e) transposed, that is the product of A_e transposed and
B_e transposed.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import Final, Protocol
from weakref import WeakKeyDictionary

import torch

from registry.files.header import TensorEntry
from registry.files.source import ByteSource, held
from registry.tensors.arithmetic.dtypes import FLOATS
from registry.tensors.arithmetic.kernel import scratch
from registry.tensors.quantised.source import decoded_in
from registry.tensors.table.slots import as_matrix


class FactorMatrix(Protocol):
    """One factor, A (rank, in_features) or B (out_features, rank), of one oriented matrix."""

    @property
    def dtype(self) -> torch.dtype:
        """That of the rows that `read` gives."""

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns)."""

    def read(self, source: ByteSource, start: int, stop: int, /) -> torch.Tensor:
        """Rows ``start`` to ``stop``, shape (stop - start, columns)."""


def read_rows(
    source: ByteSource, entry: TensorEntry, start: int, stop: int, *, columns: int | None = None, shared: bool = False
) -> torch.Tensor:
    """Rows ``start`` to ``stop`` of a tensor seen as a matrix, as stored; `as_matrix` gives its columns by default.

    Those of a quantised tensor come as what they mean, exactly, in a dtype that holds it. ``shared`` is for who does
    not change them: they may lie in memory that others read.
    """
    dtype = FLOATS[entry.dtype]
    columns = as_matrix(entry.shape)[1] if columns is None else columns
    decoded = decoded_in(source, entry.name)
    if decoded is not None:
        return decoded.values(start * columns, stop * columns).view(stop - start, columns)
    row = columns * dtype.itemsize
    first, last = entry.start + start * row, entry.start + stop * row
    aligned = first % dtype.itemsize == 0  # as everything in memory that a processor is to compute with
    found = held(source, first, last) if shared and aligned else None
    if found is not None:
        return torch.frombuffer(found, dtype=dtype).view(stop - start, columns)
    rows = scratch((stop - start, columns), dtype)
    source.read_into(first, rows.view(torch.uint8).view(-1).numpy().data)
    return rows


_KEPT_TENSORS: Final = 2
_lock = threading.Lock()
_recent: WeakKeyDictionary[ByteSource, OrderedDict[str, torch.Tensor]] = WeakKeyDictionary()


def read_whole(source: ByteSource, entry: TensorEntry) -> torch.Tensor:
    """A whole tensor as a matrix; the last ones of a file are cached, since every expert is spread over all rows."""
    with _lock:
        kept = _recent.setdefault(source, OrderedDict())
        if entry.name in kept:
            kept.move_to_end(entry.name)
            return kept[entry.name]
    rows = read_rows(source, entry, 0, entry.shape[0])
    with _lock:
        kept[entry.name] = rows
        while len(kept) > _KEPT_TENSORS:
            kept.popitem(last=False)
    return rows


@dataclass(frozen=True)
class Stored:
    """A factor that a tensor of a checkpoint holds."""

    entry: TensorEntry

    @property
    def dtype(self) -> torch.dtype:
        return FLOATS[self.entry.dtype]


@dataclass(frozen=True, eq=False)
class Held:
    """A factor in memory."""

    values: torch.Tensor

    @property
    def dtype(self) -> torch.dtype:
        return self.values.dtype

    @property
    def shape(self) -> tuple[int, int]:
        return self.values.shape[0], self.values.shape[1]

    def read(self, _source: ByteSource, start: int, stop: int) -> torch.Tensor:
        return self.values[start:stop]


@dataclass(frozen=True)
class Plain(Stored):
    """A matrix, or a kernel (rows, channels, ...) flattened to one."""

    @property
    def shape(self) -> tuple[int, int]:
        return as_matrix(self.entry.shape)

    def read(self, source: ByteSource, start: int, stop: int) -> torch.Tensor:
        return read_rows(source, self.entry, start, stop)


@dataclass(frozen=True)
class Swapped(Plain):
    """A matrix whose halves of rows the file keeps in the other order."""

    def read(self, source: ByteSource, start: int, stop: int) -> torch.Tensor:
        rows, _ = self.shape
        half = rows // 2
        parts = [
            read_rows(source, self.entry, first + at, last + at)
            for first, last, at in (
                (start, min(stop, half), rows - half),
                (max(start, half), stop, -half),
            )
            if first < last
        ]
        return parts[0] if len(parts) == 1 else torch.cat(parts)


@dataclass(frozen=True)
class ExpertA(Stored):
    """A of one expert: rows ``expert * rank`` on of a tensor (experts * rank, in_features)."""

    expert: int
    rank: int

    @property
    def shape(self) -> tuple[int, int]:
        return self.rank, self.entry.shape[1]

    def read(self, source: ByteSource, start: int, stop: int) -> torch.Tensor:
        first = self.expert * self.rank
        return read_rows(source, self.entry, first + start, first + stop)


@dataclass(frozen=True)
class ExpertB(Stored):
    """B of some output features of one expert: every ``experts``-th column of (out_features, rank * experts)."""

    expert: int
    experts: int
    out: tuple[int, int]

    @property
    def shape(self) -> tuple[int, int]:
        return self.out[1] - self.out[0], self.entry.shape[1] // self.experts

    def read(self, source: ByteSource, start: int, stop: int) -> torch.Tensor:
        rows = read_whole(source, self.entry)[self.out[0] + start : self.out[0] + stop]
        return rows[:, self.expert :: self.experts].contiguous()


@dataclass(frozen=True)
class BlockDiagonal(Stored):
    """``block_diag`` of a tensor cut into ``blocks`` along its rows (BD-LoRA): (rows, blocks * columns)."""

    blocks: int

    @property
    def shape(self) -> tuple[int, int]:
        rows, columns = self.entry.shape
        return rows, columns * self.blocks

    def read(self, source: ByteSource, start: int, stop: int) -> torch.Tensor:
        stored = read_rows(source, self.entry, start, stop)
        rows, columns = self.entry.shape
        full = torch.zeros(stop - start, columns * self.blocks, dtype=stored.dtype)
        height = rows // self.blocks
        for block in range(start // height, -(-stop // height)):
            first, last = max(start, block * height) - start, min(stop, (block + 1) * height) - start
            full[first:last, block * columns : (block + 1) * columns] = stored[first:last]
        return full


@dataclass(frozen=True)
class Turned(Stored):
    """A matrix read as its transpose, for a pair that also changes the tied module on the other side."""

    @property
    def shape(self) -> tuple[int, int]:
        return self.entry.shape[1], self.entry.shape[0]

    def read(self, source: ByteSource, start: int, stop: int) -> torch.Tensor:
        return read_whole(source, self.entry)[:, start:stop].T.contiguous()


@dataclass(frozen=True)
class Ones(Stored):
    """The factor A of a bias that is added: a single one, so that a bias is a matrix of one column like any other."""

    @property
    def shape(self) -> tuple[int, int]:
        return 1, 1

    def read(self, _source: ByteSource, start: int, stop: int) -> torch.Tensor:
        return torch.ones(stop - start, 1, dtype=FLOATS[self.entry.dtype])


@dataclass(frozen=True)
class TurnedExpertA(Stored):
    """A of one expert, (rank, in_features), from the tensor lora_B (in_features, rank * experts)."""

    expert: int
    experts: int

    @property
    def shape(self) -> tuple[int, int]:
        return self.entry.shape[1] // self.experts, self.entry.shape[0]

    def read(self, source: ByteSource, start: int, stop: int) -> torch.Tensor:
        whole = read_whole(source, self.entry)
        return whole[:, self.expert :: self.experts].T[start:stop].contiguous()


@dataclass(frozen=True)
class TurnedExpertB(Stored):
    """B of some output features of one expert, (features, rank), from the tensor lora_A (experts * rank, out)."""

    expert: int
    rank: int
    out: tuple[int, int]

    @property
    def shape(self) -> tuple[int, int]:
        return self.out[1] - self.out[0], self.rank

    def read(self, source: ByteSource, start: int, stop: int) -> torch.Tensor:
        first = self.expert * self.rank
        rows = read_rows(source, self.entry, first, first + self.rank)
        return rows[:, self.out[0] + start : self.out[0] + stop].T.contiguous()
