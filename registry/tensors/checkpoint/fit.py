"""Whether an adapter fits its base: names, kinds, oriented shapes, and no weight that loading computes in unknown ways.

The expected shape of a factor is known from the base alone: A is (rank, in_features) and B (out_features, rank), in
the orientation that the target table gives. A square matrix that is read the wrong way would fit, so shapes check the
table and never choose between readings.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

from registry.errors import InvalidAdapterError, RegistryError
from registry.files.header import TensorEntry
from registry.files.strict_json import shown
from registry.tensors.table.declaration import is_square_guess
from registry.tensors.table.parameters import FusedParameter
from registry.tensors.table.targets import Target, TargetKind, TargetTable
from registry.tensors.table.ties import retable_needed, unsaid

_FOLDED: Final = (TargetKind.LINEAR, TargetKind.CONV1D, TargetKind.EMBEDDING)
_EMBEDDINGS: Final = ("embed_tokens", "lm_head")  # PEFT's names, for tables that don't know kinds
_COMPARED: Final = 2000  # names that are compared to find the nearest
ADD_AS_RUNNING: Final = (
    "add as a base model the folder that save_pretrained(..., save_original_format=False) writes, whose tensors are "
    "those of the running model"
)
_RESIZED: Final = (
    "The vocabulary was resized before training: add the model that it was trained on as a base model of its own, and "
    "publish there."
)
_OTHER_BASE: Final = "Publish it under the base model that it was trained on."


def resolve(name: str, table: TargetTable) -> Target:
    """The target that a checkpoint's module name means.

    Raises:
        InvalidAdapterError: ``unknown_target``, with the nearest name that the base has, or with what is made of it.
    """
    target = meant(name, table)
    if target is not None:
        return target
    made = table.made_from(name)
    if made:
        raise InvalidAdapterError(
            f"The adapter uses the name of the module {shown(name)} in the files; transformers makes "
            f"{', '.join(made)} from its weight on loading, so PEFT finds no module of that name. Train on these "
            "modules.",
            code="unknown_target",
        )
    near = _nearest(name, table.targets)
    hint = f"The nearest module is {shown(near)}. " if near else ""
    raise InvalidAdapterError(
        f"The adapter names the module {shown(name)}, which the base model does not have. {hint}{_OTHER_BASE}",
        code="unknown_target",
    )


def meant(name: str, table: TargetTable) -> Target | None:
    """The target of a name of the running model, or of the files where these still have an older one; else None."""
    found = table.find(name)
    if found is not None:
        return found
    held = table.find_file_module(name)
    return held.target if held is not None and held.piece is None else None


def table_spellings(path: str, table: TargetTable) -> tuple[str, ...]:
    """A path as it is, and with the prefix of the base model put before it or taken away."""
    if not table.prefix:
        return (path,)
    lead = table.prefix + "."
    return path, path[len(lead) :] if path.startswith(lead) else lead + path


def _nearest(name: str, modules: Collection[str]) -> str | None:
    leaf = name.rpartition(".")[2]
    like = [module for module in modules if module.rpartition(".")[2] == leaf] or list(modules)
    return next(iter(difflib.get_close_matches(name[:200], like[:_COMPARED], n=1, cutoff=0.3)), None)


@dataclass(frozen=True)
class ParameterPlace:
    """A parameter of the running model."""

    parameter: str  # canonical runtime name: lm_head.weight; of a tied one that of its holder
    shape: tuple[int, ...]
    target: Target | None = None  # of its module
    fused: FusedParameter | None = None
    tied: str | None = None  # the runtime name that was meant, where another parameter holds its value


def find_place(module: str, parameter: str, table: TargetTable) -> ParameterPlace | None:
    """The parameter of the base that a checkpoint means, also where it is tied or one of several experts.

    Raises:
        ConflictError: ``retable_needed``, it is the bias of a head that an old table does not know.
    """
    target = meant(module, table)
    held = table.find_parameter(f"{module}.{parameter}")
    if held is not None:
        names = (f"{path}.{parameter}" for path in table_spellings(module, table))
        return ParameterPlace(
            held[0], held[1].shape, target, tied=next((one for one in names if table.holder(one) != one), None)
        )
    if target is None:
        return None
    if parameter == "bias" and target.module == table.output_module and (other := unsaid(table)) is not None:
        raise retable_needed(f"{target.module!r} has no bias of its own, and not whether {other!r} is its")
    if parameter == target.weight and target.kept:
        return ParameterPlace(f"{target.module}.{parameter}", target.shape, target)
    for fused in target.fused:
        if fused.name == parameter:
            sides = (
                (fused.in_features, fused.out_features) if fused.transposed else (fused.out_features, fused.in_features)
            )
            return ParameterPlace(f"{target.module}.{parameter}", (fused.experts, *sides), target, fused)
    return None


def unsupported(name: str, why: str, instead: str) -> InvalidAdapterError:
    """The error for a module that a LoRA can't be folded into."""
    return InvalidAdapterError(f"Module {shown(name)} {why}. {instead}", code="unsupported_layout")


def as_folded(name: str, target: Target, *, embedding: bool, table: TargetTable) -> Target:
    """The target as the pair reads it; ``embedding``: the factors are those of an embedding.

    Raises:
        InvalidAdapterError: ``unsupported_layout`` for a kind that can't be composed, ``shape_mismatch`` for factors of
            another kind of module.
    """
    if target.kind is TargetKind.EXPERTS:
        raise unsupported(
            name,
            "is a group of experts, and target_parameters in adapter_config.json names none of its parameters",
            "Save the adapter again with the configuration that it was trained with.",
        )
    check_followed(name, table)
    if target.kind not in _FOLDED:
        raise unsupported(
            name,
            "multiplies in a way that is not known from the base model's files and configuration",
            "Train without it, or train it whole (modules_to_save).",
        )
    check_kept(name, target)
    if embedding and table.may_be_embedding(target):
        return target.as_embedding()
    if embedding is not (target.kind is TargetKind.EMBEDDING):
        needs = "lora_A.weight" if embedding else "lora_embedding_A"
        raise InvalidAdapterError(
            f"Module {shown(name)} of the base model is of kind {target.kind}, whose pair is named {needs}; the "
            f"adapter has the tensors of another kind. {_OTHER_BASE}",
            code="shape_mismatch",
        )
    return target


def check_orientation(target: Target, table: TargetTable, *, flag: bool, transposed: str | None) -> None:
    """Refuse a square matrix whose orientation is a guess that something speaks against.

    PEFT's one flag has the value of the module that it visited last, so it shows that the model has modules that are
    stored (in, out), but not which. False shows nothing.

    Args:
        target: the module, as it is read.
        table: of the base model.
        flag: ``fan_in_fan_out`` of the adapter's configuration.
        transposed: another module that is stored so (`registry.tensors.table.declaration.kept_transposed`).

    Raises:
        InvalidAdapterError: ``undeclared_orientation``.
    """
    if is_square_guess(target, table) and flag:
        raise undeclared(target, "fan_in_fan_out is true in adapter_config.json")
    if is_square_guess(target, table) and transposed:
        raise undeclared(target, f"{shown(transposed)} is stored (in, out)")


def undeclared(target: Target, why: str) -> InvalidAdapterError:
    """The error for a matrix that is read as (out, in) by a guess, and what speaks against it."""
    return InvalidAdapterError(
        f"Module {shown(target.module)} of the base model has a weight of shape {target.shape}, and transformers does "
        f"not know the model: whether it is stored (out, in) or (in, out) is not known, and {why}. Declare it in the "
        'base folder\'s registry.json, as {"kind": "linear", "transposed": true} for a Conv1D or with false for an '
        "nn.Linear, and add that folder as a base model of its own.",
        code="undeclared_orientation",
    )


def check_kept(name: str, target: Target) -> None:
    """Refuse a module whose weight the files keep in another form."""
    if not target.kept:
        raise unsupported(
            name,
            "has a weight that is not one tensor of the base's files as the running model holds it",
            "Train without it.",
        )


def check_followed(name: str, table: TargetTable) -> None:
    """Refuse a module whose parameters transformers makes from others on loading, in a way that is not followed."""
    target = meant(name, table)
    if target is not None and _is_made_on_loading(target, table):
        raise _made_on_loading(name, target)


def _is_made_on_loading(target: Target, table: TargetTable) -> bool:
    """Whether the files have the weight in another form, which is not followed, or was not when the base was added."""
    if target.unfollowed:
        return True
    if target.kind is not TargetKind.UNKNOWN or target.kept or not table.knows_kinds:
        return False
    held = table.parameters_of(target.module).values()
    return not any(len(one.shape) > 1 for one in held) and not table.is_parametrized(target.module)


def _made_on_loading(name: str, target: Target) -> RegistryError:
    """The error for a module whose weight transformers makes from other tensors."""
    if target.unfollowed:
        return unsupported(
            name,
            "has a weight that transformers computes from other tensors of the files on loading "
            f"({', '.join(target.unfollowed)}), in a way that is not supported here",
            f"Train without it, or {ADD_AS_RUNNING}.",
        )
    return retable_needed(f"the files hold no weight of {name!r} that can be changed", of="files")


def check_factors(
    name: str, target: Target, a: TensorEntry, b: TensorEntry, blocks_a: int = 1, blocks_b: int = 1
) -> int:
    """The rank of a pair whose factors fit the target; with blocks, a factor is the blocks of a diagonal alone.

    Raises:
        InvalidAdapterError: ``shape_mismatch`` naming tensor, shape and expectation; ``rank_mismatch`` when A and B
            have different ranks.
    """
    for entry, axis, size, side in ((a, 1, target.in_features, "in"), (b, 0, target.out_features, "out")):
        blocks = blocks_a if axis else 1
        if len(entry.shape) != 2 or entry.shape[axis] * blocks != size:
            part = f" in {blocks} blocks" if blocks > 1 else ""
            expected = f"(rank, {size}){part}" if axis else f"({size}, rank)"
            raise InvalidAdapterError(
                f"Tensor {shown(entry.name)} has shape {entry.shape}, expected {expected}: "
                f"module {shown(target.module)} of the base model ({target.kind}, stored as {target.shape}) has {size} "
                f"{side} features.{_turned_hint(target, a, b) or _vocabulary_hint(target, b)}",
                code="shape_mismatch",
            )
    rank = a.shape[0]
    if rank != b.shape[1] * blocks_b:
        raise InvalidAdapterError(
            f"The pair of {shown(name)} has rank {rank} in A and {b.shape[1] * blocks_b} in B; they must be equal.",
            code="rank_mismatch",
        )
    if rank % blocks_a or b.shape[0] % blocks_b:
        raise InvalidAdapterError(
            f"The pair of {shown(name)} has a factor of {rank if blocks_a > 1 else b.shape[0]} rows, which are not "
            f"{max(blocks_a, blocks_b)} blocks of one height (use_bdlora). Save the adapter again.",
            code="shape_mismatch",
        )
    return rank


def _turned_hint(target: Target, a: TensorEntry, b: TensorEntry) -> str:
    if len(a.shape) == len(b.shape) == 2 and (a.shape[1], b.shape[0]) == (target.out_features, target.in_features):
        return (
            " The factors fit the transposed weight: the model may store it as (in, out), which its name does not "
            "show; the base folder's registry.json can declare it."
        )
    return ""


def _vocabulary_hint(target: Target, b: TensorEntry) -> str:
    if target.kind is TargetKind.EMBEDDING and len(b.shape) == 2 and b.shape[0] == target.out_features:
        return f" {_RESIZED}"
    return f" {_OTHER_BASE}"


def check_shape(entry: TensorEntry, shape: tuple[int, ...], name: str) -> None:
    """Check a tensor that takes the place of a whole parameter, or is a copy of one.

    Raises:
        InvalidAdapterError: ``shape_mismatch``.
    """
    if entry.shape == shape:
        return
    resized = len(entry.shape) == 2 and entry.shape[1:] == shape[1:]
    why = (
        "the vocabulary was resized, or the number of labels changed, before training. Add the model as it was trained "
        "as a base model."
        if resized
        else f"it is not a value of that parameter. {_OTHER_BASE}"
    )
    raise InvalidAdapterError(
        f"Tensor {shown(entry.name)} has shape {entry.shape}, the base's {shown(name)} has {shape}: {why}",
        code="shape_mismatch",
    )


def may_be_copied(target: Target, table: TargetTable) -> bool:
    """Whether PEFT saves ``MODULE.weight`` whole without any setting: input and output embeddings."""
    if target.kind is TargetKind.EMBEDDING or target.module == table.output_module:
        return True
    if target.tie is not None and target.tie in table.targets:
        return table.targets[target.tie].kind is TargetKind.EMBEDDING
    return not table.knows_kinds and target.module.rpartition(".")[2] in _EMBEDDINGS
