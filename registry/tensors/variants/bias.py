"""Biases: ``lora_bias`` adds s b to the bias of a module with a pair, ``bias`` replaces biases by trained ones.

With ``bias="lora_only"`` the file has the bias of every adapted module (``X.base_layer.bias``), with ``"all"`` every
parameter of the model that is called ``bias``.
"""

from __future__ import annotations

from typing import Any, Final

from registry.errors import InvalidAdapterError
from registry.tensors.adapter import LoraPair, NewValue
from registry.tensors.coverage import sure_test
from registry.tensors.field_rules import boolean, refuse
from registry.tensors.fit import check_shape, find_place
from registry.tensors.strict_json import shown
from registry.tensors.targets import TargetKind
from registry.tensors.variants.draft import Draft, refuse_tensor
from registry.tensors.variants.saved_modules import is_saved
from registry.tensors.variants.variant import Variant

ADDED: Final = "lora_B.bias"
REPLACED: Final = "base_layer.bias"
_LEAF: Final = "bias"


def bias(field: str, value: Any) -> str:
    """Which biases were trained."""
    if value is None:
        return "none"
    if value in ("none", "all", "lora_only"):
        return str(value)
    refuse(field, value, "expected none, all or lora_only.")


def fold(draft: Draft) -> None:
    """Biases that are added, then biases that are replaced."""
    if draft.config.values.get("lora_bias"):
        _check_field(draft)
        for module, pair in list(draft.pairs.items()):
            draft.change_pair(module, bias=_added(draft, draft.spelled[module], pair))
    for name in draft.having(ADDED):
        refuse_tensor(
            draft.parts[name][ADDED],
            "is a bias, but lora_bias is not set in adapter_config.json, or the module has no pair: PEFT would drop it.",
            "unexpected_tensor",
        )
    which = draft.config.values.get("bias", "none")
    _replace(draft, which)
    if which != "none":
        _check_all_there(draft, which)


def _check_field(draft: Draft) -> None:
    if draft.config.use_dora:
        raise InvalidAdapterError(
            "adapter_config.json sets lora_bias and use_dora; PEFT has no DoRA with a bias. Save the adapter again with "
            "the configuration that it was trained with.",
            code="bad_config",
        )


def _added(draft: Draft, name: str, pair: LoraPair) -> Any:
    if pair.fused is not None or pair.parameter or pair.target.kind in (TargetKind.EMBEDDING, TargetKind.ATTENTION):
        raise InvalidAdapterError(
            f"adapter_config.json: lora_bias is true, but {shown(name)} is an embedding, a parameter or an "
            "nn.MultiheadAttention, where PEFT has no such bias or never applies it. Train that module without it.",
            code="not_mergeable",
        )
    entry = draft.take(name, ADDED)
    if entry is None:
        raise InvalidAdapterError(
            f"Module {shown(name)} has no {ADDED}, but lora_bias is true in adapter_config.json: every pair needs one. "
            "Save the adapter again.",
            code="incomplete_pair",
        )
    place = find_place(pair.target.module, _LEAF, draft.table)
    if place is None:
        refuse_tensor(
            entry,
            f"is added to the bias of {shown(name)}, which the base model does not have. Train that module with "
            "lora_bias=False.",
            "not_mergeable",
        )
    check_shape(entry, place.shape, place.parameter)
    return entry


def _replace(draft: Draft, which: str) -> None:
    for name in list(draft.having(REPLACED)):
        if which == "none":
            continue  # a copy beside that of an output embedding: saved_embeddings knows
        entry = draft.take(name, REPLACED)
        if entry is not None:
            _keep(draft, name.replace(".base_layer", ""), entry, name)
    if which != "all":
        return
    for module in sorted(draft.whole):
        if _LEAF in draft.whole[module] and not is_saved(module, draft.config):
            _keep(draft, module.replace(".base_layer", ""), draft.take_whole(module, _LEAF), module)


def _keep(draft: Draft, module: str, entry: Any, spelled: str) -> None:
    place = find_place(module, _LEAF, draft.table)
    if place is None:
        refuse_tensor(
            entry,
            f"is a bias of {shown(spelled)}, which the base model does not have. Publish it under the base model that "
            "it was trained on.",
            "unknown_target",
        )
    check_shape(entry, place.shape, place.parameter)
    draft.add_value(NewValue(entry, place.parameter))


def _check_all_there(draft: Draft, which: str) -> None:
    """Refuse an adapter that lacks trained biases, and tell of those that PEFT trains but never saves."""
    if which == "lora_only":
        modules = [pair.target.module for pair in draft.pairs.values() if pair.target.kind is not TargetKind.ATTENTION]
        wanted = [f"{module}.{_LEAF}" for module in modules if f"{module}.{_LEAF}" in draft.table.parameters]
    else:
        surely = sure_test(draft.config, draft.table, draft.modules)
        saved = draft.config
        wanted = [
            name
            for name in draft.table.parameters
            if name.endswith(f".{_LEAF}") and surely(name) and not is_saved(name.rpartition(".")[0], saved)
        ]
    missing = [name for name in wanted if name not in draft.values]
    if missing:
        raise InvalidAdapterError(
            f"adapter_config.json: bias is {shown(which)}, but the adapter has no tensor for {shown(missing[0])}"
            f"{f' and {len(missing) - 1} more biases' if len(missing) > 1 else ''}. Save the adapter again.",
            code="incomplete_adapter",
        )


VARIANT: Final = Variant(
    "biases",
    fields={"bias": bias, "lora_bias": boolean},
    tails={ADDED: ADDED, REPLACED: REPLACED},
    fold=fold,
)
