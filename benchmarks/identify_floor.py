"""What any proof that a folder is the merge of two adapters has to do and nothing more: the floor of `identify`.

Each block of the base is read and hashed as stored blocks are to be verified, the same block of the folder is read, and
what the adapters make of the one, in fp32 and rounded as the folder was merged, is compared with the other bit by bit,
on as many threads as there are cores. It searches nothing, knows the base and the adapters, and keeps nothing in order.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks.merge_floor import Adapter, Memory, factors, header_of, verify
from registry.files.header import TensorEntry
from registry.files.source import FileSource
from registry.tensors.arithmetic.kernel import add_product
from registry.tensors.arithmetic.threads import available_cores
from registry.tensors.comparison.candidates import ELEMENTS
from registry.tensors.path.slot_values import Factors, RecentFactors

Tensors = dict[str, tuple[FileSource, TensorEntry]]


@dataclass(frozen=True)
class Block:
    """Elements ``start`` to ``stop`` of a tensor."""

    tensor: str
    start: int
    stop: int


class Floor:
    """The work of all threads.

    Args:
        base: the base's tensors, in bf16.
        folder: those of the merged model.
        steps: the adapters that are summed before each rounding.
    """

    def __init__(self, base: Tensors, folder: Tensors, steps: Sequence[Sequence[Adapter]]) -> None:
        self._base, self._folder, self._steps = base, folder, steps
        self._memory, self._kept = Memory(), RecentFactors(8)

    def blocks(self) -> Iterator[Block]:
        """The whole model."""
        for name, (_, entry) in self._base.items():
            step = ELEMENTS // entry.shape[-1] * entry.shape[-1]
            for start in range(0, entry.elements, step):
                yield Block(name, start, min(start + step, entry.elements))

    def unlike(self, block: Block) -> int:
        """Elements of the folder that are not, bit for bit, what the adapters make of the base."""
        stored = self._read("base", self._base, block)
        verify(stored.view(torch.uint8).numpy().data)
        found = self._read("folder", self._folder, block)
        if ".layers." in block.tensor and len(self._base[block.tensor][1].shape) == 2:
            self._merge(stored, block)
        if (stored.view(torch.int64).numpy() == found.view(torch.int64).numpy()).all():
            return 0
        return int((stored != found).sum())

    def _read(self, use: str, tensors: Tensors, block: Block) -> torch.Tensor:
        source, entry = tensors[block.tensor]
        rows = self._memory.get(use, block.stop - block.start, torch.bfloat16)
        source.read_into(entry.start + 2 * block.start, rows.view(torch.uint8).numpy().data)
        return rows

    def _merge(self, stored: torch.Tensor, block: Block) -> None:
        weight = self._base[block.tensor][1]
        columns = weight.shape[1]
        rows = stored.view(-1, columns)
        values = self._memory.get("values", stored.numel(), torch.float32).view(-1, columns)
        for number in range(len(self._steps)):
            left, right = self._factors(weight, number)
            values.copy_(rows)
            add_product(values, left[block.start // columns : block.stop // columns], right)
            rows.copy_(values)

    def _factors(self, weight: TensorEntry, number: int) -> Factors:
        return self._kept.get((weight.name, number), lambda: factors(self._steps[number], weight, 1, self._memory))


def unlike(base: Path, folder: Path, steps: Sequence[Sequence[Path]]) -> int:
    """Elements of a folder that are not what adapters make of a base model in some steps, each rounded.

    A few, where a product of one row is summed in another order, are what is to be measured.
    """
    torch.set_num_threads(1)
    with ExitStack() as opened:
        adapters = [[Adapter(one) for one in step] for step in steps]
        floor = Floor(_tensors(base, opened), _tensors(folder, opened), adapters)
        with ThreadPoolExecutor(available_cores(), initializer=torch.set_num_threads, initargs=(1,)) as lanes:
            return sum(lanes.map(floor.unlike, floor.blocks()))


def _tensors(folder: Path, opened: ExitStack) -> Tensors:
    found: Tensors = {}
    for file in sorted(folder.glob("*.safetensors")):
        source = opened.enter_context(FileSource(file))
        found |= {name: (source, entry) for name, entry in header_of(source).entries.items()}
    return found
