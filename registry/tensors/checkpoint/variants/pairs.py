"""The pair A and B, and what comes with it: plain, block-diagonal (BD-LoRA), or with a magnitude (DoRA).

A plain pair is A and B of a linear module, of transformers' Conv1D, or of an embedding (Hu et al. 2021). Oriented (out
x in) the weight changes by s B A; s is alpha / r, or alpha / sqrt(r) with rsLoRA.

In BD-LoRA (PEFT's ``use_bdlora``) one factor of each pair is block-diagonal, and the file keeps its blocks alone. A is
stored as (r, in / n) and means ``block_diag`` of its n chunks along the rows; or B as (out, r / n), likewise. Which of
them follows from names that occur anywhere in the module's path.

In DoRA every oriented row of W + s B A is rescaled to a trained magnitude (Liu et al. 2024, arXiv:2402.09353).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, NoReturn

from registry.errors import InvalidAdapterError
from registry.files.header import TensorEntry
from registry.files.strict_json import shown
from registry.images.normal_form import ColumnMagnitude
from registry.tensors.checkpoint.adapter import LoraAdapterConfig, LoraPair
from registry.tensors.checkpoint.field_rules import (
    Rule,
    boolean,
    count,
    fault,
    layer_numbers,
    module_names,
    names,
    number,
    one_or_more_strings,
    patterns,
    rank,
    says_something,
)
from registry.tensors.checkpoint.fit import as_folded, check_factors, check_orientation, resolve
from registry.tensors.checkpoint.variants.draft import Draft, Variant, refuse_tensor
from registry.tensors.table.declaration import is_square_guess, kept_transposed
from registry.tensors.table.targets import Target, TargetKind

MAGNITUDE: Final = "lora_magnitude_vector"
_KINDS: Final = (TargetKind.LINEAR, TargetKind.CONV1D, TargetKind.CONV, TargetKind.EMBEDDING)


def fold_dora(draft: Draft) -> None:
    """Give every pair its magnitude; `use_dora` and the magnitudes go together."""
    for module, pair in list(draft.pairs.items()):
        name = draft.spelled[module]
        if draft.config.use_dora and (pair.fused is not None or pair.parameter or pair.target.kind not in _KINDS):
            raise InvalidAdapterError(
                f"adapter_config.json: use_dora is true, but {shown(name)} is a parameter or an attention, for which "
                "PEFT has no DoRA. Save the adapter again with the configuration that it was trained with.",
                code="bad_config",
            )
        magnitude = draft.take(name, MAGNITUDE)
        if (magnitude is not None) is not draft.config.use_dora:
            raise _incomplete(draft, name, has=magnitude is not None)
        if magnitude is not None:
            if not isinstance(magnitude, ColumnMagnitude):  # whose shape the normal form has checked
                _check_shape(magnitude, pair.target.out_features)
            draft.change_pair(module, magnitude=magnitude)
    for name in draft.having(MAGNITUDE):
        raise _incomplete(draft, name, has=True)


def _incomplete(draft: Draft, name: str, *, has: bool) -> InvalidAdapterError:
    return InvalidAdapterError(
        f"Module {shown(name)} {'has' if has else 'lacks'} a {MAGNITUDE}, but use_dora is "
        f"{str(draft.config.use_dora).lower()} in adapter_config.json: DoRA needs both, on every pair. Save the "
        "adapter again.",
        code="dora_incomplete",
    )


def _check_shape(entry: TensorEntry, features: int) -> None:
    # (out,), or (1, out, 1...) for a convolution
    if entry.elements != features or max(entry.shape) != features:
        refuse_tensor(
            entry,
            f"has shape {entry.shape}, expected one magnitude for each of the {features} output features. Publish it "
            "under the base model that it was trained on.",
            "shape_mismatch",
        )


DORA: Final = Variant(
    "DoRA",
    fields={"use_dora": boolean},
    tails={MAGNITUDE: MAGNITUDE, f"{MAGNITUDE}.weight": MAGNITUDE},
    fold=fold_dora,
)


_MAX_NAMES: Final = 256


@dataclass(frozen=True)
class BlockDiagonalConfig:
    """PEFT's ``BdLoraConfig``."""

    in_a: tuple[str, ...]
    in_b: tuple[str, ...]
    blocks: int
    strict: bool


def bdlora(field: str, value: Any) -> BlockDiagonalConfig | None:
    """The settings, or null."""
    if not says_something(value):
        return None
    if not isinstance(value, dict):
        raise fault(field, value, "expected a map with target_modules_bd_a, target_modules_bd_b and nblocks.")
    rules: dict[str, Rule] = {
        "target_modules_bd_a": _few_names,
        "target_modules_bd_b": _few_names,
        "nblocks": count,
        "match_strict": boolean,
    }
    for name, item in value.items():
        if name not in rules and says_something(item):
            raise fault(f"{field}.{name}", item, "this version does not know it.", "unknown_config_field")
    read = {name: rule(f"{field}.{name}", value[name]) for name, rule in rules.items() if name in value}
    return BlockDiagonalConfig(
        read.get("target_modules_bd_a", ()),
        read.get("target_modules_bd_b", ()),
        read.get("nblocks", 1),
        read.get("match_strict", True),
    )


def _few_names(field: str, value: Any) -> tuple[str, ...]:
    found = names(field, value)
    if len(found) > _MAX_NAMES:
        raise fault(field, value, f"at most {_MAX_NAMES} names are allowed.")
    return found


def blocks_of(config: LoraAdapterConfig, name: str, target: Target) -> tuple[int, int]:
    """Blocks of A and of B of a module; 1 is a whole matrix.

    Raises:
        InvalidAdapterError: ``bad_config`` where PEFT could not have made the pair.
    """
    settings: BlockDiagonalConfig | None = config.values.get("use_bdlora")
    if settings is None:
        return 1, 1
    in_a, in_b = (any(part in name for part in parts) for parts in (settings.in_a, settings.in_b))
    if in_a and in_b:
        _refuse_blocks(name, "matches both target_modules_bd_a and target_modules_bd_b; it can be only one")
    if not in_a and not in_b:
        if settings.strict:
            _refuse_blocks(name, "matches neither target_modules_bd_a nor target_modules_bd_b, and match_strict is set")
        return 1, 1
    if target.kind is not TargetKind.LINEAR:
        _refuse_blocks(name, f"is of kind {target.kind}; PEFT has block-diagonal factors for linear modules alone")
    return (settings.blocks, 1) if in_a else (1, settings.blocks)


def _refuse_blocks(name: str, why: str) -> NoReturn:
    raise InvalidAdapterError(
        f"adapter_config.json: use_bdlora: the module {shown(name)} {why}. Correct the names.", code="bad_config"
    )


def fold_block_diagonal(draft: Draft) -> None:
    """Refuse the modules that take no block-diagonal factors; `blocks_of` serves those that do."""
    if draft.config.values.get("use_bdlora") is None:
        return
    if draft.config.use_dora:
        raise InvalidAdapterError(
            "adapter_config.json sets use_bdlora and use_dora; PEFT has no DoRA of block-diagonal factors. Set one of "
            "them to null.",
            code="bad_config",
        )
    for name, pair in draft.pairs.items():
        _refuse_blocks(
            draft.spelled[name],
            f"is of kind {pair.target.kind}; PEFT has block-diagonal factors for linear modules alone",
        )


BLOCK_DIAGONAL: Final = Variant("block-diagonal", fields={"use_bdlora": bdlora}, fold=fold_block_diagonal)


A: Final[str] = "lora_A.weight"
B: Final[str] = "lora_B.weight"
EMBEDDING_A: Final[str] = "lora_embedding_A"
EMBEDDING_B: Final[str] = "lora_embedding_B"
PAIRS: Final = ((A, B), (EMBEDDING_A, EMBEDDING_B))


def check_whole(module: str, found: Mapping[str, TensorEntry]) -> None:
    """Refuse half a pair, and two pairs of one module.

    Raises:
        InvalidAdapterError: ``incomplete_pair`` or ``unexpected_tensor``, naming the module.
    """
    for first, second in PAIRS:
        if (first in found) is not (second in found):
            there, missing = (first, second) if first in found else (second, first)
            raise InvalidAdapterError(
                f"Module {shown(module)} has {there} but no {missing}: a pair needs both. Save the adapter again.",
                code="incomplete_pair",
            )
    if A in found and EMBEDDING_A in found:
        raise InvalidAdapterError(
            f"Module {shown(module)} has the pair of a linear module and that of an embedding; only one is allowed.",
            code="unexpected_tensor",
        )


def take_pair(draft: Draft, module: str, parts: tuple[str, str] = (A, B)) -> tuple[TensorEntry, TensorEntry]:
    """Claim both factors of a module; `check_whole` has seen that both exist."""
    a, b = draft.take(module, parts[0]), draft.take(module, parts[1])
    if a is None or b is None:
        raise AssertionError(f"half a pair of {module} has got by")
    return a, b


def fold_pairs(draft: Draft) -> None:
    """The pairs of all modules that no other variant has claimed."""
    flag = bool(draft.config.values.get("fan_in_fan_out"))
    transposed = kept_transposed(draft.table)
    assumed: list[str] = []
    for parts in PAIRS:
        for name in list(draft.having(parts[0])):
            target = as_folded(name, resolve(name, draft.table), embedding=parts[0] == EMBEDDING_A, table=draft.table)
            check_orientation(target, draft.table, flag=flag, transposed=transposed)
            if is_square_guess(target, draft.table):
                assumed.append(name)
            blocks = blocks_of(draft.config, name, target)
            a, b = take_pair(draft, name, parts)
            found = check_factors(name, target, a, b, *blocks)
            alpha, scaling = draft.scaled(name, found, a)
            pair = LoraPair(target.module, target, a, b, found, alpha, scaling, blocks_a=blocks[0], blocks_b=blocks[1])
            draft.add_pair(name, pair)
    if assumed:
        more = f" and {len(assumed) - 1} more modules" if len(assumed) > 1 else ""
        draft.notices.append(
            f"{shown(assumed[0])}{more}: the base's files do not show which way a square weight is stored; (out, in) "
            "is assumed. If the model stores it (in, out), say so in the base folder's registry.json."
        )


PLAIN_PAIRS: Final = Variant(
    "pairs",
    fields={
        "r": rank,
        "lora_alpha": number,
        "use_rslora": boolean,
        "rank_pattern": patterns(rank),
        "alpha_pattern": patterns(number),
        "target_modules": module_names,
        "exclude_modules": module_names,
        "layers_to_transform": layer_numbers,
        "layers_pattern": one_or_more_strings,
    },
    tails={part: part for pair in PAIRS for part in pair},
    fold=fold_pairs,
)
