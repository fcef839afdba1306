"""Whether the tensors of an adapter fit the modules of its base: names, kinds, oriented shapes.

The expected shape of a factor is known from the base alone: A is (rank, in_features) and B (out_features, rank), in
the orientation that the target table gives. A square matrix that is read the wrong way would fit, so shapes check the
table and never choose between readings.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection
from typing import Final

from registry.errors import InvalidAdapterError
from registry.tensors.header import TensorEntry
from registry.tensors.strict_json import shown
from registry.tensors.targets import Target, TargetKind, TargetTable

_FOLDED: Final = (TargetKind.LINEAR, TargetKind.CONV1D, TargetKind.EMBEDDING)
_NOT_YET: Final = {
    TargetKind.CONV: "a convolution",
    TargetKind.ATTENTION: "a fused attention (nn.MultiheadAttention)",
    TargetKind.EXPERTS: "a group of experts",
    TargetKind.UNKNOWN: "a module of unknown kind",
}
_EMBEDDINGS: Final = ("embed_tokens", "lm_head")  # PEFT's names, for tables that don't know kinds
_COMPARED: Final = 2000  # names that are compared to find the nearest


def resolve(name: str, table: TargetTable) -> Target:
    """The target that a checkpoint's module name means.

    Raises:
        InvalidAdapterError: ``unknown_target``, with the nearest name that the base has.
    """
    target = table.find(name)
    if target is not None:
        return target
    near = _nearest(name, table.targets)
    hint = f"The nearest module is {shown(near)}. " if near else ""
    raise InvalidAdapterError(
        f"The adapter names the module {shown(name)}, which the base model does not have. {hint}"
        "Publish it under the base model that it was trained on.",
        code="unknown_target",
    )


def _nearest(name: str, modules: Collection[str]) -> str | None:
    leaf = name.rpartition(".")[2]
    like = [module for module in modules if module.rpartition(".")[2] == leaf] or list(modules)
    return next(iter(difflib.get_close_matches(name[:200], like[:_COMPARED], n=1, cutoff=0.3)), None)


def as_folded(name: str, target: Target, *, embedding: bool, table: TargetTable) -> Target:
    """The target as the pair reads it; ``embedding`` says that the factors are those of an embedding.

    Raises:
        InvalidAdapterError: ``not_supported_yet`` for kinds and ties that can't be composed, ``shape_mismatch`` for
            factors of another kind of module.
    """
    if target.kind not in _FOLDED:
        raise _not_yet(f"Module {shown(name)} is {_NOT_YET[target.kind]}", "Train on linear modules and embeddings.")
    if target.tie is not None:
        raise _not_yet(
            f"Module {shown(name)} shares its weight with {shown(target.tie)} (tied)",
            "Train without it, or untie the base model first.",
        )
    if target.tensor is None or target.rows is not None:
        raise _not_yet(
            f"The weight of module {shown(name)} is not one tensor of the base's files", "Train without that module."
        )
    if embedding and target.kind is TargetKind.LINEAR and not table.knows_kinds:
        return target.as_embedding()
    if embedding is not (target.kind is TargetKind.EMBEDDING):
        needs = "lora_A.weight" if embedding else "lora_embedding_A"
        raise InvalidAdapterError(
            f"Module {shown(name)} of the base model is of kind {target.kind}, whose pair is named {needs}; the "
            "adapter has the tensors of another kind. Publish it under the base model that it was trained on.",
            code="shape_mismatch",
        )
    return target


def _not_yet(what: str, instead: str) -> InvalidAdapterError:
    return InvalidAdapterError(
        f"{what}: LoRA on it can't be composed by this version yet. {instead}", code="not_supported_yet"
    )


def check_factors(name: str, target: Target, a: TensorEntry, b: TensorEntry) -> int:
    """The rank of a pair whose factors fit the target.

    Raises:
        InvalidAdapterError: ``shape_mismatch`` naming tensor, shape and expectation; ``rank_mismatch`` when A and B
            have different ranks.
    """
    for entry, axis, size, side in ((a, 1, target.in_features, "in"), (b, 0, target.out_features, "out")):
        if len(entry.shape) != 2 or entry.shape[axis] != size:
            expected = f"(rank, {size})" if axis else f"({size}, rank)"
            raise InvalidAdapterError(
                f"Tensor {shown(entry.name)} has shape {entry.shape}, expected {expected}: "
                f"module {shown(target.module)} of the base model ({target.kind}, stored as {target.shape}) has {size} "
                f"{side} features.{_turned_hint(target, a, b)}",
                code="shape_mismatch",
            )
    if a.shape[0] != b.shape[1]:
        raise InvalidAdapterError(
            f"The pair of {shown(name)} has rank {a.shape[0]} in A and {b.shape[1]} in B; they must be equal.",
            code="rank_mismatch",
        )
    return a.shape[0]


def _turned_hint(target: Target, a: TensorEntry, b: TensorEntry) -> str:
    if len(a.shape) == len(b.shape) == 2 and (a.shape[1], b.shape[0]) == (target.out_features, target.in_features):
        return (
            " The factors fit the transposed weight: the net may store it as (in, out), which its name does not tell."
        )
    return ""


def check_copy(entry: TensorEntry, target: Target) -> None:
    """Check the copy of a whole weight that PEFT saved along.

    Raises:
        InvalidAdapterError: ``shape_mismatch``, or ``not_supported_yet`` where there is no tensor to compare it with.
    """
    if entry.shape != target.shape:
        resized = len(entry.shape) == 2 and entry.shape[1:] == target.shape[1:]
        why = (
            "the vocabulary was resized before training. Add the model with the resized vocabulary as a base model."
            if resized
            else "it is not a copy of that weight. Publish it under the base model that it was trained on."
        )
        raise InvalidAdapterError(
            f"Tensor {shown(entry.name)} has shape {entry.shape}, the base's {shown(target.module)} has "
            f"{target.shape}: {why}",
            code="shape_mismatch",
        )
    if target.tensor is None:
        raise InvalidAdapterError(
            f"Tensor {shown(entry.name)} is a copy of a weight that is tied or not one tensor of the base's files: it "
            "can't be checked by this version yet. Save the adapter with save_embedding_layers=False.",
            code="not_supported_yet",
        )


def may_be_copied(target: Target, table: TargetTable) -> bool:
    """Whether PEFT saves ``MODULE.weight`` whole without being told to: input and output embeddings."""
    if target.kind is TargetKind.EMBEDDING or target.module == table.output_module:
        return True
    return not table.knows_kinds and target.module.rpartition(".")[2] in _EMBEDDINGS
