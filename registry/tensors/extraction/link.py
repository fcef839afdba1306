"""An extracted adapter as a link of its path: factors and values in a file of this machine, and what they do.

The composition of a path writes it then, as it writes every composed adapter.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Final

import torch

from registry.files.header import TensorEntry
from registry.files.source import ByteSource, read_range
from registry.tensors.artifacts.merged import as_buffer
from registry.tensors.checkpoint.adapter import Checkpoint, LoraPair, NewValue
from registry.tensors.checkpoint.lora_config import parse_config
from registry.tensors.extraction.best_pair import BestPair
from registry.tensors.extraction.changed import ChangedExperts, ChangedTarget, ChangedValue
from registry.tensors.path.origins import BaseTensors
from registry.tensors.path.programs import BoundLink
from registry.tensors.table.targets import TargetKind, TargetTable

_LEAD: Final = "base_model.model."
_CONFIG: Final = b'{"peft_type": "LORA", "r": 1, "lora_alpha": 1}'
_STEP: Final = 8 << 20


class Scratch:
    """A file that tensors are put into, one after another."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("xb")
        self._size = 0

    def put(self, name: str, values: torch.Tensor) -> TensorEntry:
        """Append float32 values."""
        return self._append(
            name, "F32", tuple(values.shape), [as_buffer(values.to(torch.float32).flatten().contiguous())]
        )

    def copy(self, name: str, source: ByteSource, entry: TensorEntry) -> TensorEntry:
        """Append the bytes of a stored tensor."""
        steps = range(entry.start, entry.stop, _STEP)
        parts = (read_range(source, at, min(at + _STEP, entry.stop)) for at in steps)
        return self._append(name, entry.dtype, entry.shape, parts)

    def _append(
        self, name: str, dtype: str, shape: tuple[int, ...], parts: Iterable[bytes | bytearray | memoryview]
    ) -> TensorEntry:
        start = self._size
        for part in parts:
            self._size += self._file.write(part)
        return TensorEntry(name, dtype, shape, start, self._size)

    def flush(self) -> None:
        """Let readers of the file see all that was put."""
        self._file.flush()

    def __enter__(self) -> Scratch:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._file.close()


class LinkMaker:
    """Makes a link of what was extracted, piece by piece."""

    def __init__(self, scratch: Scratch) -> None:
        self._scratch = scratch
        self._pairs: dict[str, LoraPair] = {}
        self._values: dict[str, NewValue] = {}

    def add_target(self, changed: ChangedTarget, pair: BestPair) -> None:
        """Put in the pair of a module."""
        target = changed.target
        a, b = oriented(pair, transposed=target.transposed)
        lead, tails = f"{_LEAD}{target.module}.", ("lora_A.weight", "lora_B.weight")
        if target.kind is TargetKind.EMBEDDING:
            tails = ("lora_embedding_A", "lora_embedding_B")
        ones = (1,) * (len(target.shape) - 2) if target.kind is TargetKind.CONV else ()
        shape_a = (pair.rank, *target.shape[1:]) if target.kind is TargetKind.CONV else tuple(a.shape)
        self._pairs[target.module] = LoraPair(
            target.module,
            target,
            self._scratch.put(lead + tails[0], a.reshape(shape_a)),
            self._scratch.put(lead + tails[1], b.reshape(*b.shape, *ones)),
            pair.rank,
            pair.rank,
            1.0,
            tied=changed.tied,
        )

    def add_experts(self, changed: ChangedExperts, pairs: Mapping[int, tuple[torch.Tensor, torch.Tensor]]) -> None:
        """Put in the pairs of a fused parameter: A (rank, in_features) and B (out_features, rank) of each expert."""
        fused, module = changed.fused, changed.target.module
        rank = max(a.shape[0] for a, _ in pairs.values())
        filled_a = torch.zeros(fused.experts, rank, fused.in_features)
        filled_b = torch.zeros(fused.out_features, rank, fused.experts)
        for expert, (a, b) in pairs.items():
            filled_a[expert, : a.shape[0]] = a
            filled_b[:, : b.shape[1], expert] = b
        lead = f"{_LEAD}{module}.{fused.name}."  # a file has each name once, whatever PEFT nests
        self._pairs[f"{module}.{fused.name}"] = LoraPair(
            f"{module}.{fused.name}",
            changed.target,
            self._scratch.put(f"{lead}lora_A.weight", filled_a.flatten(0, 1)),
            self._scratch.put(f"{lead}lora_B.weight", filled_b.flatten(1)),
            rank,
            rank,
            1.0,
            fused=fused,
            parameter=fused.name,
        )

    def add_value(self, changed: ChangedValue, full: BaseTensors) -> None:
        """Put in a parameter of the full model as it is."""
        name = _LEAD + changed.parameter
        if changed.delta is None:
            entry = self._scratch.copy(name, *full.tensors[changed.parameter])
        else:
            entry = self._scratch.put(name, changed.delta.kept().reshape(changed.shape))
        self._values[changed.parameter] = NewValue(entry, changed.parameter, changed.tied)

    def link(self, table: TargetTable, source: ByteSource) -> BoundLink:
        """The link; ``source`` is that of the scratch file."""
        # with its module saved whole, the bias of a norm does not make PEFT keep all biases of the model
        saved = {name.rpartition(".")[0] for name in self._values}.difference(table.targets, {""})
        checkpoint = Checkpoint(
            config=parse_config(_CONFIG),
            pairs=dict(sorted(self._pairs.items())),
            values=dict(sorted(self._values.items())),
            tokens={},
            copies={},
            notices=(),
            saved=tuple(sorted(saved)),
        )
        return BoundLink(checkpoint, source)


def oriented(pair: BestPair, *, transposed: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """A (rank, in_features) and B (out_features, rank) of a pair as it is stored."""
    if transposed:
        return pair.left.T.contiguous(), pair.right.T.contiguous()
    return pair.right, pair.left
