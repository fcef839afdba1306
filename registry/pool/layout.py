"""Where the tensors of a running model lie in the base's files: each is one slot, or one for each piece of experts.

The base's rows under a running model: held in memory as far as the budget goes, else read from the registry.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import torch
from torch import nn

from registry.errors import IntegrityError, UsageError
from registry.tensors.arithmetic.kernel import round_into
from registry.tensors.path.origins import BaseTensors
from registry.tensors.path.programs import origin_of
from registry.tensors.path.slot_values import MatrixRows
from registry.tensors.table.parameters import FileParameter, FusedParameter, Piece
from registry.tensors.table.slots import Slot, slot_of_parameter, slot_of_piece, slot_of_target
from registry.tensors.table.targets import Target, TargetTable


class OtherModelError(Exception):
    """The model is not that of the table; the text names the difference."""


@dataclass(frozen=True)
class Cut:
    """The part of a fused parameter that is one piece of the files."""

    piece: Piece
    fused: FusedParameter

    def of(self, tensor: torch.Tensor) -> torch.Tensor:
        """The piece as it is stored: a view."""
        oriented = tensor[self.piece.expert].T if self.fused.transposed else tensor[self.piece.expert]
        part = oriented[slice(*self.piece.out)]
        return part.T if self.piece.transposed else part


@dataclass(frozen=True)
class Place:
    """What one slot is in the running model: a whole tensor, or a cut of it."""

    tensor: str  # its name in the model
    slot: Slot
    origin: Slot | None  # the base's rows that it holds; None: the base lacks it, as a new head
    cut: Cut | None = None

    def rows(self, tensor: torch.Tensor, start: int, stop: int) -> torch.Tensor:
        """Rows ``start`` to ``stop`` of the slot in that tensor: a view, whatever its strides."""
        if self.cut is not None:
            return self.cut.of(tensor)[start:stop]
        return tensor[start:stop] if tensor.dim() else tensor.unsqueeze(0)[start:stop]

    def matrix(self, tensor: torch.Tensor, start: int, stop: int) -> torch.Tensor:
        """The same on the CPU as (rows, columns): a copy, unless it lies so already."""
        return self.rows(tensor, start, stop).detach().cpu().reshape(stop - start, self.slot.columns)


@dataclass(frozen=True, eq=False)
class LiveTensor:
    """A parameter or persistent buffer of the model."""

    name: str
    owner: nn.Module
    leaf: str
    first: str  # the first name of the same tensor: its own, unless it is tied
    module: str | None  # the module of the table whose weight it is
    places: tuple[Place, ...]

    def get(self) -> torch.Tensor:
        """The tensor that the model has now."""
        found: torch.Tensor | None = self.owner._parameters.get(self.leaf)
        found = self.owner._buffers.get(self.leaf) if found is None else found
        if found is None:
            raise IntegrityError(f"The model has no tensor {self.name!r} any more.", code="model_changed")
        return found

    def set(self, tensor: torch.Tensor) -> None:
        """Give the model another tensor for it."""
        if isinstance(tensor, nn.Parameter):
            self.owner._parameters[self.leaf] = tensor
        else:
            self.owner._buffers[self.leaf] = tensor


Layout = Mapping[str, LiveTensor]
"""All tensors of a model by name."""


def lay_out(model: nn.Module, table: TargetTable) -> Layout:
    """The tensors of a model, by the table of a base model.

    Raises:
        OtherModelError: the shapes, or the modules, are others.
        UsageError: ``unsupported_model``: the files keep a weight of the model in a form that is not followed.
    """
    found: dict[str, LiveTensor] = {}
    first: dict[int, str] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        if isinstance(tensor, torch.Tensor):
            owner, _, leaf = name.rpartition(".")
            target = table.find(owner)
            module = target.module if target is not None and leaf == target.weight else None
            places = tuple(_places(name, tuple(tensor.shape), target, table))
            one = first.setdefault(id(tensor), name)
            found[name] = LiveTensor(name, model.get_submodule(owner), leaf, one, module, places)
    if not any(place.origin for tensor in found.values() for place in tensor.places):
        raise OtherModelError("none of its tensors is one of the base model")
    _check_whole(model, table, found)
    return found


def _places(name: str, shape: tuple[int, ...], target: Target | None, table: TargetTable) -> Iterator[Place]:
    leaf = name.rpartition(".")[2]
    fused = None if target is None else next((one for one in target.fused if one.name == leaf), None)
    if target is not None and fused is not None:
        inner = (fused.in_features, fused.out_features) if fused.transposed else (fused.out_features, fused.in_features)
        _check_shape(name, shape, (fused.experts, *inner))
        if not fused.pieces:
            raise _not_followed(name)
        for piece in fused.pieces:
            slot = slot_of_piece(piece, fused)
            yield Place(name, slot, slot, Cut(piece, fused))
        return
    if target is not None and leaf == target.weight and not target.fused:
        _check_shape(name, shape, target.shape)
        if not target.kept:
            raise _not_followed(name)
        slot = slot_of_target(target)
        yield Place(name, slot, origin_of(slot, table))
        return
    held = table.find_parameter(name)
    if held is not None:
        _check_shape(name, shape, held[1].shape)
        slot = slot_of_parameter(held[1])
        yield Place(name, slot, slot)
    else:
        yield Place(name, slot_of_parameter(FileParameter(name, shape)), None)


def _check_shape(name: str, found: tuple[int, ...], wanted: tuple[int, ...]) -> None:
    if found != wanted:
        raise OtherModelError(f"{name!r} has the shape {list(found)}, where {list(wanted)} is expected")


def _not_followed(name: str) -> UsageError:
    return UsageError(
        f"The base's files keep {name!r} in a form that is not followed, so it can't be compared with the model's: add "
        "what `save_pretrained(..., save_original_format=False)` writes as a base model, and use that.",
        code="unsupported_model",
    )


def _check_whole(model: nn.Module, table: TargetTable, found: Layout) -> None:
    """What a module of the base has, the model's has too; and stacks of layers hold the same.

    Whole modules may be missing, such as an encoder's output head, and others added, such as a classifier's head.
    """
    modules = dict(model.named_modules())
    for name, module in modules.items():
        for spelled in table.spellings(name):
            for leaf in table.parameters_of(spelled):
                if leaf not in module._parameters and leaf not in module._buffers:
                    raise OtherModelError(f"its module {name!r} has no {leaf!r}")
    for wanted in table.targets:
        names = table.spellings(wanted)
        in_a_stack = any(True for name in names for _ in _stacks(name, modules))
        if in_a_stack and not any(name in modules for name in names):
            raise OtherModelError(f"it has no module {wanted!r}")
    of_base = {stack for one in found.values() if _is_of_base(one) for stack in _stacks(one.name, modules)}
    for one in found.values():
        if not _is_of_base(one) and of_base.intersection(_stacks(one.name, modules)):
            raise OtherModelError(f"the base model has no {one.name!r}")


def _is_of_base(tensor: LiveTensor) -> bool:
    return any(place.origin is not None for place in tensor.places)


def _stacks(name: str, modules: Mapping[str, nn.Module]) -> Iterator[str]:
    """The lists of modules that a name leads through."""
    parts = name.split(".")
    for count in range(1, len(parts)):
        if isinstance(modules.get(".".join(parts[:count])), nn.ModuleList):
            yield ".".join(parts[:count])


@dataclass(frozen=True)
class PristineTensors(BaseTensors):
    """The base's tensors, of which some slots are held on the CPU, in the dtype of the files.

    Held slots are never dropped: paths are switched over all their modules in turn, so dropping the least recent would
    only make the next one read again.

    Args:
        memory: bytes that may be held.
    """

    memory: int = 0
    kept: dict[Slot, torch.Tensor] = field(default_factory=dict)

    @property
    def kept_bytes(self) -> int:
        """Bytes that are held."""
        return sum(rows.nbytes for rows in list(self.kept.values()))

    def rows(self, slot: Slot) -> MatrixRows:
        rows = self.kept.get(slot)
        if rows is None:
            return super().rows(slot)
        held = rows
        return lambda start, stop: held[start:stop]

    def keep(self, slot: Slot, read: Callable[[], torch.Tensor]) -> None:
        """Keep a slot, if it fits; ``read`` gives its rows, a tensor that nobody else changes."""
        size = slot.rows * slot.columns * self.exact_dtype(slot).itemsize
        if slot not in self.kept and self.kept_bytes + size <= self.memory:
            self.kept[slot] = read()


def plain_rows(base: BaseTensors, place: Place, dtype: torch.dtype) -> MatrixRows:
    """The base's rows of a place of the running model, in the dtype of the model."""
    if place.origin is None:
        raise AssertionError("what the base lacks is restored from its own copy")
    read = base.rows(place.origin)

    def cast(start: int, stop: int) -> torch.Tensor:
        stored = read(start, stop)
        if stored.dtype == dtype:
            return stored
        made = torch.empty(stored.shape, dtype=dtype)
        round_into(made, stored)
        return made

    return cast
