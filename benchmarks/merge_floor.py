"""What any merge to disk has to do and nothing more, in CPU seconds by part: the floor of `benchmarks.merge`.

Each block of the base is read into memory that is used again, widened to fp32, has one product added on the grid and in
the slices of the kernel, is rounded, hashed with BLAKE3 once and written to its place, on as many threads as there are
cores. Factors are random and in memory; nothing is verified, checked, planned or kept in order.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Final

import torch
from blake3 import blake3

from registry.errors import InvalidBaseError
from registry.files.header import TensorEntry, read_header
from registry.files.source import FileSource
from registry.tensors.arithmetic.blocks import add_product, block_rows
from registry.tensors.arithmetic.lanes import available_cores

RANK: Final = 16
COPIED: Final = 2 << 20
FLUSH_EVERY: Final = 16  # blocks
PARTS: Final = ("read", "widen", "product", "round", "hash", "write")


@dataclass(frozen=True)
class Block:
    """Bytes ``start`` to ``stop`` of a file: rows of a weight that is merged, or any others, which are copied."""

    start: int
    stop: int
    columns: int | None = None  # None: copied
    grid: int = 0  # rows of a whole block


def blocks(entries: list[TensorEntry]) -> Iterator[Block]:
    """A file in blocks, its header included."""
    yield Block(0, entries[0].start)
    for entry in entries:
        merged = ".layers." in entry.name and len(entry.shape) == 2
        columns = entry.shape[1] if merged else None
        grid = block_rows(*entry.shape) if merged else 0
        step = grid * entry.shape[1] * 2 if merged else COPIED
        for start in range(entry.start, entry.stop, step):
            yield Block(start, min(start + step, entry.stop), columns, grid)


class Floor:
    """The work of all threads on one file."""

    def __init__(self, source: Path, out: Path, rank: int) -> None:
        self.source = os.open(source, os.O_RDONLY)
        self.out = os.open(out, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        self._rank = rank
        self._own = threading.local()

    def do(self, block: Block) -> dict[str, float]:
        """CPU seconds of one block by part."""
        spent: dict[str, float] = {}
        last = time.thread_time()

        def end(part: str) -> None:
            nonlocal last
            now = time.thread_time()
            spent[part] = now - last
            last = now

        size = block.stop - block.start
        stored = self._memory("stored", size, torch.uint8)
        os.preadv(self.source, [stored.numpy().data], block.start)
        end("read")
        if block.columns is not None:
            rows = size // (2 * block.columns)
            values = self._memory("values", block.grid * block.columns, torch.float32).view(-1, block.columns)
            values[:rows].copy_(stored.view(torch.bfloat16).view(rows, block.columns))
            end("widen")
            add_product(values, self._factor(block.grid, self._rank), self._factor(self._rank, block.columns))
            end("product")
            stored.view(torch.bfloat16).view(rows, block.columns).copy_(values[:rows])
            end("round")
        data = stored.numpy().data
        blake3(data).digest()
        end("hash")
        os.pwrite(self.out, data, block.start)
        end("write")
        return spent

    def _memory(self, name: str, count: int, dtype: torch.dtype) -> torch.Tensor:
        """The first elements of memory of this thread."""
        held: torch.Tensor | None = getattr(self._own, name, None)
        if held is None or held.numel() < count:
            held = torch.empty(count, dtype=dtype)
            setattr(self._own, name, held)
        return held[:count]

    def _factor(self, rows: int, columns: int) -> torch.Tensor:
        name = f"factor-{rows}-{columns}"
        if not hasattr(self._own, name):
            setattr(self._own, name, torch.rand(rows, columns) * 1e-3)
        made: torch.Tensor = getattr(self._own, name)
        return made


def merge(base: Path, out: Path, depth: int) -> dict[str, float]:
    """Write files of the base's size and shape; CPU seconds by part."""
    out.mkdir()
    torch.set_num_threads(1)
    spent = dict.fromkeys(PARTS, 0.0)
    with ThreadPoolExecutor(available_cores(), initializer=torch.set_num_threads, initargs=(1,)) as pool:
        for path in sorted(base.glob("*.safetensors")):
            with FileSource(path) as source:
                entries = sorted(
                    read_header(source, what=path.name, error=InvalidBaseError).entries.values(),
                    key=lambda entry: entry.start,
                )
            floor = Floor(path, out / path.name, RANK * depth)
            results = pool.map(floor.do, blocks(entries))
            while done := list(islice(results, FLUSH_EVERY)):
                for part, seconds in (one for block in done for one in block.items()):
                    spent[part] += seconds
                os.posix_fadvise(floor.out, 0, 0, os.POSIX_FADV_DONTNEED)
            began = time.thread_time()
            os.fsync(floor.out)
            spent["write"] += time.thread_time() - began
            os.close(floor.out)
            os.close(floor.source)
    return spent
