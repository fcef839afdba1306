"""Modules and embeddings that PEFT saves whole: ``modules_to_save``, and ``save_embedding_layers``.

``modules_to_save`` are modules that were trained whole: their tensors replace those of the base, or are new. PEFT wraps
every module whose path ends with one of the names, and adds the heads of its task: ``classifier`` and ``score``, or
``qa_outputs``. A head that the base lacks is new, and the configuration names it.

``save_embedding_layers`` saves whole embeddings with the pairs, as copies of what was trained on. As soon as an
embedding is targeted, or the vocabulary was resized, the file holds the weights of both embeddings, as they were before
the pairs are added: a proof of the parent, which the caller compares with the parent composed.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Container
from typing import Final

from registry.errors import InvalidAdapterError
from registry.files.header import TensorEntry
from registry.files.strict_json import shown
from registry.tensors.checkpoint.adapter import NewValue, Twin
from registry.tensors.checkpoint.coverage import sure_test
from registry.tensors.checkpoint.field_rules import names
from registry.tensors.checkpoint.fit import (
    ParameterPlace,
    check_followed,
    check_kept,
    check_shape,
    find_place,
    may_be_copied,
    meant,
    resolve,
    table_spellings,
    unsupported,
)
from registry.tensors.checkpoint.variants.bias import REPLACED as COPIED_BIAS
from registry.tensors.checkpoint.variants.draft import Draft, Variant, refuse_tensor
from registry.tensors.table.targets import Target, TargetTable

WRAPPED: Final = "base_layer.weight"
UNDER_TOKENS: Final = "token_adapter.base_layer.weight"


def fold_saved_embeddings(draft: Draft) -> None:
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


SAVED_EMBEDDINGS: Final = Variant(
    "saved embeddings", tails={WRAPPED: WRAPPED, UNDER_TOKENS: UNDER_TOKENS}, fold=fold_saved_embeddings
)


RAW: Final = "modules_to_save.bias"
ORIGINAL: Final = "original_module.bias"
COUNTER: Final = "num_batches_tracked"
_NUMBERED: Final = re.compile(r"(?:^|\.)\d+(?:\.|$)")


def fold_saved_modules(draft: Draft) -> None:
    """The values of all saved modules."""
    roots: dict[str, list[str]] = {}
    for module in sorted(draft.whole):
        root = draft.saved.outermost(module)
        if root is not None:
            roots.setdefault(root, []).append(module)
    _drop_doubles(draft)
    below = _below(draft.table) if roots else {}
    _check_no_pair(draft, roots)
    for root, modules in roots.items():
        path = next((one for one in table_spellings(root, draft.table) if one in below), root)
        draft.whole_modules.append(path)
        inside = below.get(path, [])
        found = {
            _fold_parameter(draft, root, inside, module, parameter)
            for module in modules
            for parameter in sorted(draft.whole[module])
        }
        _check_complete(draft.table, root, inside, found)
    _check_present(draft)


def _fold_parameter(draft: Draft, root: str, inside: Collection[str], module: str, parameter: str) -> str:
    """Name of the parameter in the running model."""
    entry = draft.take_whole(module, parameter)
    if parameter == COUNTER:
        return f"{module}.{parameter}"  # only training counts batches
    place = find_place(module, parameter, draft.table)
    if place is None:
        check_followed(module, draft.table)
        _check_new(root, inside, entry)
        value = NewValue(entry, f"{module}.{parameter}")
    else:
        _check_kept(module, place)
        check_shape(entry, place.shape, place.parameter)
        value = NewValue(entry, place.parameter)
    draft.add_value(value, place.tied if place is not None else None)
    return value.parameter


def _check_kept(module: str, place: ParameterPlace) -> None:
    if place.fused is not None and not place.fused.pieces:
        raise unsupported(
            module, f"has the parameter {shown(place.parameter)}, which the base's files store in a form that is not "
                "supported", "Train without that module."
        )  # fmt: skip


def _check_new(root: str, inside: Collection[str], entry: TensorEntry) -> None:
    """A parameter that the base lacks has to be of a module that it lacks altogether, and of no layer of a stack."""
    if inside or _NUMBERED.search(root):
        refuse_tensor(
            entry,
            f"is a parameter of the module {shown(root)}, which modules_to_save in adapter_config.json names; the base "
            "model has no such parameter. Publish it under the base model that it was trained on.",
            "unknown_target",
        )


def _below(table: TargetTable) -> dict[str, list[str]]:
    """Path of a module -> the parameters of the base in it and below it, also those that are tied or of experts."""
    names = {*table.parameters, *(table.ties or ())}
    for module, target in table.targets.items():
        names.update(f"{module}.{fused.name}" for fused in target.fused)
        if target.kept and target.tensor is None and not target.fused:
            names.add(f"{module}.{target.weight}")
    found: dict[str, list[str]] = {}
    for name in sorted(names):
        at = name.find(".")
        while at >= 0:
            found.setdefault(name[:at], []).append(name)
            at = name.find(".", at + 1)
    return found


def _check_complete(table: TargetTable, root: str, inside: Collection[str], found: set[str]) -> None:
    missing = [name for name in inside if table.holder(name) not in found and not name.endswith(COUNTER)]
    if missing:
        raise InvalidAdapterError(
            f"The module {shown(root)} was trained whole (modules_to_save), but the adapter has no tensor for its "
            f"parameter {shown(missing[0])}. Save the adapter again.",
            code="incomplete_adapter",
        )


def _check_no_pair(draft: Draft, roots: Container[str]) -> None:
    for spelled in draft.spelled.values():
        if draft.saved.outermost(spelled) in roots:
            raise InvalidAdapterError(
                f"The module {shown(spelled)} has a LoRA pair and was trained whole (modules_to_save) in one adapter; "
                "PEFT can't load that. Save the adapter again with one of them.",
                code="bad_config",
            )


def _check_present(draft: Draft) -> None:
    """Refuse an adapter without the tensors of a module of the base that its configuration saves."""
    if not draft.saved:
        return
    surely = sure_test(draft.config, draft.table, draft.modules)
    held = {*draft.values, *draft.constants}
    for name in draft.table.parameters:
        module = name.rpartition(".")[0]
        if draft.is_saved(module) and name not in held and surely(name) and COUNTER not in name:
            raise InvalidAdapterError(
                f"adapter_config.json: modules_to_save names {shown(module)}, but the adapter has no tensor for "
                f"{shown(name)}. Save the adapter again.",
                code="incomplete_adapter",
            )


def _drop_doubles(draft: Draft) -> None:
    """With ``bias="all"`` PEFT also writes the biases of its wrapper: the trained one again, and the original."""
    for part in (RAW, ORIGINAL):
        for module in list(draft.having(part)):
            trained = draft.whole.get(module, {}).get("bias")
            entry = draft.parts[module][part]
            if trained is None or draft.config.values.get("bias") != "all" or not draft.is_saved(module):
                refuse_tensor(
                    entry,
                    "is part of a raw state dict with a replaced module. Save the adapter with PEFT's save_pretrained.",
                    "unexpected_tensor",
                )
            draft.take(module, part)
            check_shape(entry, trained.shape, trained.name)
            if part == RAW:
                draft.twins.append(Twin(trained, entry))


SAVED_MODULES: Final = Variant(
    "saved modules", fields={"modules_to_save": names}, tails={RAW: RAW, ORIGINAL: ORIGINAL}, fold=fold_saved_modules
)
