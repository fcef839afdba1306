"""BD-LoRA: one factor of each pair is block-diagonal, and the file keeps its blocks alone (PEFT's ``use_bdlora``).

A is stored as (r, in / n) and means ``block_diag`` of its n chunks along the rows; or B as (out, r / n), likewise.
Which of them is told by names that occur anywhere in the module's path.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, NoReturn

from registry.errors import InvalidAdapterError
from registry.files.strict_json import shown
from registry.tensors.checkpoint.adapter_config import LoraAdapterConfig
from registry.tensors.checkpoint.field_rules import Rule, boolean, count, fault, names, says_something
from registry.tensors.checkpoint.variants.draft import Draft
from registry.tensors.checkpoint.variants.variant import Variant
from registry.tensors.table.targets import Target, TargetKind

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
        _refuse(name, "matches both target_modules_bd_a and target_modules_bd_b; it can be only one")
    if not in_a and not in_b:
        if settings.strict:
            _refuse(name, "matches neither target_modules_bd_a nor target_modules_bd_b, and match_strict is set")
        return 1, 1
    if target.kind is not TargetKind.LINEAR:
        _refuse(name, f"is of kind {target.kind}; PEFT has block-diagonal factors for linear modules alone")
    return (settings.blocks, 1) if in_a else (1, settings.blocks)


def _refuse(name: str, why: str) -> NoReturn:
    raise InvalidAdapterError(
        f"adapter_config.json: use_bdlora: the module {shown(name)} {why}. Correct the names.", code="bad_config"
    )


def fold(draft: Draft) -> None:
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
        _refuse(
            draft.spelled[name],
            f"is of kind {pair.target.kind}; PEFT has block-diagonal factors for linear modules alone",
        )


VARIANT: Final = Variant("block-diagonal", fields={"use_bdlora": bdlora}, fold=fold)
