"""What of the base model each slot is: the weight of a module, a piece of its experts, or another parameter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from registry.tensors.factors.slots import Slot, slot_of_parameter, slot_of_piece, slot_of_target
from registry.tensors.path.programs import BoundLink
from registry.tensors.table.held import FusedParameter, Piece
from registry.tensors.table.targets import Target, TargetTable


@dataclass(frozen=True)
class ExpertPiece:
    """A piece of a fused parameter and the module that has the parameter."""

    module: str
    fused: FusedParameter
    piece: Piece


@dataclass(frozen=True)
class Owners:
    """The owner of each slot; a slot may be a module's weight and a parameter at once."""

    pieces: Mapping[Slot, ExpertPiece]
    targets: Mapping[Slot, Target]  # as the links read them
    parameters: Mapping[Slot, str]  # runtime name of a parameter


def owners_of(links: Sequence[BoundLink], table: TargetTable) -> Owners:
    """The owners of a base's slots, where ``links`` say how a module multiplies that the table does not know."""
    pieces = {
        slot_of_piece(piece, fused): ExpertPiece(target.module, fused, piece)
        for target in table.targets.values()
        for fused in target.fused
        for piece in fused.pieces
    }
    whole = [one for one in table.targets.values() if not one.fused and one.kept]
    targets = {slot_of_target(target): target for target in whole}
    for link in links:
        read = [pair.target for pair in link.checkpoint.pairs.values() if pair.fused is None]
        read += [rows.target for rows in link.checkpoint.tokens.values()]
        targets.update({slot_of_target(target): target for target in read})
    return Owners(pieces, targets, {slot_of_parameter(held): name for name, held in table.parameters.items()})
