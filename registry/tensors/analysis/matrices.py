"""The matrices that a path changes by products: which links add pairs to each, and what else is done to it.

A matrix is what has a rank of its own: the weight of a module, of one expert in a fused parameter, or a bias as one
column. Modules that share one weight and one change are one matrix, which counts once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from registry.errors import InvalidAdapterError
from registry.tensors.path.low_rank import RowRange, StackedPairs, stacked
from registry.tensors.path.programs import BoundLink, Owners, PathPrograms, Program, owners_of, path_programs
from registry.tensors.path.steps import Add, Replace, Rescale, SetRows, Step
from registry.tensors.table.parameters import FusedParameter
from registry.tensors.table.slots import Slot, slot_of_piece
from registry.tensors.table.targets import TargetTable

MatrixName = tuple[str, int]
"""The module, and the expert or -1."""


@dataclass(frozen=True)
class ChangedMatrix:
    """One matrix (out_features, in_features) and what a path does to it."""

    module: str  # as the base names it; of experts the parameter's full path, of a bias the parameter's
    expert: int | None
    programs: tuple[tuple[RowRange, Program], ...]  # of all of it, with the output features that each is for
    out_features: int
    in_features: int
    slots: tuple[Slot, ...]  # where the base's files hold it, all of it; none where they lack it

    @property
    def name(self) -> MatrixName:
        """What it is called among all matrices of the base."""
        return self.module, -1 if self.expert is None else self.expert

    def pairs(self, since: int) -> StackedPairs:
        """The pairs of the links from number ``since`` on."""
        steps = ((out, program.since(since)) for out, program in self.programs)
        return stacked(steps, self.out_features, self.in_features)

    def steps(self, since: int) -> tuple[Step, ...]:
        """What the links from number ``since`` on do, whichever piece of it they do it to."""
        return tuple(step for _, program in self.programs for step in program.since(since))

    def is_scaled(self, since: int) -> bool:
        """Whether a link from number ``since`` on rescales it (DoRA)."""
        return any(isinstance(step, Rescale) for step in self.steps(since))

    def is_replaced(self, since: int) -> bool:
        """Whether a link from number ``since`` on replaces values of it: all, or some rows."""
        return any(isinstance(step, Replace | SetRows) for step in self.steps(since))

    def adds_after_scaling(self, since: int) -> bool:
        """Whether a product is added to what was rescaled: what comes of all pairs is then not their sum."""
        for _, program in self.programs:
            kinds = [type(step) for step in program.since(since)]
            if Rescale in kinds and Add in kinds[kinds.index(Rescale) :]:
                return True
        return False


@dataclass(frozen=True)
class ChangedMatrices:
    """All that the links of a path from some number on change."""

    every: tuple[ChangedMatrix, ...]  # by module, experts in order
    by_pairs: tuple[ChangedMatrix, ...]  # those that products are added to, and of each the programs that add
    others: Mapping[str, Program]  # changed by values alone, by parameter or module


def changed_matrices(
    links: Sequence[BoundLink], paths: PathPrograms, table: TargetTable, since: int = 0
) -> ChangedMatrices:
    """Sort out what the links from number ``since`` on change, and by what."""
    return _Sorting(owners_of(links, table), paths, table, since, frozenset()).sorted()


def changed_side_by_side(paths: Sequence[tuple[Sequence[BoundLink], int]], table: TargetTable) -> list[ChangedMatrices]:
    """The same of several paths from one base, each with its number ``since``, so that equal names mean equal matrices.

    Modules that share one weight count each for itself in all of them where one of the paths parts them.

    Raises:
        InvalidAdapterError: what `path_programs` raises; ``lineage_mismatch``, two paths read a tensor in two ways.
    """
    links = {id(link): link for own, _ in paths for link in own}
    owners = owners_of(tuple(links.values()), table)
    programs = [path_programs(own, table) for own, _ in paths]
    apart = frozenset(module for path in programs for module in path.untied)
    found = [
        _Sorting(owners, path, table, since, apart).sorted() for path, (_, since) in zip(programs, paths, strict=True)
    ]
    _check_read_alike(found)
    return found


def _check_read_alike(changed: Sequence[ChangedMatrices]) -> None:
    turned: dict[MatrixName, bool] = {}
    for matrix in (matrix for one in changed for matrix in one.by_pairs):
        for _, program in matrix.programs:
            if turned.setdefault(matrix.name, program.slot.transposed) is not program.slot.transposed:
                raise InvalidAdapterError(
                    f"Two adapters read the weight of {matrix.module!r} in two ways, one as (out, in), the other as "
                    "(in, out); one of them was trained on another model.",
                    code="lineage_mismatch",
                )


@dataclass(frozen=True)
class _Sorting:
    owners: Owners
    paths: PathPrograms
    table: TargetTable
    since: int
    apart: frozenset[str]  # modules that count each for itself though the path leaves them tied

    def sorted(self) -> ChangedMatrices:
        found: list[ChangedMatrix] = []
        others: dict[str, Program] = {}
        experts: dict[tuple[str, int], FusedParameter] = {}
        for slot, program in sorted(self.paths.programs.items()):
            if not program.since(self.since) or self._is_twin(slot):
                continue
            held = self.owners.pieces.get(slot)
            name = self._name(slot) if held is None else f"{held.module}.{held.fused.name}"
            if not self._adds(program):
                others[name] = program
            if held is not None:
                experts[name, held.piece.expert] = held.fused
            else:
                whole = ((0, slot.out_features), program)
                held_by = () if program.origin is None else (program.origin,)
                found.append(ChangedMatrix(name, None, (whole,), slot.out_features, slot.in_features, held_by))
        found += self._experts(experts)
        found.sort(key=lambda one: one.name)
        added = (replace(one, programs=tuple(held for held in one.programs if self._adds(held[1]))) for one in found)
        return ChangedMatrices(tuple(found), tuple(one for one in added if one.programs), others)

    def _adds(self, program: Program) -> bool:
        return any(isinstance(step, Add) for step in program.since(self.since))

    def _experts(self, experts: Mapping[tuple[str, int], FusedParameter]) -> Iterator[ChangedMatrix]:
        slots: dict[str, dict[int, dict[Slot, RowRange]]] = {}
        for (name, expert), fused in experts.items():
            if name not in slots:
                slots[name] = {}
                for piece in fused.pieces:
                    slots[name].setdefault(piece.expert, {})[slot_of_piece(piece, fused)] = piece.out
            whole = slots[name][expert]
            known = self.paths.programs
            placed = tuple((out, known.get(slot) or Program(slot, (), slot)) for slot, out in whole.items())
            yield ChangedMatrix(name, expert, placed, fused.out_features, fused.in_features, tuple(whole))

    def _name(self, slot: Slot) -> str:
        """The module whose weight it is, or the parameter."""
        target, parameter = self.owners.targets.get(slot), self.owners.parameters.get(slot)
        if target is not None and parameter in (None, f"{target.module}.{target.weight}"):
            return target.module
        return parameter or (target.module if target is not None else slot.tensor)

    def _is_twin(self, slot: Slot) -> bool:
        """Whether it is the weight of a module that shares it, and its change, with the one that counts."""
        target = self.owners.targets.get(slot)
        if target is None or target.module not in self.paths.tied or target.module in self.apart:
            return False
        return self.table.tie_group(target.module)[0] != target.module
