"""The adapter that is nearest to a full model: pairs of everything that changed, its files, and the figures of it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from registry.files.source import ByteSource
from registry.progress import Progress
from registry.schemas.artifacts import ExtractedModule
from registry.tensors.arithmetic.lanes import in_order
from registry.tensors.artifacts.artifact import ArtifactFile
from registry.tensors.composed.composition import Composition
from registry.tensors.extraction.best_pair import BestPair, Wanted, best_pair
from registry.tensors.extraction.changed import ChangedExperts, ChangedTarget, Changes
from registry.tensors.extraction.delta import Delta, HeldDelta, stacked
from registry.tensors.extraction.link import LinkMaker, Scratch
from registry.tensors.path.origins import BaseTensors
from registry.tensors.path.programs import BoundLink, path_programs
from registry.tensors.table.held import Piece
from registry.tensors.table.targets import TargetTable


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
