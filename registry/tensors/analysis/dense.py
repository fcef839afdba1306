"""Dense statistics: figures of whole changes, whatever links do to a weight, and intruder dimensions.

The base's weights are read, module after module, in float64. Of a weight (m, n) and of its change only the triangle of
its short side is made (QR of the long side, block by block), whose singular values are the weight's. So memory is a few
squares of the short side, and where the stored rows run along the short side, the matrix itself once.

Intruder dimensions (Shuttleworth et al. 2024, arXiv:2410.21228): left singular vectors u of the tuned weight, among its
first `VECTORS`, whose largest |cos(u, v)| over all left singular vectors v of the base's weight is below `THRESHOLD`.
Vectors of singular values that are zero up to rounding do not count on either side.

The change that some links of a path make to one matrix is stored as two factors if they only added products, else
dense: the values of the path's steps in float64, before and after the links, in the blocks of `SlotValues`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cached_property
from operator import attrgetter
from typing import Any, Final

import torch

from registry.errors import UsageError
from registry.progress import Progress
from registry.schemas.statistics import DenseMatrix, MagnitudeRatios
from registry.tensors.analysis.matrices import ChangedMatrices, ChangedMatrix, changed_matrices
from registry.tensors.analysis.statistics import Norms, base_norm, figures, place_of, singular_values
from registry.tensors.path.low_rank import RowRange
from registry.tensors.path.origins import BaseTensors
from registry.tensors.path.programs import BoundLink, PathPrograms, Program, path_programs
from registry.tensors.path.steps import Rescale
from registry.tensors.table.targets import TargetTable

Factors = tuple[torch.Tensor, torch.Tensor]


@dataclass(frozen=True)
class Block:
    """Some columns or rows of a matrix (out_features, in_features), before the links and after them, in float64."""

    out: slice
    inside: slice
    before: torch.Tensor
    after: torch.Tensor


class ChangedWeights:
    """What the links from number ``since`` on changed.

    Args:
        links: the whole path, root first.
        table: the base's target table.
        since: number of the first link that counts.
        open_base: opens the base's tensors, which only dense values are made of.
        words: what changed them, for errors.

    Raises:
        InvalidAdapterError: what `path_programs` raises.
    """

    def __init__(
        self,
        links: Sequence[BoundLink],
        table: TargetTable,
        since: int,
        open_base: Callable[[], BaseTensors],
        words: str,
    ) -> None:
        self._links = links
        self._table = table
        self.since = since
        self._open_base = open_base
        self._words = words

    @cached_property
    def matrices(self) -> ChangedMatrices:
        """All that was changed."""
        return changed_matrices(self._links, path_programs(self._links, self._table), self._table, self.since)

    @cached_property
    def _base(self) -> BaseTensors:
        return self._open_base()

    @cached_property
    def _before(self) -> PathPrograms:
        return path_programs(self._links[: self.since], self._table)

    def find(self, module: str, expert: int | None) -> ChangedMatrix:
        """A matrix by the name that statistics give it.

        Raises:
            UsageError: the links don't change it; offers the nearest.
        """
        named = [one for one in self.matrices.every if one.module == module]
        found = next((one for one in named if one.expert == expert), None)
        if found is not None:
            return found
        if named:
            experts = [one.expert for one in named]
            form = "has no experts" if None in experts else f"has a matrix for each expert: {_listed(experts)}"
            raise UsageError(f"{module} {form}; expert is {expert}.")
        names = sorted({one.module for one in self.matrices.every})
        near = get_close_matches(module, names, n=3) or names[:3]
        raise UsageError(
            f"{self._words} changes no module {module!r}; of {len(names)} that it changes, the nearest are "
            f"{', '.join(near) or 'none'}."
        )

    def only_adds(self, matrix: ChangedMatrix) -> bool:
        """Whether its change is the sum of its pairs."""
        return not matrix.is_scaled(self.since) and not matrix.is_replaced(self.since)

    def factors(self, matrix: ChangedMatrix) -> Factors:
        """A (rank, in_features) and B (out_features, rank) with the scaling in it: B A is the change. In float64.

        Raises:
            UsageError: the change is no product of factors.
        """
        if not self.only_adds(matrix):
            how = "rescales its weight (DoRA)" if matrix.is_scaled(self.since) else "replaces values of it"
            raise UsageError(f"{self._words} {how}: {matrix.module} has no factors. `delta` gives the dense change.")
        pairs = matrix.pairs(self.since)
        return pairs.a(torch.float64), pairs.b_rows(0, matrix.out_features, torch.float64)

    def delta(self, matrix: ChangedMatrix) -> torch.Tensor:
        """The change (out_features, in_features) in float64; of a convolution in the shape of its weight.

        Raises:
            UsageError: the base model lacks the weight, so nothing exists that it could be the change of.
        """
        if self.only_adds(matrix):
            a, b = self.factors(matrix)
            found = b @ a
        else:
            found = torch.zeros(matrix.out_features, matrix.in_features, dtype=torch.float64)
            for block in self.blocks(matrix):
                found[block.out, block.inside] = block.after - block.before
        target = self._table.targets.get(matrix.module)
        shape = () if target is None or target.transposed else target.shape
        return found.reshape(shape) if len(shape) > 2 and matrix.expert is None else found

    def blocks(self, matrix: ChangedMatrix) -> Iterator[Block]:
        """What was changed of the matrix, before and after, block by block of stored rows.

        Raises:
            UsageError: as `delta`.
        """
        for out, program in matrix.programs:
            yield from self._blocks_of(matrix, out, program)

    def rescalings(self, matrix: ChangedMatrix) -> Iterator[tuple[int, torch.Tensor]]:
        """What each link with DoRA multiplies rows of a matrix by, m / |W + D|: the link's number, and (rows,)."""
        for _, program in matrix.programs:
            links = [step.link for step in program.steps if isinstance(step, Rescale) and not step.by_input]
            if any(link >= self.since for link in links):
                ratios, _ = self._base.values(program, torch.float64).rescalings()
                yield from ((link, one) for link, one in zip(links, ratios, strict=True) if link >= self.since)

    def _blocks_of(self, matrix: ChangedMatrix, out: RowRange, program: Program) -> Iterator[Block]:
        if program.origin is None:
            raise UsageError(f"{self._words} adds {matrix.module}, which the base model lacks: nothing is changed.")
        earlier = self._before.programs.get(program.slot) or Program(program.slot, (), program.origin)
        before, after = (self._base.values(one, torch.float64) for one in (earlier, program))
        for index in range(after.blocks):
            first = index * after.rows_a_block
            old, new = before.block(index), after.block(index)
            rows = slice(first, first + new.shape[0])
            if program.slot.transposed:
                yield Block(slice(*out), rows, old.T, new.T)
            else:
                yield Block(slice(out[0] + rows.start, out[0] + rows.stop), slice(None), old, new)


def _listed(experts: Sequence[int | None]) -> str:
    numbers = [str(one) for one in experts]
    return ", ".join(numbers) if len(numbers) <= 8 else f"{', '.join(numbers[:8])} and {len(numbers) - 8} more"


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
        base, tuned = self._side(attrgetter("before"), None), self._side(attrgetter("after"), VECTORS)
        cosines = self._cosines(base, tuned) if min(self.shape) > 1 else ()
        if self.changed.only_adds(self.matrix):
            return singular_values(self.matrix.pairs(self.changed.since), self.matrix.module), cosines
        noise = _EPS * max(self.shape) * max(base.norm, tuned.norm)
        del base  # its vectors are as large as what comes next
        values: torch.Tensor = torch.linalg.svdvals(self.triangle(lambda block: block.after - block.before))
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
