"""Combinations: one adapter that equals a weighted sum of the deltas of several paths over a common ancestor.

What links add is weighed: the factors of all links lie side by side, and a source's weight goes into B with the
scaling. What links replace is no delta and has no weight: it is taken over where all sources make the same of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch

from registry.errors import InvalidAdapterError
from registry.tensors.composed.composition import Composition
from registry.tensors.path.origins import BaseTensors
from registry.tensors.path.programs import BoundLink, PathPrograms, Program, origin_of, path_programs
from registry.tensors.path.slot_values import SlotValues
from registry.tensors.path.steps import Add, Replace, SetRows
from registry.tensors.table.slots import Slot
from registry.tensors.table.targets import TargetTable


@dataclass(frozen=True)
class WeighedPath:
    """A source: its links after the ancestor, and its weight."""

    reference: str  # for messages
    links: tuple[BoundLink, ...]
    weight: float

    @property
    def weighed(self) -> list[BoundLink]:
        """The links, each multiplied by its weight."""
        return [replace(link, coefficient=link.coefficient * self.weight) for link in self.links]


def combined(
    above: Sequence[BoundLink], sources: Sequence[WeighedPath], base: BaseTensors, table: TargetTable
) -> Composition:
    """The combination of some sources as one adapter for the weights of the ancestor.

    Sums and products are made in float64, so that what is written is rounded once.

    Args:
        above: the links of the ancestor, root first.
        sources: with weights of which at least one is not zero.
        base: the base's tensors.
        table: the base's target table.

    Raises:
        InvalidAdapterError: ``not_combinable``, a source is a DoRA, or they replace values and disagree;
            ``not_composable``, no single PEFT adapter equals the combination.
    """
    for source in sources:
        _refuse_dora(source)
    counted = [source for source in sources if source.weight]
    if len(counted) > 1:
        _check_values_agree(above, counted, base, table)
    links = [*above, *(link for source in counted for link in source.weighed)]
    return Composition(links, len(above), path_programs(links, table), base, table, sums=torch.float64)


def not_combinable(what: str) -> InvalidAdapterError:
    """The error for sources that no weighted sum can be made of."""
    return InvalidAdapterError(what, code="not_combinable")


def _refuse_dora(source: WeighedPath) -> None:
    for link in source.links:
        for module in link.checkpoint.diagonals:
            raise not_combinable(
                f"{source.reference} can't be combined: it multiplies {module!r} by factors (IA3), which is no delta "
                "that could be weighed. Combine adapters that add."
            )
        for module, pair in link.checkpoint.pairs.items():
            if pair.magnitude is not None:
                raise not_combinable(
                    f"{source.reference} can't be combined: it rescales {module!r} by DoRA, which is no delta that "
                    "could be weighed. Combine adapters that were trained without DoRA."
                )


def _check_values_agree(
    above: Sequence[BoundLink], sources: Sequence[WeighedPath], base: BaseTensors, table: TargetTable
) -> None:
    """What a source replaces has to be the same in all of them, and nothing may be added to it."""
    since = len(above)
    before = path_programs(above, table)
    paths = [path_programs([*above, *source.links], table) for source in sources]
    replaced = {
        slot: at
        for at, path in reversed(list(enumerate(paths)))
        for slot, program in path.programs.items()
        if any(isinstance(step, Replace | SetRows) for step in program.since(since))
    }
    for slot, first in sorted(replaced.items()):
        for source, path in zip(sources, paths, strict=True):
            program = path.programs.get(slot)
            if program is not None and any(isinstance(step, Add) for step in program.since(since)):
                raise not_combinable(
                    f"{sources[first].reference} replaces values of {slot.tensor!r}, and {source.reference} adds to "
                    "them: that is no sum of deltas. Combine adapters that either add to it or replace it alike."
                )
        values = [_outcome(slot, path, before, base, table) for path in paths]
        for other, value in zip(sources, values, strict=True):
            row = _first_apart(values[first], value)
            if row is not None:
                where = f"row {row} of {slot.tensor!r}" if row >= 0 else repr(slot.tensor)
                raise not_combinable(
                    f"{sources[first].reference} and {other.reference} can't be combined: they disagree about {where}, "
                    "which is replaced and not added to, so that there is no delta to weigh. Values that sources "
                    "replace have to be the same in all of them."
                )


def _outcome(
    slot: Slot, path: PathPrograms, before: PathPrograms, base: BaseTensors, table: TargetTable
) -> SlotValues | None:
    """The values of a slot after a path; None: neither it nor the base has them."""
    program = path.programs.get(slot) or before.programs.get(slot)
    if program is None:
        origin = origin_of(slot, table)
        if any(run.tensor not in base.tensors for run in origin.places):
            return None
        program = Program(slot, (), origin)
    return base.values(program, torch.float64)


def _first_apart(one: SlotValues | None, other: SlotValues | None) -> int | None:
    """The first stored row in which two values differ; -1: only one of them exists; None: they are equal."""
    if one is None or other is None:
        return None if one is other else -1
    return next(_apart(one, other), None)


def _apart(one: SlotValues, other: SlotValues) -> Iterator[int]:
    for index in range(one.blocks):
        rows = (one.block(index) != other.block(index)).any(dim=1)
        if bool(rows.any()):
            yield index * one.rows_a_block + int(rows.nonzero()[0, 0])
