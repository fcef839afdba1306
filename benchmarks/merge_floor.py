"""What any merge to disk has to do and nothing more, in CPU seconds by part: the floor of `benchmarks.merge`.

Each block of the base is read into memory that is used again, hashed as stored blocks are to be verified, widened to
fp32, has one product added on the grid and in the slices of the kernel, is rounded, looked through for values that are
too large, hashed with BLAKE3 for the receipt and written to its place, on as many threads as there are cores; a file is
synced while the next one is made. The factors of a weight are read from the adapters' files, hashed as well, scaled and
laid out once. It knows one shape of model and one kind of adapter, compares no digest, plans nothing and keeps nothing
in order: each block has a hash of its own, which costs what a hash of the file costs. The bytes are those of the merge.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Final

import torch
from blake3 import blake3

from registry.errors import InvalidBaseError
from registry.files.header import Header, TensorEntry, read_header
from registry.files.source import FileSource
from registry.tensors.arithmetic.kernel import add_product, block_rows, pad_rows
from registry.tensors.arithmetic.threads import available_cores
from registry.tensors.path.slot_values import Factors, RecentFactors

COPIED: Final = 2 << 20
STORED_BLOCK: Final = 256 << 10
FLUSH_EVERY: Final = 16  # blocks
PARTS: Final = ("read", "verify", "factors", "widen", "product", "round", "check", "hash", "write")


class Spent:
    """CPU seconds of one thread by part."""

    def __init__(self) -> None:
        self.parts: dict[str, float] = defaultdict(float)
        self._last = time.thread_time()

    def end(self, part: str) -> None:
        """What was done since the last part."""
        now = time.thread_time()
        self.parts[part] += now - self._last
        self._last = now


@dataclass(frozen=True)
class Block:
    """Bytes ``start`` to ``stop`` of a file: rows from ``first`` on of a weight that is merged, or any, copied."""

    start: int
    stop: int
    weight: TensorEntry | None = None  # None: copied
    first: int = 0
    grid: int = 0  # rows of a whole block


def blocks(entries: list[TensorEntry]) -> Iterator[Block]:
    """A file in blocks, its header included."""
    yield Block(0, entries[0].start)
    for entry in entries:
        weight = entry if ".layers." in entry.name and len(entry.shape) == 2 else None
        grid = block_rows(*entry.shape) if weight else 0
        step = grid * entry.shape[1] * 2 if weight else COPIED
        for number, start in enumerate(range(entry.start, entry.stop, step)):
            yield Block(start, min(start + step, entry.stop), weight, number * grid, grid)


class Memory(threading.local):
    """Memory of a thread, by use."""

    def __init__(self) -> None:
        self._held: dict[str, torch.Tensor] = {}

    def get(self, use: str, count: int, dtype: torch.dtype) -> torch.Tensor:
        """The first elements of it."""
        held = self._held.get(use)
        if held is None or held.numel() < count:
            held = self._held[use] = torch.empty(count, dtype=dtype)
        return held[:count]


def verify(data: memoryview) -> None:
    """Hash the blocks that are verified when they are read."""
    for start in range(0, len(data), STORED_BLOCK):
        blake3(data[start : start + STORED_BLOCK]).digest()


class Adapter:
    """The file of an adapter with one pair for each weight, in fp32."""

    def __init__(self, folder: Path) -> None:
        config = json.loads((folder / "adapter_config.json").read_text())
        self.rank: int = config["r"]
        self.scale: float = config["lora_alpha"] / self.rank
        self.source = FileSource(folder / "adapter_model.safetensors")
        self.header = header_of(self.source)

    def read(self, weight: str, side: str, memory: Memory) -> torch.Tensor:
        """A or B of a weight, shape as stored."""
        entry = self.header.entries[f"base_model.model.{weight.removesuffix('.weight')}.lora_{side}.weight"]
        data = memory.get("factor", entry.stop - entry.start, torch.uint8)
        self.source.read_into(entry.start, data.numpy().data)
        verify(data.numpy().data)
        return data.view(torch.float32).view(entry.shape)


def header_of(source: FileSource) -> Header:
    """The header of one of the files."""
    return read_header(source, what="a file of the benchmark", error=InvalidBaseError)


def factors(adapters: Sequence[Adapter], weight: TensorEntry, grid: int, memory: Memory) -> Factors:
    """B, scaled and padded to whole blocks, and A of some adapters side by side."""
    rows, columns = weight.shape
    rank = adapters[0].rank
    left = torch.empty(rows, rank * len(adapters))
    right = torch.empty(rank * len(adapters), columns)
    for number, adapter in enumerate(adapters):
        at = slice(number * rank, (number + 1) * rank)
        right[at] = adapter.read(weight.name, "A", memory)
        torch.mul(adapter.read(weight.name, "B", memory), adapter.scale, out=left[:, at])
    return pad_rows(left, grid), right


class Floor:
    """The work of all threads on one file."""

    def __init__(self, source: Path, out: Path, adapters: list[Adapter], memory: Memory) -> None:
        self.source = os.open(source, os.O_RDONLY)
        self.out = os.open(out, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        self._adapters = adapters
        self._memory = memory
        self._kept = RecentFactors()

    def do(self, block: Block) -> dict[str, float]:
        """CPU seconds of one block by part."""
        spent = Spent()
        size = block.stop - block.start
        stored = self._memory.get("stored", size, torch.uint8)
        data = stored.numpy().data
        os.preadv(self.source, [data], block.start)
        spent.end("read")
        verify(data)
        spent.end("verify")
        if block.weight is not None:
            self._merge(stored.view(torch.bfloat16), block, block.weight, spent)
        blake3(data).digest()
        spent.end("hash")
        os.pwrite(self.out, data, block.start)
        spent.end("write")
        return spent.parts

    def _merge(self, stored: torch.Tensor, block: Block, weight: TensorEntry, spent: Spent) -> None:
        columns = weight.shape[1]
        rows = stored.numel() // columns
        made = self._kept.get(weight.name, lambda: factors(self._adapters, weight, block.grid, self._memory))
        left, right = made
        spent.end("factors")
        values = self._memory.get("values", block.grid * columns, torch.float32).view(-1, columns)
        values[:rows].copy_(stored.view(rows, columns))
        values[rows:].zero_()
        spent.end("widen")
        add_product(values, left[block.first : block.first + block.grid], right)
        spent.end("product")
        stored.view(rows, columns).copy_(values[:rows])
        spent.end("round")
        if not stored.sum().isfinite():
            raise AssertionError("weights of the benchmark are small")
        spent.end("check")

    def sync(self) -> float:
        """Make the file durable and close it; CPU seconds."""
        began = time.thread_time()
        os.fsync(self.out)
        os.close(self.out)
        os.close(self.source)
        return time.thread_time() - began


def merge(base: Path, out: Path, folders: list[Path]) -> dict[str, float]:
    """Write the files of a merged model, its safetensors files only; CPU seconds by part."""
    out.mkdir()
    torch.set_num_threads(1)
    spent: dict[str, float] = defaultdict(float)
    adapters, memory = [Adapter(folder) for folder in folders], Memory()
    lanes = ThreadPoolExecutor(available_cores(), initializer=torch.set_num_threads, initargs=(1,))
    with lanes, ThreadPoolExecutor(1) as syncs:
        synced = []
        for path in sorted(base.glob("*.safetensors")):
            with FileSource(path) as source:
                entries = sorted(header_of(source).entries.values(), key=lambda entry: entry.start)
            floor = Floor(path, out / path.name, adapters, memory)
            results = lanes.map(floor.do, blocks(entries))
            while done := list(islice(results, FLUSH_EVERY)):
                for one in done:
                    for part, seconds in one.items():
                        spent[part] += seconds
                os.posix_fadvise(floor.out, 0, 0, os.POSIX_FADV_DONTNEED)
            synced.append(syncs.submit(floor.sync))
        spent["write"] += sum(future.result() for future in synced)
    for adapter in adapters:
        adapter.source.close()
    return {part: spent[part] for part in PARTS}
