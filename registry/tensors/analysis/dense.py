"""Dense statistics: figures of whole changes, whatever links do to a weight, and intruder dimensions.

The base's weights are read, module after module, in float64. Of a weight (m, n) and of its change only the triangle of
its short side is made (QR of the long side, block by block), whose singular values are the weight's. So memory is a few
squares of the short side, and where the stored rows run along the short side, the matrix itself once.

Intruder dimensions (Shuttleworth et al. 2024, arXiv:2410.21228): left singular vectors u of the tuned weight, among its
first `VECTORS`, whose largest |cos(u, v)| over all left singular vectors v of the base's weight is below `THRESHOLD`.
Vectors of singular values that are zero up to rounding do not count on either side.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch

from registry.progress import Progress
from registry.schemas.statistics import DenseMatrix, MagnitudeRatios
from registry.tensors.analysis.changed_weights import Block, ChangedWeights
from registry.tensors.analysis.matrices import ChangedMatrix
from registry.tensors.analysis.spectra import figures
from registry.tensors.analysis.statistics import Norms, base_norm, place_of, singular_values

VECTORS: Final = 10
THRESHOLD: Final = 0.5

_EPS: Final = torch.finfo(torch.float64).eps
Part = Callable[[Block], torch.Tensor]
"""Which of the values of a block: before, after, or what changed."""


def dense_statistics(changed: ChangedWeights, norms: Norms, progress: Progress) -> dict[str, Any]:
    """The fields of `registry.schemas.statistics.DenseStatistics` that are about weights.

    Raises:
        InvalidAdapterError: ``overflow``, a change is not finite; ``zero_norm``, DoRA divides by zero.
    """
    there = [one for one in changed.matrices.every if all(program.origin for _, program in one.programs)]
    missing = sorted({one.module for one in changed.matrices.every} - {one.module for one in there})
    progress.begin("Computing dense statistics", len(there))
    spectra: list[Sequence[float]] = []
    found: list[DenseMatrix] = []
    for matrix in there:
        spectrum, cosines = _Measuring(changed, matrix).measured()
        spectra.append(spectrum)
        depth, kind = place_of(matrix.module)
        own = figures([spectrum], len(spectrum), base_norm([matrix], norms))
        found.append(
            DenseMatrix(
                **own,
                module=matrix.module,
                expert=matrix.expert,
                kind=kind,
                depth=depth,
                added=changed.only_adds(matrix),
                magnitudes=tuple(_magnitudes(changed, matrix)),
                cosines=cosines,
                intruders=sum(one < THRESHOLD for one in cosines),
            )
        )
        progress.advance(1)
    return {
        **figures(spectra, max((one.rank for one in found), default=0), base_norm(there, norms)),
        "vectors": VECTORS,
        "threshold": THRESHOLD,
        "intruders": sum(one.intruders for one in found),
        "matrices": tuple(found),
        "missing": tuple(missing),
    }


def _magnitudes(changed: ChangedWeights, matrix: ChangedMatrix) -> Iterator[MagnitudeRatios]:
    by_link: dict[int, list[torch.Tensor]] = {}
    for link, ratios in changed.rescalings(matrix):
        by_link.setdefault(link, []).append(ratios)
    for link, parts in sorted(by_link.items()):
        every = torch.cat(parts).to(torch.float64)
        least, mean, most = every.min().item(), every.mean().item(), every.max().item()
        yield MagnitudeRatios(link=link + 1, least=least, mean=mean, most=most)


@dataclass(frozen=True, eq=False)
class _Side:
    """A weight before or after: singular values that are not zero, and right singular vectors of its triangle."""

    values: torch.Tensor
    vectors: torch.Tensor  # a column each
    norm: float


@dataclass(frozen=True)
class _Measuring:
    changed: ChangedWeights
    matrix: ChangedMatrix

    @property
    def shape(self) -> tuple[int, int]:
        return self.matrix.out_features, self.matrix.in_features

    @property
    def is_tall(self) -> bool:
        return self.matrix.out_features > self.matrix.in_features

    def measured(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Singular values of the change, largest first, without those that are zero up to rounding; and the cosines."""
        base, tuned = self._side(_before, None), self._side(_after, VECTORS)
        cosines = self._cosines(base, tuned) if min(self.shape) > 1 else ()
        if self.changed.only_adds(self.matrix):
            return singular_values(self.matrix.pairs(self.changed.since), self.matrix.module), cosines
        noise = _EPS * max(self.shape) * max(base.norm, tuned.norm)
        del base  # its vectors are as large as what comes next
        values: torch.Tensor = torch.linalg.svdvals(self.triangle(_change))
        return tuple(values[values > noise].tolist()), cosines

    def _side(self, part: Part, most: int | None) -> _Side:
        _, values, vectors = torch.linalg.svd(self.triangle(part), full_matrices=False)
        rank = int((values > _EPS * max(self.shape) * values[0]).sum())
        rank = rank if most is None else min(rank, most)
        return _Side(values[:rank], vectors[:rank].T.clone(), float(torch.linalg.vector_norm(values)))

    def _cosines(self, base: _Side, tuned: _Side) -> tuple[float, ...]:
        """Of each first vector of the tuned weight the largest absolute cosine with any of the base's."""
        if not self.is_tall:  # the triangle is that of the transpose, so these are left singular vectors already
            found = base.vectors.T @ tuned.vectors
        else:  # u = W v / s on both sides
            across = torch.zeros(self.shape[0], tuned.vectors.shape[1], dtype=torch.float64)
            for block in self.changed.blocks(self.matrix):
                across[block.out] += block.after @ tuned.vectors[block.inside]
            back = torch.zeros_like(tuned.vectors)
            for block in self.changed.blocks(self.matrix):
                back[block.inside] += block.before.T @ across[block.out]
            found = (base.vectors.T @ back) / base.values[:, None] / tuned.values
        return tuple(found.abs().amax(0).clamp(max=1.0).tolist()) if found.numel() else (0.0,) * found.shape[1]

    def triangle(self, part: Part) -> torch.Tensor:
        """R of the matrix, or of its transpose where it is wide: the short side squared."""
        found = _Triangle(min(self.shape))
        whole: torch.Tensor | None = None
        for block in self.changed.blocks(self.matrix):
            values = part(block)
            if values.shape[1 if self.is_tall else 0] == found.columns:
                found.add(values if self.is_tall else values.T)
                continue
            if whole is None:
                whole = torch.zeros(self.shape, dtype=torch.float64)
            whole[block.out, block.inside] = values
        if whole is not None:
            for rows in torch.split(whole if self.is_tall else whole.T, found.columns):
                found.add(rows)
        return found.result()


def _before(block: Block) -> torch.Tensor:
    return block.before


def _after(block: Block) -> torch.Tensor:
    return block.after


def _change(block: Block) -> torch.Tensor:
    return block.after - block.before


class _Triangle:
    """R of a matrix whose rows come block by block; as many rows as columns are decomposed at once."""

    def __init__(self, columns: int) -> None:
        self.columns = columns
        self._parts: list[torch.Tensor] = []
        self._rows = 0

    def add(self, rows: torch.Tensor) -> None:
        """Some more rows; nobody may change them."""
        self._parts.append(rows)
        self._rows += rows.shape[0]
        if self._rows >= 2 * self.columns:
            self._reduce()

    def result(self) -> torch.Tensor:
        """R, with at most as many rows as columns."""
        self._reduce()
        return self._parts[0]

    def _reduce(self) -> None:
        stacked = self._parts[0] if len(self._parts) == 1 else torch.cat(self._parts)
        self._parts = [stacked if self._rows <= self.columns else torch.linalg.qr(stacked, mode="r").R]
        self._rows = self._parts[0].shape[0]
