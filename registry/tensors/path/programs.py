"""From the adapters of a path to one small program for each slot that they change.

Links come root first. A replacement makes everything before it dead, so it is dropped; the last writer wins. Modules
that share a weight have a slot each: where the path does the same to both they stay one weight, else they are untied.

What of the base model each slot is: the weight of a module, a piece of its experts, or another parameter.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from registry.errors import InvalidAdapterError
from registry.files.source import ByteSource
from registry.images.normal_form import ColumnMagnitude
from registry.tensors.checkpoint.adapter import Checkpoint, LoraPair, NewValue
from registry.tensors.checkpoint.factors import Ones, Plain, Turned
from registry.tensors.path.steps import (
    Add,
    BoundPair,
    Neighbour,
    PlacedRun,
    Replace,
    Rescale,
    SetRows,
    Step,
    placed_runs,
)
from registry.tensors.table.parameters import FileParameter, FusedParameter, Piece
from registry.tensors.table.slots import Slot, slot_of_parameter, slot_of_piece, slot_of_target
from registry.tensors.table.targets import Target, TargetKind, TargetTable
from registry.tensors.table.ties import retable_needed


@dataclass(frozen=True)
class BoundLink:
    """One adapter of a path with its open file."""

    checkpoint: Checkpoint
    source: ByteSource
    coefficient: float = 1.0  # what it adds is multiplied by; 0: it does nothing


@dataclass(frozen=True)
class Program:
    """What a path does to one slot, root first; a `Replace` can only be the first step."""

    slot: Slot
    steps: tuple[Step, ...]
    origin: Slot | None  # the base's rows that it starts from; None: the base has none, the first step replaces

    @property
    def replaces(self) -> bool:
        """Whether nothing is left of what it starts from."""
        return bool(self.steps) and isinstance(self.steps[0], Replace)

    def since(self, link: int) -> tuple[Step, ...]:
        """The steps of the links from number ``link`` on."""
        return tuple(step for step in self.steps if step.link >= link)


@dataclass(frozen=True)
class NewTensor:
    """A tensor that the merged model has and the base's files lack."""

    name: str
    shape: tuple[int, ...]
    dtype: str | None  # None: that of the tensor it was tied to
    beside: str | None  # the base tensor whose file it goes into


@dataclass(frozen=True)
class PathPrograms:
    """Everything that a path changes."""

    programs: Mapping[Slot, Program]
    new: Mapping[str, NewTensor] = field(default_factory=dict)
    untied: tuple[str, ...] = ()  # modules that shared one weight and no longer do
    tied: tuple[str, ...] = ()  # changed modules that still share one weight; each has a program, all the same
    followers: Mapping[Slot, Program] = field(
        default_factory=dict
    )  # let go with them: copies of what they were tied to

    def made_of(self, slot: Slot, origin: Slot) -> Program:
        """What becomes of a slot that starts from ``origin``: its own program, or of one it is tied to, or none."""
        own = self.programs.get(slot) or self.followers.get(slot) or self.programs.get(origin)
        return Program(slot, (), origin) if own is None else replace(own, slot=slot)

    def by_tensor(self) -> dict[str, list[Program]]:
        """Programs of each tensor of the merged model, in the order of its rows."""
        return {tensor: [program for _, program in placed] for tensor, placed in self.placed().items()}

    def placed(self) -> dict[str, list[tuple[PlacedRun, Program]]]:
        """The same, with the rows of the tensor that each of them changes."""
        found: dict[str, list[tuple[PlacedRun, Program]]] = {}
        for slot, program in {**self.programs, **self.followers}.items():
            if slot.tensor in self.new or program.origin == slot:
                for place in placed_runs(slot.places):
                    found.setdefault(place.run.tensor, []).append((place, program))
        return {tensor: sorted(places, key=lambda held: held[0].run) for tensor, places in found.items()}


def path_programs(links: Sequence[BoundLink], table: TargetTable) -> PathPrograms:
    """The programs of a path.

    Raises:
        InvalidAdapterError: ``lineage_mismatch`` where two links read one tensor in two ways, ``tied_partial`` where
            modules that share a weight would have to part and can't.
    """
    steps: dict[Slot, list[Step]] = {}
    turned: dict[Slot, bool] = {}
    new: dict[str, NewTensor] = {}
    for number, link in enumerate(links):
        parted = _parted(steps, table)
        for slot, step in _steps_of(number, link, table, new, parted):
            if isinstance(step, Add | Rescale) and turned.setdefault(slot, slot.transposed) is not slot.transposed:
                raise InvalidAdapterError(
                    f"Two adapters of the path read the tensor {slot.tensor!r} in two ways, one as (out, in), the "
                    "other as (in, out); one of them was trained on another model.",
                    code="lineage_mismatch",
                )
            if isinstance(step, Replace):
                _drop(slot, steps, new)
            steps.setdefault(slot, []).append(_with_neighbours(step, slot, steps, table))
    held = _held_by_another(table)
    programs = {}
    for key, found in steps.items():
        slot = replace(key, transposed=turned.get(key, key.transposed))
        programs[slot] = Program(slot, tuple(found), None if slot.tensor in new else _origin(slot, held))
    return _with_ties(programs, new, table)


def _drop(slot: Slot, steps: dict[Slot, list[Step]], new: Mapping[str, NewTensor]) -> None:
    """What a replacement makes dead; a tensor that the base lacks may have had another shape."""
    for other in [one for one in steps if one.tensor == slot.tensor] if slot.tensor in new else [slot]:
        steps.pop(other, None)


def _steps_of(
    number: int, link: BoundLink, table: TargetTable, new: dict[str, NewTensor], parted: frozenset[str]
) -> Iterator[tuple[Slot, Step]]:
    """What one link does: values first, then rows, then products, then magnitudes (PEFT's loader and merge).

    ``parted`` are the tied modules that earlier links parted: what is done to one of them is done to it alone.
    """
    if not link.coefficient:  # adding 0 would still make 0 of -0
        return
    for value in link.checkpoint.values.values():
        yield from _replacements(number, link.source, value, table, new)
    for rows in link.checkpoint.tokens.values():
        tied = rows.tied and rows.target.module not in parted
        for target in _sides(rows.target, table, all_of_them=tied):
            yield slot_of_target(target), SetRows(number, rows.entry, link.source, rows.tokens, tied=tied)
    for pair in link.checkpoint.pairs.values():
        scale = pair.scaling * link.coefficient
        for slot, bound in _bound_pairs(pair, scale, link.source, table):
            yield slot, Add(number, bound, tied=pair.tied)
        if pair.bias is not None:
            held = _bias_of(pair.target, table)
            bias = BoundPair(Ones(pair.bias), Plain(pair.bias), scale, link.source)
            yield slot_of_parameter(held), Add(number, bias)
    for one in link.checkpoint.added.values():
        added = BoundPair(Ones(one.entry), Plain(one.entry), link.coefficient, link.source)
        yield slot_of_parameter(table.parameters[table.holder(one.parameter)]), Add(number, added)
    # last, since the norms of columns may run over several modules
    for pair in link.checkpoint.pairs.values():
        if pair.magnitude is not None:
            by_input = isinstance(pair.magnitude, ColumnMagnitude)
            step = Rescale(number, pair.magnitude, link.source, tied=pair.tied, by_input=by_input)
            yield slot_of_target(pair.target), step
    for diagonal in link.checkpoint.diagonals.values():
        step = Rescale(number, diagonal.entry, link.source, by_input=diagonal.by_input, strength=link.coefficient)
        yield slot_of_target(diagonal.target), step


def _with_neighbours(step: Step, slot: Slot, steps: Mapping[Slot, Sequence[Step]], table: TargetTable) -> Step:
    """A rescaling of columns with the slots of the other modules of a joined one, as they are before it."""
    if not (isinstance(step, Rescale) and isinstance(step.entry, ColumnMagnitude)):
        return step
    beside = []
    for module in step.entry.modules:
        other = slot_of_target(table.targets[module])
        if other != slot:
            mine = (one for one in steps.get(other, ()) if not (isinstance(one, Rescale) and one.link == step.link))
            beside.append(Neighbour(other, tuple(mine), origin_of(other, table)))
    return replace(step, beside=tuple(beside))


def _replacements(
    number: int, source: ByteSource, value: NewValue, table: TargetTable, new: dict[str, NewTensor]
) -> Iterator[tuple[Slot, Step]]:
    entry = value.entry
    module, _, leaf = value.parameter.rpartition(".")
    target = table.targets.get(module)
    if target is not None and leaf == target.weight:
        for side in _sides(target, table, all_of_them=value.tied):
            slot = slot_of_target(side)
            yield slot, Replace(number, entry, source, slot.columns, tied=value.tied)
        return
    fused = next((one for one in target.fused if one.name == leaf), None) if target is not None else None
    if fused is not None:
        yield from _fused_replacements(number, source, value, fused)
        return
    held = table.parameters.get(value.parameter)
    if held is None:
        # a module that the base lacks, such as the head of another task: its runtime name is its name in the files
        new[value.parameter] = NewTensor(value.parameter, entry.shape, entry.dtype, None)
        held = FileParameter(value.parameter, entry.shape)
    slot = slot_of_parameter(held)
    yield slot, Replace(number, entry, source, slot.columns)


def _fused_replacements(
    number: int, source: ByteSource, value: NewValue, fused: FusedParameter
) -> Iterator[tuple[Slot, Step]]:
    for piece in fused.pieces:
        whole = piece.out == (0, fused.out_features)
        if piece.transposed is not fused.transposed or (fused.transposed and not whole):
            raise InvalidAdapterError(
                f"Tensor {value.entry.name!r} replaces a parameter of experts that the base's files keep transposed; "
                "that is not supported. Train a LoRA on it instead.",
                code="unsupported_layout",
            )
        slot = slot_of_piece(piece, fused)
        a_matrix = fused.in_features if fused.transposed else fused.out_features
        first = piece.expert * a_matrix + (0 if fused.transposed else piece.out[0])
        yield slot, Replace(number, value.entry, source, slot.columns, first)


def _bound_pairs(
    pair: LoraPair, scale: float, source: ByteSource, table: TargetTable
) -> Iterator[tuple[Slot, BoundPair]]:
    if pair.fused is None:
        bound = BoundPair(pair.a_matrix, pair.b_matrix, scale, source)
        for side in _sides(pair.target, table, all_of_them=pair.tied):
            # the same numbers, read the other way where the other side keeps the weight transposed
            turned = side.transposed is not pair.target.transposed
            yield slot_of_target(side), BoundPair(Turned(pair.b), Turned(pair.a), scale, source) if turned else bound
        return
    for piece in pair.fused.pieces if pair.piece is None else (pair.piece,):
        a, b = pair.expert_matrices(piece)
        yield slot_of_piece(piece, pair.fused), BoundPair(a, b, scale, source)


def _bias_of(target: Target, table: TargetTable) -> FileParameter:
    name = f"{target.module}.{'in_proj_bias' if target.kind is TargetKind.ATTENTION else 'bias'}"
    return table.parameters[table.holder(name)]


def _sides(target: Target, table: TargetTable, *, all_of_them: bool) -> list[Target]:
    """A module, and on demand all that share its weight."""
    if not all_of_them or target.tie is None:
        return [target]
    return [table.targets[module] for module in table.tie_group(target.module)]


def _with_ties(programs: dict[Slot, Program], new: dict[str, NewTensor], table: TargetTable) -> PathPrograms:
    """Decides which modules stay tied, and gives those that part a tensor each."""
    tied: list[str] = []
    untied: list[str] = []
    for group in _touched_groups(programs, table):
        sides = {module: slot_of_target(table.targets[module]) for module in group}
        stay = _stay_tied([programs[slot].steps if slot in programs else () for slot in sides.values()])
        if table.outdated.intersection(group) and (stay or len(group) > 2):
            raise retable_needed(
                f"{', '.join(map(repr, group))} share one weight, but the base's files hold different ones"
            )
        if stay:
            tied += group
            continue
        _check_may_part(group, table)
        untied += group
        for module, slot in sides.items():
            target = table.targets[module]
            if target.tensor is None:
                holder = table.targets[table.tie_group(module)[0]]
                new[slot.tensor] = NewTensor(slot.tensor, target.shape, None, holder.tensor)
                programs.setdefault(slot, Program(slot, (), origin_of(slot, table)))
    followers = _let_go(programs, new, table) if untied else {}
    return PathPrograms(programs, new, tuple(untied), tuple(tied), followers)


def _let_go(programs: Mapping[Slot, Program], new: dict[str, NewTensor], table: TargetTable) -> dict[Slot, Program]:
    """A tensor for everything else that the flag ties: a model whose config unties its head ties none of it."""
    followers = {}
    changed = {slot.tensor: slot for slot in programs}
    for name, holder in (table.ties or {}).items():
        held = table.parameters[holder] if holder is not None else None
        whole = slot_of_parameter(held) if held is not None else None
        if held is None or whole is None or changed.get(held.tensor, whole) != whole:
            raise InvalidAdapterError(
                f"The path changes weights separately that are tied in the base model, including {name!r}, which the "
                "base's files keep in a form that can't be written separately. Train on all that share the weight "
                "with ensure_weight_tying=True, or on none.",
                code="tied_partial",
            )
        new.setdefault(name, NewTensor(name, held.shape, None, held.tensor))
        if name not in changed:
            like = programs.get(whole, Program(whole, (), whole))
            slot = replace(like.slot, tensor=name)
            followers[slot] = replace(like, slot=slot)
    return followers


def _held_by_another(table: TargetTable) -> dict[str, str]:
    """For tied weights, biases and other parameters that the files lack: the tensor that holds them."""
    found = {
        name: table.parameters[holder].tensor
        for name, holder in (table.ties or {}).items()
        if holder is not None and not table.parameters[holder].runs
    }
    for target in table.targets.values():
        if target.tensor is None and target.tie is not None:
            holder = table.targets[table.tie_group(target.module)[0]]
            found[slot_of_target(target).tensor] = holder.tensor or ""
    return found


def origin_of(slot: Slot, table: TargetTable) -> Slot:
    """The base's rows that a slot starts from: its own, or those of the module that holds its weight."""
    return _origin(slot, _held_by_another(table))


def _origin(slot: Slot, held: Mapping[str, str]) -> Slot:
    return replace(slot, tensor=held.get(slot.tensor, slot.tensor))


def _touched_groups(slots: Container[Slot], table: TargetTable) -> list[tuple[str, ...]]:
    groups = dict.fromkeys(
        table.tie_group(module)
        for module, target in table.targets.items()
        if target.tie is not None and slot_of_target(target) in slots
    )
    return list(groups)


def _parted(steps: Mapping[Slot, Sequence[Step]], table: TargetTable) -> frozenset[str]:
    """Modules whose weights are no longer one after these steps."""
    groups = _touched_groups(steps, table)
    sides = {group: [steps.get(slot_of_target(table.targets[module]), ()) for module in group] for group in groups}
    return frozenset(module for group in groups if not _stay_tied(sides[group]) for module in group)


def _stay_tied(sides: Sequence[Sequence[Step]]) -> bool:
    """Whether every side gets the same from every link."""
    done = [[(type(step), step.link) for step in steps] for steps in sides]
    return all(one == done[0] for one in done) and all(step.tied for steps in sides for step in steps)


def _check_may_part(group: tuple[str, ...], table: TargetTable) -> None:
    """Only the input embedding and the output head of a model can part, and what their flag ties by the table."""
    told = any(f"{module}.weight" in (table.ties or {}) for module in group)
    if len(group) != 2 or not (table.output_module in group or told):
        raise InvalidAdapterError(
            f"The modules {', '.join(map(repr, group))} share one weight in the base model, and the path changes them "
            "separately, or only some of them; no configuration can express that. Train without them.",
            code="tied_partial",
        )


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
    """The owners of a base's slots, where ``links`` show how a module multiplies that the table does not know."""
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
