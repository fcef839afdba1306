"""``modules_to_save``: modules that were trained whole. Their tensors replace those of the base, or are new there.

PEFT wraps every module whose path ends with one of the names, and adds the heads of its task: ``classifier`` and
``score``, or ``qa_outputs``. A head that the base lacks is new, and the configuration names it.
"""

from __future__ import annotations

import re
from typing import Final

from registry.errors import InvalidAdapterError
from registry.tensors.adapter import NewValue, Twin
from registry.tensors.adapter_config import LoraAdapterConfig
from registry.tensors.coverage import saved_names, sure_test
from registry.tensors.field_rules import names
from registry.tensors.fit import Place, check_shape, find_place, unsupported, weight_name
from registry.tensors.header import TensorEntry
from registry.tensors.strict_json import shown
from registry.tensors.targets import TargetTable
from registry.tensors.variants.draft import Draft, refuse_tensor
from registry.tensors.variants.variant import Variant

RAW: Final = "modules_to_save.bias"
ORIGINAL: Final = "original_module.bias"
_COUNTER: Final = "num_batches_tracked"
_NUMBERED: Final = re.compile(r"(?:^|\.)\d+(?:\.|$)")


def saved_root(module: str, config: LoraAdapterConfig) -> str | None:
    """The outermost module on the path to ``module``, itself included, that modules_to_save names; None for none."""
    wanted = saved_names(config)
    if not wanted:
        return None
    at = -1
    while True:
        at = module.find(".", at + 1)
        path = module if at < 0 else module[:at]
        if path.endswith(wanted):
            return path
        if at < 0:
            return None


def is_saved(module: str, config: LoraAdapterConfig) -> bool:
    """Whether a module is, or lies in, one that modules_to_save names."""
    return saved_root(module, config) is not None


def is_counter(module: str, parameter: str, config: LoraAdapterConfig) -> bool:
    """Whether it is the count of batches of a saved batch norm: an integer that only training uses."""
    return parameter == _COUNTER and is_saved(module, config)


def fold(draft: Draft) -> None:
    """The values of all saved modules."""
    roots: dict[str, list[str]] = {}
    for module in sorted(draft.whole):
        root = saved_root(module, draft.config)
        if root is not None:
            roots.setdefault(root, []).append(module)
    _drop_doubles(draft)
    for root, modules in roots.items():
        _check_no_pair(draft, root)
        found = {
            f"{module}.{parameter}": _value(draft, module, parameter)
            for module in modules
            for parameter in sorted(draft.whole[module])
        }
        _check_complete(draft, root, {value.parameter for value in found.values() if value is not None})
    _check_present(draft)


def _value(draft: Draft, module: str, parameter: str) -> NewValue | None:
    entry = draft.take_whole(module, parameter)
    if parameter == _COUNTER:
        return None  # only training counts batches
    place = find_place(module, parameter, draft.table)
    if place is None:
        _check_new(draft, module, entry)
        value = NewValue(entry, f"{module}.{parameter}")
    else:
        _check_kept(module, place)
        check_shape(entry, place.shape, place.parameter)
        value = NewValue(entry, place.parameter)
    draft.add_value(value)
    return value


def _check_kept(module: str, place: Place) -> None:
    if place.fused is not None and not place.fused.pieces:
        raise unsupported(
            module, f"has the parameter {shown(place.parameter)}, which the base's files keep in a form that is not "
            "followed", "Train without that module."
        )  # fmt: skip


def _check_new(draft: Draft, module: str, entry: TensorEntry) -> None:
    """A parameter that the base lacks has to be of a module that it lacks altogether, and of no layer of a stack."""
    root = saved_root(module, draft.config) or module
    if _NUMBERED.search(root) or _parameters_under(root, draft.table):
        refuse_tensor(
            entry,
            f"is a parameter of the module {shown(root)}, which modules_to_save in adapter_config.json names; the base "
            "model has no such parameter. Publish it under the base model that it was trained on.",
            "unknown_target",
        )


def _parameters_under(root: str, table: TargetTable) -> list[str]:
    """Canonical names of all parameters that the base has in a module, as it is spelled there or in a checkpoint."""
    for path in _spellings(root, table):
        lead = path + "."
        found = [name for name in table.parameters if name.startswith(lead)]
        for module, target in table.targets.items():
            if module == path or module.startswith(lead):
                found += [f"{module}.{fused.name}" for fused in target.fused]
                if target.tensor is None and not target.fused:
                    found.append(f"{module}.{weight_name(target)}")
        if found:
            return sorted(set(found))
    return []


def _spellings(path: str, table: TargetTable) -> list[str]:
    if not table.prefix:
        return [path]
    lead = table.prefix + "."
    return [path, path[len(lead) :] if path.startswith(lead) else lead + path]


def _check_complete(draft: Draft, root: str, found: set[str]) -> None:
    missing = [
        name for name in _parameters_under(root, draft.table) if name not in found and not name.endswith(_COUNTER)
    ]
    if missing:
        raise InvalidAdapterError(
            f"The module {shown(root)} was trained whole (modules_to_save), but the adapter has no tensor for its "
            f"parameter {shown(missing[0])}. Save the adapter again.",
            code="incomplete_adapter",
        )


def _check_no_pair(draft: Draft, root: str) -> None:
    for spelled in draft.spelled.values():
        if spelled == root or spelled.startswith(root + "."):
            raise InvalidAdapterError(
                f"The module {shown(spelled)} has a LoRA pair and was trained whole (modules_to_save) in one adapter; "
                "PEFT can't load that. Save the adapter again with one of them.",
                code="bad_config",
            )


def _check_present(draft: Draft) -> None:
    """Refuse an adapter without the tensors of a module of the base that its configuration saves."""
    wanted = saved_names(draft.config)
    if not wanted:
        return
    surely = sure_test(draft.config, draft.table, draft.modules)
    for name in draft.table.parameters:
        module = name.rpartition(".")[0]
        if is_saved(module, draft.config) and name not in draft.values and surely(name) and _COUNTER not in name:
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
            if trained is None or draft.config.values.get("bias") != "all" or not is_saved(module, draft.config):
                refuse_tensor(
                    entry,
                    "is part of a raw state dict with a replaced module. Save the adapter with PEFT's save_pretrained.",
                    "unexpected_tensor",
                )
            draft.take(module, part)
            check_shape(entry, trained.shape, trained.name)
            if part == RAW:
                draft.twins.append(Twin(trained, entry))


VARIANT: Final = Variant(
    "saved modules", fields={"modules_to_save": names}, tails={RAW: RAW, ORIGINAL: ORIGINAL}, fold=fold
)
