"""The fingerprint of a path: what it makes of the elements that stand for its base model.

Exact values, rounded once to float32, of the tensors that the path changes. What one link adds is the difference of its
fingerprint and that of the path above it, so a merge that went step by step can be replayed from fingerprints alone.

A link that replaces tensors begins anew: its fingerprint has the values of all that it replaces in the base model, and
those of the links below it have only what these change in the model that it is.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
import torch

from registry.tensors.comparison.spots import Sampled, Spot, Spots
from registry.tensors.path.origins import BaseTensors
from registry.tensors.path.places import Place
from registry.tensors.path.programs import PathPrograms, Program
from registry.tensors.path.slot_values import SlotValues


def fingerprint(programs: PathPrograms, base: BaseTensors, spots: Spots, values: torch.Tensor) -> bytes:
    """The fingerprint of a path whose links add, as it is kept.

    It is the digest of the spots, the number of changed tensors, their numbers (uint32), and their values (float32),
    all with the least byte first.

    Args:
        programs: of the path.
        base: the model that its links go on.
        spots: the elements that stand for the base model.
        values: what that model has there, in float64; of tensors that the path leaves alone, anything.

    Raises:
        InvalidAdapterError: ``zero_norm``, a DoRA link divides by it.
    """
    placed = programs.placed()
    found = values.clone()
    for spot in spots.spots:
        if spot.tensor in placed:
            part = found[spots.slices[spot.tensor]]
            part.copy_(_values(spot, part, base, placed[spot.tensor]))
    return spots.digest + _packed(spots, found, placed)


def replaced_fingerprint(spots: Spots, values: torch.Tensor, replaced: Collection[str]) -> bytes:
    """The fingerprint of a link that replaces some tensors of the base model; ``values`` as for `fingerprint`."""
    return spots.replaced_digest + _packed(spots, values, replaced)


def _packed(spots: Spots, values: torch.Tensor, tensors: Collection[str]) -> bytes:
    numbers = [number for number, spot in enumerate(spots.spots) if spot.tensor in tensors]
    parts = [values[spots.slices[spots.spots[number].tensor]] for number in numbers]
    head = np.array([len(numbers), *numbers], "<u4").tobytes()
    return head + (torch.cat(parts).to(torch.float32).numpy().astype("<f4").tobytes() if parts else b"")


def is_of(kept: bytes, spots: Spots) -> bool:
    """Whether a fingerprint was made of these elements."""
    return kept[:8] in (spots.digest, spots.replaced_digest)


def replaces(kept: bytes, spots: Spots) -> bool:
    """Whether a fingerprint is of a link that replaces tensors of the base model, whatever is above it."""
    return kept[:8] == spots.replaced_digest


def unpacked(kept: bytes, spots: Spots, base: torch.Tensor) -> torch.Tensor | None:
    """The values of a path in float32, those of the ``base`` where the path changes nothing.

    None: it was made of other elements.
    """
    if not is_of(kept, spots):
        return None
    count = int(np.frombuffer(kept, "<u4", 1, 8)[0])
    values = torch.from_numpy(np.frombuffer(kept, "<f4", offset=12 + 4 * count).astype(np.float32))
    return base.index_copy(0, spots.elements_of(kept[12 : 12 + 4 * count]), values)


def _values(
    spot: Spot, before: torch.Tensor, base: BaseTensors, placed: Sequence[tuple[Place, Program]]
) -> torch.Tensor:
    """What a path makes of the elements of one tensor, in float64; rows that no program changes stay as ``before``."""
    found = before.clone()
    rows: dict[tuple[int, int], torch.Tensor] = {}
    readers = [base.values(program, torch.float64, rows_a_block=1) for _, program in placed]
    for at, offset in enumerate(spot.offsets):
        for number, (place, program) in enumerate(placed):
            stored, column = divmod(offset, program.slot.columns)
            if not place.run.first <= stored < place.run.first + place.run.rows:
                continue
            row = place.at + place.run.meant(stored - place.run.first)
            if (number, row) not in rows:
                rows[number, row] = readers[number].block(row)[0].clone()
            found[at] = rows[number, row][column]
    return found


def added(programs: PathPrograms, base: BaseTensors, spots: Spots) -> Sampled:
    """What one adapter adds to the elements that stand for a base model, whatever they are; nothing of it is read.

    NaN (and no dtype) where the adapter does more than add, so that it depends on the base.
    """
    placed, found = programs.placed(), torch.zeros(spots.elements, dtype=torch.float64)
    dtypes: list[torch.dtype | None] = []
    for spot in spots.spots:
        part, adds = found[spots.slices[spot.tensor]], True
        for place, program in placed.get(spot.tensor, ()):
            values = base.values(program, torch.float64, rows_a_block=1)
            adds = adds and program.origin is not None and values.only_adds
            if adds:
                _add(spot, place, values, part)
        dtypes.append(torch.float64 if adds else None)
        if not adds:
            part.fill_(torch.nan)
    return Sampled(found, dtypes)


def _add(spot: Spot, place: Place, values: SlotValues, found: torch.Tensor) -> None:
    rows: dict[int, torch.Tensor] = {}
    for at, offset in enumerate(spot.offsets):
        stored, column = divmod(offset, values.slot.columns)
        if place.run.first <= stored < place.run.first + place.run.rows:
            row = place.at + place.run.meant(stored - place.run.first)
            if row not in rows:
                rows[row] = torch.empty(1, values.slot.columns, dtype=torch.float64)
                values.added_to(range(row, row + 1), rows[row])
            found[at] += rows[row][0, column]
