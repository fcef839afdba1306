"""Merged tensor files: a base file with the path's deltas folded in, block by block.

``W'[i:j] = round(W[i:j] + L[i:j] R)`` where L R is the delta as the file stores it, summed in float32 (float64 where a
float64 tensor takes part) and rounded once. A tensor that no link adapts is copied byte for byte.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Final

import torch

from registry.errors import IntegrityError, InvalidAdapterError
from registry.tensors.artifact import ArtifactFile, Buffer, Region, bytes_region, copy_region
from registry.tensors.blocks import add_product, block_rows, pad_rows, rounded
from registry.tensors.dtypes import FLOATS
from registry.tensors.factors import TargetLinks
from registry.tensors.header import Header, TensorEntry, write_header
from registry.tensors.rounding import fits, round_into, sum_dtype
from registry.tensors.source import ByteSource, read_range

_CAST_ELEMENTS: Final = 1 << 20
_KEPT_TARGETS: Final = 4

Factors = tuple[torch.Tensor, torch.Tensor]


def as_buffer(tensor: torch.Tensor) -> memoryview:
    """A contiguous tensor's bytes, without a copy."""
    return tensor.view(torch.uint8).reshape(-1).numpy().data


class _RecentFactors:
    """Factors of the targets in use: made once each, the least recently used dropped."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, tuple[threading.Lock, list[Factors]]] = OrderedDict()

    def get(self, tensor: str, make: Callable[[], Factors]) -> Factors:
        with self._lock:
            slot = self._kept.setdefault(tensor, (threading.Lock(), []))
            self._kept.move_to_end(tensor)
            while len(self._kept) > _KEPT_TARGETS:
                self._kept.popitem(last=False)
        lock, made = slot
        with lock:
            if not made:
                made.append(make())
            return made[0]


def merged_file(
    path: str,
    source: ByteSource,
    header: Header,
    targets: Mapping[str, TargetLinks],
    dtype: str | None,
) -> ArtifactFile:
    """The file ``path`` of the merged model.

    Args:
        path: its name.
        source: the base's file of that name.
        header: its header.
        targets: by tensor name, the links that adapt it; names that this file lacks are another file's.
        dtype: output dtype of all float tensors (``BF16``); None keeps each tensor's own.

    Raises, when a block is read: InvalidAdapterError (``overflow``) naming the tensor.
    """
    lead, out_header = _lay_out(source, header, dtype)
    recent = _RecentFactors()
    regions = [bytes_region(0, lead)]
    for entry in header.entries.values():
        out = out_header.entries[entry.name]
        links = targets.get(entry.name)
        if links is not None:
            regions.append(_merge_region(source, entry, out, links, recent))
        elif out.dtype != entry.dtype:
            regions.append(_cast_region(source, entry, out))
        else:
            regions.append(copy_region(out.start, source, entry.start, entry.stop - entry.start))
    return ArtifactFile(path, regions, out_header)


def _lay_out(source: ByteSource, header: Header, dtype: str | None) -> tuple[bytes, Header]:
    """Bytes before the first tensor and the header they say: the base's own, unless a dtype changes."""

    def out_dtype(entry: TensorEntry) -> str:
        return dtype if dtype and entry.dtype in FLOATS else entry.dtype

    if all(out_dtype(entry) == entry.dtype for entry in header.entries.values()):
        return bytes(read_range(source, 0, header.size)), header
    return write_header(
        ((entry.name, out_dtype(entry), entry.shape) for entry in header.entries.values()), header.metadata
    )


def _merge_region(
    source: ByteSource, entry: TensorEntry, out: TensorEntry, links: TargetLinks, recent: _RecentFactors
) -> Region:
    merge = BlockMerge(source, entry, links, FLOATS[out.dtype], recent.get)
    return Region(out.start, out.stop, merge.rows_a_block * merge.columns * merge.out_dtype.itemsize, merge.block_bytes)


class BlockMerge:
    """One base tensor with its links: any block of the grid of the merged tensor."""

    def __init__(
        self,
        source: ByteSource,
        entry: TensorEntry,
        links: TargetLinks,
        out_dtype: torch.dtype,
        keep: Callable[[str, Callable[[], Factors]], Factors] | None = None,
    ) -> None:
        self.rows, self.columns = entry.shape
        self.rows_a_block = block_rows(self.rows, self.columns)
        self.blocks = -(-self.rows // self.rows_a_block)
        self.out_dtype = out_dtype
        self._source, self._entry, self._links = source, entry, links
        self._sum_dtype = sum_dtype(FLOATS[entry.dtype], out_dtype)
        self._keep = keep or _RecentFactors().get

    def _factors(self) -> Factors:
        left, right = self._links.stored_factors(self._sum_dtype)
        return pad_rows(left, self.rows_a_block), right

    def base_block(self, index: int) -> torch.Tensor:
        """Stored rows of the base weight in block ``index``, as stored."""
        start = index * self.rows_a_block
        stop = min(start + self.rows_a_block, self.rows)
        dtype = FLOATS[self._entry.dtype]
        row = self.columns * dtype.itemsize
        data = read_range(self._source, self._entry.start + start * row, self._entry.start + stop * row)
        return torch.frombuffer(data, dtype=dtype).view(stop - start, self.columns)

    def block(self, index: int) -> torch.Tensor:
        """Rows of the merged weight in block ``index``, rounded once to the output dtype."""
        base = self.base_block(index)
        rows = base.shape[0]
        left, right = self._keep(self._entry.name, self._factors)
        sums = torch.empty(self.rows_a_block, self.columns, dtype=self._sum_dtype)
        sums[:rows].copy_(base)
        sums[rows:].zero_()
        first = index * self.rows_a_block
        add_product(sums, left[first : first + self.rows_a_block], right)
        merged = rounded(sums[:rows], self.out_dtype)
        if merged is None:
            raise self._too_large(base)
        return merged

    def block_bytes(self, index: int) -> Buffer:
        """The bytes of `block`."""
        return as_buffer(self.block(index))

    def _too_large(self, base: torch.Tensor) -> Exception:
        if not bool(base.isfinite().all()):
            return IntegrityError(
                f"Base tensor {self._entry.name!r} holds NaN or infinity, so nothing can be merged into it; "
                "add the base model again from intact files.",
                code="non_finite",
            )
        return overflow(self._entry.name, self.out_dtype)


def overflow(tensor: str, dtype: torch.dtype) -> InvalidAdapterError:
    """The error for a value that rounds to infinity."""
    name = str(dtype).removeprefix("torch.")
    return InvalidAdapterError(
        f"Tensor {tensor!r} has values too large for {name} once it is merged; fetch with --dtype fp32 or bf16.",
        code="overflow",
    )


def _cast_region(source: ByteSource, entry: TensorEntry, out: TensorEntry) -> Region:
    """A tensor that no link adapts, in another dtype."""
    from_dtype, to_dtype = FLOATS[entry.dtype], FLOATS[out.dtype]

    def make(index: int) -> Buffer:
        start = entry.start + index * _CAST_ELEMENTS * from_dtype.itemsize
        stop = min(start + _CAST_ELEMENTS * from_dtype.itemsize, entry.stop)
        values = torch.frombuffer(read_range(source, start, stop), dtype=from_dtype)
        if not fits(values[values.isfinite()], to_dtype):
            raise overflow(entry.name, to_dtype)
        cast = torch.empty(values.shape, dtype=to_dtype)
        round_into(cast, values)
        return as_buffer(cast)

    return Region(out.start, out.stop, _CAST_ELEMENTS * to_dtype.itemsize, make)
