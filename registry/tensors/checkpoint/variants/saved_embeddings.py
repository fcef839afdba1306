"""Whole embeddings that PEFT saves beside the pairs (``save_embedding_layers``): copies of what was trained on.

As soon as an embedding is targeted, or the vocabulary was resized, the file holds the weights of both embeddings, as
they were before the pairs are added: a proof of the parent, which the caller compares with the parent composed.
"""

from __future__ import annotations

from typing import Final

from registry.files.header import TensorEntry
from registry.files.strict_json import shown
from registry.tensors.checkpoint.adapter import NewValue
from registry.tensors.checkpoint.fit import check_kept, check_shape, find_place, may_be_copied, meant, resolve
from registry.tensors.checkpoint.variants.bias import REPLACED as COPIED_BIAS
from registry.tensors.checkpoint.variants.draft import Draft, refuse_tensor
from registry.tensors.checkpoint.variants.variant import Variant
from registry.tensors.table.targets import Target

WRAPPED: Final = "base_layer.weight"
UNDER_TOKENS: Final = "token_adapter.base_layer.weight"


def fold(draft: Draft) -> None:
    """All copies."""
    for part in (WRAPPED, UNDER_TOKENS):
        for name in list(draft.having(part)):
            entry = draft.take(name, part)
            if entry is not None:
                _keep(draft, name, resolve(name, draft.table), entry)
    for name in list(draft.having(COPIED_BIAS)):
        _keep_bias(draft, name)
    for module in sorted(draft.whole):
        if "weight" in draft.whole[module]:
            _keep_unasked(draft, module)
    for module in sorted(draft.whole):
        if "bias" in draft.whole[module]:
            _keep_unasked_bias(draft, module)


def _keep(draft: Draft, name: str, target: Target, entry: TensorEntry) -> None:
    check_kept(name, target)
    check_shape(entry, target.shape, target.module)
    draft.add_copy(target.module, entry)


def _keep_bias(draft: Draft, name: str) -> None:
    """The bias of an output embedding comes with its weight; it is loaded like a trained one."""
    place = find_place(name, "bias", draft.table)
    entry = draft.parts[name][COPIED_BIAS]
    if place is None or place.parameter.rpartition(".")[0] not in draft.copies:
        refuse_tensor(
            entry,
            'is a trained bias, but bias is "none" in adapter_config.json. Save the adapter again with the '
            "configuration that it was trained with.",
            "unexpected_tensor",
        )
    draft.take(name, COPIED_BIAS)
    check_shape(entry, place.shape, place.parameter)
    draft.add_value(NewValue(entry, place.parameter))


def _keep_unasked(draft: Draft, module: str) -> None:
    target = meant(module, draft.table)
    entry = draft.whole[module]["weight"]
    if target is None or not may_be_copied(target, draft.table):
        refuse_tensor(
            entry,
            f"is a whole weight, but modules_to_save in adapter_config.json does not name {shown(module)}. Save the "
            "adapter again, or remove the tensor.",
            "unexpected_tensor",
        )
    entry = draft.take_whole(module, "weight")
    if _follows_value(draft, target):
        check_shape(entry, target.shape, target.module)
        draft.add_value(NewValue(entry, f"{target.module}.weight"))
    else:
        _keep(draft, module, target, entry)


def _keep_unasked_bias(draft: Draft, module: str) -> None:
    """The bias of an output embedding, saved along with its weight."""
    place = find_place(module, "bias", draft.table)
    if place is not None and place.parameter.rpartition(".")[0] in draft.copies:
        entry = draft.take_whole(module, "bias")
        check_shape(entry, place.shape, place.parameter)
        draft.add_value(NewValue(entry, place.parameter))


def _follows_value(draft: Draft, target: Target) -> bool:
    """Whether it is the other side of an embedding that was trained whole, which PEFT saves along without naming it."""
    if not draft.config.values.get("ensure_weight_tying"):
        return False
    return any(f"{module}.weight" in draft.values for module in draft.table.tie_group(target.module))


VARIANT: Final = Variant("saved embeddings", tails={WRAPPED: WRAPPED, UNDER_TOKENS: UNDER_TOKENS}, fold=fold)
