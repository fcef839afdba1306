"""What some links of a path changed of one matrix: two factors where they only added products, and else dense.

Dense values are those of the path's steps in float64, before the links and after them, in the blocks of `SlotValues`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cached_property

import torch

from registry.errors import UsageError
from registry.tensors.analysis.matrices import ChangedMatrices, ChangedMatrix, changed_matrices
from registry.tensors.path.origins import BaseTensors
from registry.tensors.path.programs import BoundLink, PathPrograms, Program, path_programs
from registry.tensors.path.stacked_pairs import Rows
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
            UsageError: the base model lacks the weight, so that there is nothing that it is the change of.
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
            links = [step.link for step in program.steps if isinstance(step, Rescale)]
            if any(link >= self.since for link in links):
                ratios, _ = self._base.values(program, torch.float64).rescalings()
                yield from ((link, one) for link, one in zip(links, ratios, strict=True) if link >= self.since)

    def _blocks_of(self, matrix: ChangedMatrix, out: Rows, program: Program) -> Iterator[Block]:
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
