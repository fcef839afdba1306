"""Where a checkpoint's modules lie in the base model, and whether their shapes fit there."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from registry.errors import InvalidAdapterError
from registry.tensors.header import TensorEntry
from registry.tensors.key_grammar import Part
from registry.tensors.strict_json import shown
from registry.tensors.targets import Target, TargetKind, TargetTable

_LATER: Final = {
    TargetKind.CONV: "a convolution",
    TargetKind.ATTENTION: "an nn.MultiheadAttention",
    TargetKind.EXPERTS: "a stack of experts",
    TargetKind.UNKNOWN: "a module of unknown kind",
}


@dataclass(frozen=True)
class Modules:
    """The targets of a checkpoint's modules, by the names that the checkpoint gives them."""

    canonical: Mapping[str, str]  # name in the checkpoint -> name in the target table
    targets: Mapping[str, Target]

    def target(self, name: str) -> Target:
        """The target of a module, by its name in the checkpoint."""
        return self.targets[name]


def resolve_modules(parts: Mapping[str, Mapping[Part, TensorEntry]], table: TargetTable) -> Modules:
    """Find every module of a checkpoint in the base.

    Raises:
        InvalidAdapterError: ``unknown_target``; or ``not_supported_yet``, for a kind that can't be composed yet.
    """
    canonical: dict[str, str] = {}
    targets: dict[str, Target] = {}
    taken: dict[str, str] = {}
    for name, found in parts.items():
        target = table.find(name)
        if target is None:
            raise _unknown(name, table)
        if target.module in taken:
            raise InvalidAdapterError(
                f"The adapter names the module {shown(target.module)} twice, as {shown(taken[target.module])} and as "
                f"{shown(name)}; keep one of them.",
                code="unexpected_tensor",
            )
        taken[target.module] = name
        canonical[name] = target.module
        targets[name] = _reading(_supported(target), found, table)
    return Modules(canonical, targets)


def _unknown(name: str, table: TargetTable) -> InvalidAdapterError:
    near = difflib.get_close_matches(name, list(table.targets)[:20_000], n=1, cutoff=0.5)
    hint = f" The nearest is {shown(near[0])}." if near else ""
    return InvalidAdapterError(
        f"The adapter adapts the module {shown(name)}, which the base model does not have.{hint} "
        "Publish it on the base that it was trained on.",
        code="unknown_target",
    )


def _supported(target: Target) -> Target:
    if target.kind in _LATER:
        raise _not_yet(target, f"is {_LATER[target.kind]}, which can't be composed by this version yet")
    if target.tie is not None:
        raise _not_yet(
            target, f"is tied to {shown(target.tie)}; adapters on tied weights can't be composed by this version yet"
        )
    if target.tensor is None or target.rows is not None:
        raise _not_yet(
            target, "shares a tensor of the base files with others, which can't be composed by this version yet"
        )
    return target


def _not_yet(target: Target, why: str) -> InvalidAdapterError:
    return InvalidAdapterError(
        f"Target module {shown(target.module)} {why}. Train without it among target_modules.", code="not_supported_yet"
    )


def _reading(target: Target, found: Iterable[Part], table: TargetTable) -> Target:
    """The target, read as an embedding where only the adapter tells that it is one."""
    if Part.EMBEDDING_A in found and not table.knows_kinds and target.kind is TargetKind.LINEAR:
        return target.as_embedding()
    return target


def fitted(target: Target, a: TensorEntry, b: TensorEntry, *, rank: int, embedding: bool) -> None:
    """Check a pair against its target: A (rank, in_features), B (out_features, rank).

    Raises:
        InvalidAdapterError: ``shape_mismatch`` or ``rank_mismatch``.
    """
    if embedding is not (target.kind is TargetKind.EMBEDDING):
        form = "lora_embedding_A and lora_embedding_B" if not embedding else "lora_A.weight and lora_B.weight"
        raise InvalidAdapterError(
            f"Tensor {shown(a.name)} does not go with {shown(target.module)}, which is "
            f"{'an embedding' if not embedding else 'not an embedding'}; {form} are expected.",
            code="shape_mismatch",
        )
    for entry in (a, b):
        if len(entry.shape) != 2:
            raise InvalidAdapterError(
                f"Tensor {shown(entry.name)} has shape {list(entry.shape)}; two dimensions are expected for "
                f"{shown(target.module)}.",
                code="shape_mismatch",
            )
    for entry, axis in ((a, 0), (b, 1)):
        if entry.shape[axis] != rank:
            raise InvalidAdapterError(
                f"Tensor {shown(entry.name)} has rank {entry.shape[axis]}, but adapter_config.json gives {rank} for "
                f"{shown(target.module)} (r, rank_pattern); both must say the same.",
                code="rank_mismatch",
            )
    for entry, expected, side in (
        (a, (rank, target.in_features), f"the module has {target.in_features} inputs"),
        (b, (target.out_features, rank), f"the module has {target.out_features} outputs"),
    ):
        if entry.shape != expected:
            raise InvalidAdapterError(
                f"Tensor {shown(entry.name)} has shape {list(entry.shape)}, expected {list(expected)}: {side}. "
                "Publish it on the base that it was trained on.",
                code="shape_mismatch",
            )


def check_copy(entry: TensorEntry, target: Target) -> TensorEntry:
    """Check the copy of a whole weight, which PEFT saves beside an adapted embedding.

    Raises:
        InvalidAdapterError: ``shape_mismatch``.
    """
    if entry.shape == target.shape:
        return entry
    resized = len(entry.shape) == 2 and entry.shape[1:] == target.shape[1:]
    why = "the vocabulary was resized, which is not supported" if resized else "it is not this base's weight"
    raise InvalidAdapterError(
        f"Tensor {shown(entry.name)} has shape {list(entry.shape)}, but the base has {list(target.shape)}: {why}. "
        "Train on the base as it is.",
        code="shape_mismatch",
    )
