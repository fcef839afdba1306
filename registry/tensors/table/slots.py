"""Slots: the matrices of the base's files that a path may change, and their norms.

Every float tensor is seen as a matrix of stored rows: (out, in), (in, out) for a transposed one, (out, in * kernel) for
a convolution, (experts * rows, columns) for a fused one, and a vector as one column. A slot is a run of those rows that
has one oriented matrix (out x in) of its own, so that a path's changes to it are one small program
(`registry.tensors.path.programs`), whatever kind of module it belongs to.

Figures of deltas are relative to the Frobenius norms of slots, which come from the energies of the base's stored rows.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from registry.tensors.arithmetic.streamed import RowEnergies
from registry.tensors.table.parameters import FileParameter, FusedParameter, Piece, Run
from registry.tensors.table.targets import Target, TargetTable


@dataclass(frozen=True, order=True)
class Slot:
    """Stored rows ``first`` to ``first + rows`` of a tensor that is seen as a matrix with ``columns`` columns.

    A slot with `runs` is a parameter whose rows lie in several places or in another order: its rows are those of the
    parameter, counted from 0, and `tensor` names all of their tensors.

    Which way it multiplies is no part of what it is: it is still the same slot, so it does not count in comparisons.
    """

    tensor: str  # name in the base's files, or the name that an untied or new weight gets in them
    first: int
    rows: int
    columns: int
    transposed: bool = field(default=False, compare=False)  # the rows are input features
    runs: tuple[Run, ...] = ()

    @property
    def places(self) -> tuple[Run, ...]:
        """Where the rows lie in the files, one run below the other."""
        return self.runs or (Run(self.tensor, self.first, self.rows),)

    @property
    def out_features(self) -> int:
        """Rows of the slot's matrix in oriented space (out x in)."""
        return self.columns if self.transposed else self.rows

    @property
    def in_features(self) -> int:
        """Columns of the slot's matrix in oriented space (out x in)."""
        return self.rows if self.transposed else self.columns


def slot_of_target(target: Target) -> Slot:
    """The whole weight of a module that is one tensor; a tied one gets the name that it has once it is untied."""
    tensor = target.tensor or f"{target.module}.{target.weight}"
    return _slot(tensor, (target.shape[0], math.prod(target.shape[1:])), target.runs, transposed=target.transposed)


def slot_of_parameter(parameter: FileParameter) -> Slot:
    """A whole parameter whose orientation does not matter: it is only ever replaced."""
    return _slot(parameter.tensor, as_matrix(parameter.shape), parameter.runs)


def _slot(name: str, shape: tuple[int, int], runs: tuple[Run, ...], *, transposed: bool = False) -> Slot:
    rows, columns = shape
    if len(runs) == 1 and runs[0].in_order:
        return Slot(runs[0].tensor, runs[0].first, rows, columns, transposed)
    tensors = " and ".join(dict.fromkeys(run.tensor for run in runs))
    return Slot(tensors or name, 0, rows, columns, transposed, runs)


def slot_of_piece(piece: Piece, parameter: FusedParameter) -> Slot:
    """The rows of one piece of a fused parameter."""
    size = piece.out[1] - piece.out[0]
    rows, columns = (parameter.in_features, size) if piece.transposed else (size, parameter.in_features)
    return Slot(piece.tensor, piece.matrix * rows, rows, columns, piece.transposed)


def as_matrix(shape: tuple[int, ...]) -> tuple[int, int]:
    """(rows, columns) of a tensor that is seen as a matrix: the first dimension by the rest; a vector is a column."""
    return (shape[0], math.prod(shape[1:])) if shape else (1, 1)


def norms_of_slots(table: TargetTable, tensors: Mapping[str, RowEnergies]) -> dict[Slot, float]:
    """The norm of every slot that a path may start from: weights of modules, pieces of experts, other parameters.

    Of modules that share a weight it is the slot that holds it, as `registry.tensors.path.programs.Program.origin` is.
    Left out are whole numbers, and values of which one is not finite.

    Args:
        table: the base's target table.
        tensors: the energies of its floating-point tensors, by name.
    """
    found: dict[Slot, float] = {}
    for slot in _slots(table):
        if slot not in found and all(run.tensor in tensors for run in slot.places):
            energy = _energy_of(slot, tensors)
            if math.isfinite(energy):
                found[slot] = math.sqrt(energy)
    return found


def _slots(table: TargetTable) -> Iterator[Slot]:
    for target in table.targets.values():
        for fused in target.fused:
            yield from (slot_of_piece(piece, fused) for piece in fused.pieces)
        if target.kept and not target.fused:
            yield slot_of_target(target)
    yield from map(slot_of_parameter, table.parameters.values())


def _energy_of(slot: Slot, tensors: Mapping[str, RowEnergies]) -> float:
    """The sum over its runs: rows that change places within a run have the same energy together."""
    return sum(
        tensors[run.tensor].between(run.first * slot.columns, (run.first + run.rows) * slot.columns)
        for run in slot.places
    )
