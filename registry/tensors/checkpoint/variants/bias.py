"""Biases: ``lora_bias`` adds s b to the bias of a module with a pair, ``bias`` replaces biases by trained ones.

With ``bias="lora_only"`` the file has the bias of every adapted module (``X.base_layer.bias``), with ``"all"`` every
parameter of the model that is called ``bias``. PEFT up to 0.20 took every name that has "bias" in it for ``"all"``, and
for ``"lora_only"`` trained the biases but did not find them when it saved.
"""

from __future__ import annotations

from typing import Any, Final

from registry.errors import InvalidAdapterError
from registry.files.header import TensorEntry
from registry.files.strict_json import shown
from registry.tensors.checkpoint.adapter import LoraPair, NewValue, PeftVersion
from registry.tensors.checkpoint.coverage import sure_test
from registry.tensors.checkpoint.field_rules import boolean, fault
from registry.tensors.checkpoint.fit import check_followed, check_shape, find_place
from registry.tensors.checkpoint.variants.draft import Draft, Variant, refuse_tensor
from registry.tensors.table.targets import TargetKind

ADDED: Final = "lora_B.bias"
REPLACED: Final = "base_layer.bias"
_LEAF: Final = "bias"
_UNDER_TOKENS: Final = ".token_adapter"  # around both sides of a tie, also around a head that has a bias
_BY_LEAF: Final = PeftVersion(0, 21, 0)


def bias(field: str, value: Any) -> str:
    """Which biases were trained."""
    if value is None:
        return "none"
    if value in ("none", "all", "lora_only"):
        return str(value)
    raise fault(field, value, "expected none, all or lora_only.")


def fold_biases(draft: Draft) -> None:
    """Biases that are added, then biases that are replaced."""
    if draft.config.values.get("lora_bias"):
        _check_field(draft)
        for module, pair in list(draft.pairs.items()):
            draft.change_pair(module, bias=_added(draft, draft.spelled[module], pair))
    for name in draft.having(ADDED):
        refuse_tensor(
            draft.parts[name][ADDED],
            "is a bias, but lora_bias is not set in adapter_config.json, or the module has no pair: PEFT drops it.",
            "unexpected_tensor",
        )
    which = draft.config.values.get("bias", "none")
    _replace(draft, which)
    if which != "none":
        _check_all_there(draft, which)


def _check_field(draft: Draft) -> None:
    if draft.config.use_dora:
        raise InvalidAdapterError(
            "adapter_config.json sets lora_bias and use_dora; PEFT has no DoRA with a bias. Save the adapter again "
            "with the configuration that it was trained with.",
            code="bad_config",
        )


def _added(draft: Draft, name: str, pair: LoraPair) -> TensorEntry:
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
        check_followed(name, draft.table)
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
            continue  # a copy next to that of an output embedding: handled by saved_embeddings
        entry = draft.take(name, REPLACED)
        if entry is not None:
            _keep(draft, name.replace(".base_layer", "").removesuffix(_UNDER_TOKENS), entry, name)
    if which != "all":
        return
    for module in sorted(draft.whole):
        if draft.is_saved(module):
            continue
        for parameter in sorted(draft.whole[module]):
            if _LEAF in f"{module}.{parameter}":
                entry = draft.take_whole(module, parameter)
                _keep(draft, module.replace(".base_layer", ""), entry, module, parameter)


def _keep(draft: Draft, module: str, entry: TensorEntry, spelled: str, parameter: str = _LEAF) -> None:
    place = find_place(module, parameter, draft.table)
    if place is None:
        check_followed(module, draft.table)
        refuse_tensor(
            entry,
            f"is a bias of {shown(spelled)}, which the base model does not have. Publish it under the base model that "
            "it was trained on.",
            "unknown_target",
        )
    check_shape(entry, place.shape, place.parameter)
    draft.add_value(NewValue(entry, place.parameter), place.tied)


def _check_all_there(draft: Draft, which: str) -> None:
    """Refuse an adapter that lacks trained biases, and report those that PEFT trains but never saves."""
    if which == "lora_only":
        modules = [pair.target.module for pair in draft.pairs.values() if pair.target.kind is not TargetKind.ATTENTION]
        biases = [draft.table.holder(f"{module}.{_LEAF}") for module in modules]
        wanted = [name for name in biases if name in draft.table.parameters]
    else:
        surely = sure_test(draft.config, draft.table, draft.modules)
        wanted = [
            name
            for name in draft.table.parameters
            if _is_trained(name, draft.config.version) and surely(name) and not draft.is_saved(name.rpartition(".")[0])
        ]
    missing = [name for name in wanted if name not in draft.values and name not in draft.constants]
    if missing:
        raise InvalidAdapterError(
            f"adapter_config.json: bias is {shown(which)}, but the adapter has no tensor for {shown(missing[0])}"
            f"{f' and {len(missing) - 1} more' if len(missing) > 1 else ''}{_hint(draft.config.version, which)}. "
            "Save the adapter again.",
            code="incomplete_adapter",
        )


def _is_trained(parameter: str, version: PeftVersion | None) -> bool:
    """Whether PEFT trains and saves a parameter for bias="all"; of an unknown version only what all of them do."""
    if version is not None and version < _BY_LEAF:
        return _LEAF in parameter
    return parameter.endswith(f".{_LEAF}")


def _hint(version: PeftVersion | None, which: str) -> str:
    if which == "lora_only" and (version is None or version < _BY_LEAF):
        return f" (PEFT before {_BY_LEAF} trains these biases and does not save them)"
    return ""


BIASES: Final = Variant(
    "biases",
    fields={"bias": bias, "lora_bias": boolean},
    tails={ADDED: ADDED, REPLACED: REPLACED},
    fold=fold_biases,
)
