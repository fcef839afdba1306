"""What a full model changed: matrices, which become pairs, and values, which are stored whole.

Every parameter of the target table is looked at, and then whatever else the base's files hold: what no adapter could
bring must not have changed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from registry.errors import InvalidAdapterError
from registry.files.header import TensorEntry
from registry.files.source import ByteSource, read_range
from registry.progress import SILENT, Progress
from registry.tensors.arithmetic.dtypes import FLOATS
from registry.tensors.checkpoint.fit import check_orientation, undeclared
from registry.tensors.checkpoint.variants.saved_modules import COUNTER
from registry.tensors.composed.forms import is_called_bias
from registry.tensors.extraction.delta import Delta
from registry.tensors.path.origins import BaseTensors
from registry.tensors.path.programs import PathPrograms, Program, origin_of
from registry.tensors.table.declaration import contradicts_bias, kept_transposed
from registry.tensors.table.parameters import FileParameter, FusedParameter, Piece
from registry.tensors.table.slots import Slot, slot_of_parameter, slot_of_piece, slot_of_target
from registry.tensors.table.targets import Target, TargetKind, TargetTable

_Stored = tuple[ByteSource, TensorEntry]
_STEP: Final = 8 << 20


@dataclass(frozen=True)
class ChangedTarget:
    """A module whose weight was changed; ``tied``: so was that of all modules that share it."""

    target: Target
    delta: Delta
    tied: bool = False


@dataclass(frozen=True)
class ChangedExperts:
    """A fused parameter of experts that was changed, with the delta of every piece."""

    target: Target
    fused: FusedParameter
    deltas: tuple[tuple[Piece, Delta], ...]


@dataclass(frozen=True)
class ChangedValue:
    """A parameter that is stored whole; ``delta`` has its rows in the full model; None: the base lacks the tensor."""

    parameter: str
    shape: tuple[int, ...]
    delta: Delta | None
    tied: bool = False


@dataclass
class Changes:
    """Everything that a full model changed."""

    targets: list[ChangedTarget] = field(default_factory=list)
    experts: list[ChangedExperts] = field(default_factory=list)
    values: list[ChangedValue] = field(default_factory=list)
    unchanged: int = 0  # parameters that equal the parent's

    @property
    def elements(self) -> int:
        """Numbers of all matrices."""
        pieces = [delta for one in self.experts for _, delta in one.deltas]
        return sum(delta.elements for delta in (*(one.delta for one in self.targets), *pieces))

    def __bool__(self) -> bool:
        return bool(self.targets or self.experts or self.values)


def changes_of(
    parent: PathPrograms, base: BaseTensors, full: BaseTensors, table: TargetTable, progress: Progress = SILENT
) -> Changes:
    """Sort out what a full model changed.

    Args:
        parent: what the parent's path does to the base.
        base: the base's tensors.
        full: those of the full model, by the names of the base's files; it has what the table needs.
        table: the base's target table.
        progress: of the work, by elements.

    Raises:
        InvalidAdapterError: ``unsupported_layout``, it changed what no adapter can bring; ``undeclared_orientation``,
            how a changed matrix is stored is a guess that something speaks against.
    """
    return _Walk(parent, base, full, table, progress).changes()


class _Walk:
    def __init__(
        self, parent: PathPrograms, base: BaseTensors, full: BaseTensors, table: TargetTable, progress: Progress
    ) -> None:
        self._parent, self._base, self._full, self._table = parent, base, full, table
        self._progress = progress
        self._transposed = kept_transposed(table)
        self._found = Changes()
        self._seen: set[str] = set()  # tensors of the base's files

    def changes(self) -> Changes:
        for target in self._table.targets.values():
            if target.fused:
                self._experts(target)
            elif target.kept and target.tie is None:
                self._target(target)
        for group in dict.fromkeys(self._table.tie_group(name) for name, one in self._table.targets.items() if one.tie):
            self._tied(group)
        self._pair_up_attentions()
        self._parameters()
        self._new_ones()
        self._others()
        self._values_inside()
        return self._found

    # ------------------------------------------------------------------ matrices

    def delta(self, slot: Slot, found: str | None = None) -> Delta:
        """What was changed of a slot; ``found``: the tensor of the full model that holds it, if it is another's."""
        program = self._parent.programs.get(slot) or Program(slot, (), origin_of(slot, self._table))
        self._seen.update(run.tensor for run in slot.places)
        full = self._full
        if found is not None and found != slot.tensor:
            full = BaseTensors({**full.tensors, slot.tensor: full.tensors[found]})
        return Delta(program, self._base, full)

    def _is_changed(self, delta: Delta) -> bool:
        changed = delta.is_changed()
        self._progress.advance(delta.elements)
        return changed

    def _target(self, target: Target) -> None:
        slot = slot_of_target(target)
        if any(run.tensor not in self._full.tensors for run in slot.places):
            return  # a head that another one replaces
        delta = self.delta(slot)
        if self._is_changed(delta):
            self._add(target, delta)
        else:
            self._found.unchanged += 1

    def _add(self, target: Target, delta: Delta, *, tied: bool = False) -> None:
        if _takes_a_pair(target):
            self._check_orientation(target)
            self._found.targets.append(ChangedTarget(target, delta, tied))
        else:
            self._found.values.append(_value_of(target, delta, tied=tied))

    def _check_orientation(self, target: Target) -> None:
        """A full model has no factors whose shapes would show it, and PEFT would apply the pair by its own rule."""
        if contradicts_bias(target, self._table) and not self._table.knows_kind(target):
            raise undeclared(target, "its bias fits (in, out) only")
        if self._table.attention_of(target.module) is None:
            check_orientation(target, self._table, flag=False, transposed=self._transposed)

    def _experts(self, target: Target) -> None:
        for fused in target.fused:
            deltas = [(piece, self.delta(slot_of_piece(piece, fused))) for piece in fused.pieces]
            changed = [self._is_changed(delta) for _, delta in deltas]
            if any(changed):
                self._found.experts.append(ChangedExperts(target, fused, tuple(deltas)))
            else:
                self._found.unchanged += 1

    def _tied(self, group: Sequence[str]) -> None:
        """Modules that share a weight: one change where the full model has one for all, else one for each."""
        targets = [self._table.targets[module] for module in group]
        slots = [slot_of_target(target) for target in targets]
        there = [slot.tensor for slot in slots if slot.tensor in self._full.tensors]
        if not there:
            return
        deltas = [self.delta(slot, None if slot.tensor in self._full.tensors else there[0]) for slot in slots]
        changed = [self._is_changed(delta) for delta in deltas]
        self._found.unchanged += changed.count(False)
        if all(changed) and not set(group) & set(self._parent.untied) and self._one_weight(there):
            at = next((n for n, one in enumerate(targets) if one.kind is TargetKind.EMBEDDING), 0)
            self._add(targets[at], deltas[at], tied=True)
            return
        for target, delta, is_changed in zip(targets, deltas, changed, strict=True):
            if is_changed:
                self._add(target, delta)

    def _one_weight(self, names: Sequence[str]) -> bool:
        first = self._full.tensors[names[0]]
        return all(_same(self._full.tensors[name], first) for name in names[1:])

    def _pair_up_attentions(self) -> None:
        """PEFT adapts both projections of a fused attention or none: the other one gets a pair of zeros."""
        there = {one.target.module for one in self._found.targets}
        for target in self._table.targets.values():
            if target.kind is not TargetKind.ATTENTION:
                continue
            out = self._table.targets.get(f"{target.module}.out_proj")
            both = [one for one in (target, out) if one is not None]
            if any(one.module in there for one in both):
                self._found.targets += [
                    ChangedTarget(one, self.delta(slot_of_target(one))) for one in both if one.module not in there
                ]

    # ------------------------------------------------------------------ values

    def _parameters(self) -> None:
        """All other parameters: biases, norms, tables."""
        weights = {f"{one.module}.{one.weight}" for one in self._table.targets.values() if one.kept and not one.fused}
        weights |= {f"{one.module}.{fused.name}" for one in self._table.targets.values() for fused in one.fused}
        for name, held in self._table.parameters.items():
            slot = slot_of_parameter(held)
            if name in weights or any(run.tensor not in self._full.tensors for run in slot.places):
                continue
            if any(self._full.entry(run.tensor).dtype not in FLOATS for run in slot.places):
                continue  # whole numbers: looked at with all other tensors
            delta = self.delta(slot)
            if self._is_changed(delta):
                self._found.values.append(ChangedValue(name, held.shape, delta))
            else:
                self._found.unchanged += 1

    def _new_ones(self) -> None:
        """Tensors that the base lacks: the head of another task."""
        sides = {slot_of_target(one).tensor for one in self._table.targets.values() if one.tie is not None}
        for name, (_, entry) in self._full.tensors.items():
            if name not in self._base.tensors and name not in sides:
                self._found.values.append(ChangedValue(name, entry.shape, None))

    def _others(self) -> None:
        """What the table has no place for must be as the base has it, but the batches that a norm has counted."""
        for name in self._base.tensors:
            if name in self._seen or name not in self._full.tensors or name.rpartition(".")[2] == COUNTER:
                continue
            entry = self._base.entry(name)
            if entry.dtype in FLOATS:
                changed = self._is_changed(self.delta(slot_of_parameter(FileParameter(name, entry.shape))))
            else:
                changed = not _same(self._base.tensors[name], self._full.tensors[name])
            if changed:
                raise InvalidAdapterError(
                    f"The full model changes {name!r}, which the base's files keep in a form that no adapter can "
                    "bring. Publish it without --rank and --max-error.",
                    code="unsupported_layout",
                )

    def _values_inside(self) -> None:
        """PEFT adapts nothing inside a module that it saves whole, so the weights inside are values too."""
        saved = {name.parameter.rpartition(".")[0] for name in self._found.values if not is_called_bias(name.parameter)}
        saved_paths = tuple(f"{module}." for module in saved if module)
        inside = [one for one in self._found.targets if one.target.module.startswith(saved_paths)]
        self._found.targets = [one for one in self._found.targets if one not in inside]
        self._found.values += [_value_of(one.target, one.delta, tied=one.tied) for one in inside]


def _same(one: _Stored, other: _Stored) -> bool:
    """Whether two stored tensors are the same bytes of the same dtype."""
    (source, entry), (other_source, other_entry) = one, other
    size = entry.stop - entry.start
    if (entry.dtype, size) != (other_entry.dtype, other_entry.stop - other_entry.start):
        return False
    steps = [(at, min(at + _STEP, size)) for at in range(0, size, _STEP)]
    return all(
        read_range(source, entry.start + first, entry.start + last)
        == read_range(other_source, other_entry.start + first, other_entry.start + last)
        for first, last in steps
    )


def _value_of(target: Target, delta: Delta, *, tied: bool) -> ChangedValue:
    return ChangedValue(f"{target.module}.{target.weight}", target.shape, delta, tied)


def _takes_a_pair(target: Target) -> bool:
    """Whether PEFT's pair on the module is a change of its weight."""
    if target.kind is TargetKind.CONV:
        told = target.geometry
        points = all(size == 1 for size in target.shape[2:])
        dilation = told.get("dilation", 1)
        steps = [dilation] if isinstance(dilation, int) else dilation
        plain = points or (all(step == 1 for step in steps) and told.get("padding_mode", "zeros") == "zeros")
        return plain and told.get("groups", 1) == 1
    return target.kind not in {TargetKind.UNKNOWN, TargetKind.EXPERTS}
