"""Frobenius norms of the base's slots, from the energies of its stored rows: what figures of deltas are relative to."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

from registry.tensors.elements.energies import RowEnergies
from registry.tensors.factors.slots import Slot, slot_of_parameter, slot_of_piece, slot_of_target
from registry.tensors.table.targets import TargetTable


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
