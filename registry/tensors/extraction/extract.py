"""The adapter that is nearest to a full model: pairs of everything that changed, its files, and the figures of it.

The extracted adapter becomes a link of its path, with its factors and values in a file of this machine. The composition
of a path then writes it, as it writes every composed adapter.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final

import torch

from registry.files.header import TensorEntry
from registry.files.source import ByteSource, read_range
from registry.progress import Progress
from registry.schemas.artifacts import ExtractedModule
from registry.tensors.arithmetic.threads import in_order
from registry.tensors.artifacts.artifact import ArtifactFile
from registry.tensors.artifacts.merged import as_buffer
from registry.tensors.checkpoint.adapter import Checkpoint, LoraPair, NewValue
from registry.tensors.checkpoint.reading import parse_config
from registry.tensors.composed.composition import Composition
from registry.tensors.extraction.best_pair import BestPair, Wanted, best_pair
from registry.tensors.extraction.changed import ChangedExperts, ChangedTarget, ChangedValue, Changes
from registry.tensors.extraction.delta import Delta, HeldDelta, stacked
from registry.tensors.path.origins import BaseTensors
from registry.tensors.path.programs import BoundLink, path_programs
from registry.tensors.table.parameters import Piece
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


@dataclass(frozen=True)
class ParentWeights:
    """What a full model is compared with: a path, its base's tensors and target table."""

    links: Sequence[BoundLink]
    base: BaseTensors
    table: TargetTable


class Extraction:
    """The pairs of everything that a full model changed; finding them is the work.

    Args:
        parent: of the full model.
        full: its tensors, by the names of the base's files.
        changes: what it changed.
        wanted: which rank or error.
        scratch: takes the factors.
        progress: of the work, by elements.

    Raises:
        AccuracyError, InvalidAdapterError: see `registry.tensors.extraction.best_pair.best_pair`.
    """

    def __init__(
        self,
        parent: ParentWeights,
        full: BaseTensors,
        changes: Changes,
        wanted: Wanted,
        scratch: Scratch,
        progress: Progress,
    ) -> None:
        self._parent = parent
        self._maker = LinkMaker(scratch)
        self._errors: dict[str, tuple[float, float]] = {}  # by module: energy, discarded
        progress.begin("Extracting", changes.elements)

        def work(one: ChangedTarget) -> BestPair:
            return best_pair(HeldDelta(one.delta), wanted, one.target.module)

        targets = sorted(changes.targets, key=lambda one: one.target.module)
        for changed, pair in zip(targets, in_order(work, targets), strict=True):
            self._maker.add_target(changed, pair)
            self._errors[changed.target.module] = (pair.energy, pair.discarded)
            progress.advance(changed.delta.elements)
        for group in changes.experts:
            self._add_experts(group, wanted, progress)
        for value in changes.values:
            self._maker.add_value(value, full)

    def _add_experts(self, changed: ChangedExperts, wanted: Wanted, progress: Progress) -> None:
        """All experts have the rank of the one that needs most."""
        name = f"{changed.target.module}.{changed.fused.name}"
        matrices = _matrices(changed)

        def work(matrix: _ExpertDelta) -> BestPair:
            return best_pair(HeldDelta(matrix), wanted, f"{name}, expert {matrix.expert}")

        found = {}
        for matrix, pair in zip(matrices, in_order(work, matrices), strict=True):
            found[matrix.expert] = (pair.right, pair.left)
            energy, discarded = self._errors.get(name, (0.0, 0.0))
            self._errors[name] = (energy + pair.energy, discarded + pair.discarded)
            progress.advance(matrix.elements)
        self._maker.add_experts(changed, found)

    def files(self, source: ByteSource) -> tuple[Sequence[ArtifactFile], tuple[ExtractedModule, ...]]:
        """The adapter's files, made when they are read, and the ranks and errors of its modules.

        Args:
            source: what the scratch file holds.

        Raises:
            InvalidAdapterError: ``not_composable``, PEFT has no adapter for it; ``tied_partial``.
        """
        parent = self._parent
        links = [*parent.links, self._maker.link(parent.table, source)]
        composition = Composition(
            links, len(parent.links), path_programs(links, parent.table), parent.base, parent.table
        )
        files = composition.files(dtype="F32", base_repo=None, hints={})
        ranks = composition.ranks
        modules = tuple(
            ExtractedModule(
                module=name,
                rank=ranks[name],
                energy=energy,
                error=math.sqrt(discarded / energy) if energy > 0 else 0.0,
            )
            for name, (energy, discarded) in sorted(self._errors.items())
        )
        return files, modules


@dataclass(frozen=True)
class _ExpertDelta:
    """The delta of one expert's matrix, (out_features, in_features), of all its pieces."""

    expert: int
    pieces: tuple[tuple[Piece, Delta], ...]  # by output feature
    rows: int
    columns: int

    @property
    def elements(self) -> int:
        return self.rows * self.columns

    def blocks(self) -> Iterator[torch.Tensor]:
        for piece, delta in self.pieces:
            if piece.transposed:
                yield stacked(list(delta.blocks())).T.contiguous()
            else:
                yield from delta.blocks()


def _matrices(changed: ChangedExperts) -> list[_ExpertDelta]:
    fused = changed.fused
    found: list[list[tuple[Piece, Delta]]] = [[] for _ in range(fused.experts)]
    for piece, delta in changed.deltas:
        found[piece.expert].append((piece, delta))
    return [
        _ExpertDelta(expert, tuple(pieces), fused.out_features, fused.in_features)
        for expert, pieces in enumerate(found)
    ]
