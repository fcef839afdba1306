"""A PEFT LoRA checkpoint, read and checked against the base model that it belongs to.

From names, dtypes and shapes alone: no weight is read. Each field of the configuration is read by the rule of its
variant, the tensors are sorted by module and part, and each variant of LoRA folds its tensors into the normal form of
`registry.tensors.checkpoint.adapter`, in the order of the table; whatever is left has no place and is refused by name.

PEFT ignores pairs whose modules the configuration does not target when it loads the adapter. They count here, so the
weights would be others than those that PEFT gives. A new adapter that has them is refused when it is published; one
that is in the registry already, or is copied from another registry, is accepted with a notice.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any, Final

from registry.errors import InvalidAdapterError
from registry.files.header import TensorEntry
from registry.files.strict_json import MAX_SETTINGS, parse, shown
from registry.images.adapter_file import FIELD, LoraFile
from registry.images.keys import TUNERS
from registry.images.normal_form import normal_form
from registry.tensors.arithmetic.dtypes import FLOATS, WHOLE_NUMBERS
from registry.tensors.checkpoint.adapter import (
    AddedValue,
    Checkpoint,
    Diagonal,
    LoraAdapterConfig,
    LoraPair,
    NewValue,
)
from registry.tensors.checkpoint.coverage import (
    check_coverage,
    excluded_test,
    is_all_linear,
    is_linear,
    listed,
    name_test,
)
from registry.tensors.checkpoint.field_rules import says_something
from registry.tensors.checkpoint.key_grammar import PARAMETER, parse_key
from registry.tensors.checkpoint.patterns import PatternBudget
from registry.tensors.checkpoint.variants.draft import Draft, Parts
from registry.tensors.checkpoint.variants.pairs import check_whole
from registry.tensors.checkpoint.variants.products import PRODUCTS, SHARED
from registry.tensors.checkpoint.variants.table import RULES, VARIANTS
from registry.tensors.table.targets import TargetKind, TargetTable

FILE: Final = "adapter_config.json"
MAX_BYTES: Final = 8 * 1024 * 1024
REQUIRED: Final = ("peft_type", "r", "lora_alpha")
REQUIRED_OF_PRODUCTS: Final = ("peft_type", "r", "alpha")


def parse_config(data: bytes) -> LoraAdapterConfig:
    """Read adapter_config.json.

    Raises:
        InvalidAdapterError: the file is not strict JSON, a field is unknown, malformed, or has a value that is not
            supported; the code names the case.
    """
    document = parse(
        data, what=FILE, limit=MAX_BYTES, error=InvalidAdapterError, code="bad_config", brackets=MAX_SETTINGS
    )
    if not isinstance(document, dict):
        raise InvalidAdapterError(f"{FILE} is not a JSON object.")
    if "peft_type" in document:
        RULES["peft_type"]("peft_type", document["peft_type"])  # other tuners have other fields: this one comes first
    is_product = document.get("peft_type") in TUNERS
    rules = {name: rule for name, rule in RULES.items() if _is_field(name, is_product=is_product)}
    if is_product and "alpha" not in document:
        raise InvalidAdapterError(
            f"{FILE}: peft_type is {document['peft_type']}, and the field 'alpha' that PEFT writes there is missing. "
            "Save the adapter again with the configuration that it was trained with.",
            code="unsupported_peft_type",
        )
    for name in REQUIRED_OF_PRODUCTS if is_product else REQUIRED:
        if name not in document:
            raise InvalidAdapterError(f"{FILE} lacks the field {name!r}, which has no default here. Add it.")
    values = {name: rule(name, document[name]) for name, rule in rules.items() if name in document}
    for name, value in document.items():
        if name not in rules and says_something(value):
            raise InvalidAdapterError(
                f"{FILE} has the field {shown(name)} ({shown(value)}), which this version does not know: it may "
                "change the meaning of the weights. Remove it if it does not.",
                code="unknown_config_field",
            )
    if is_product:
        values["lora_alpha"] = values.pop("alpha")
    kept = {name: values[name] for name in LoraAdapterConfig.__dataclass_fields__ if name in values}
    return LoraAdapterConfig(
        document=document, trained_class=_trained_class(document.get("auto_mapping")), values=values, **kept
    )


def _is_field(name: str, *, is_product: bool) -> bool:
    """Whether a configuration of a LoRA has a field, or one of a product."""
    return name in SHARED or name in PRODUCTS.fields if is_product else name not in PRODUCTS.fields


def _trained_class(auto_mapping: Any) -> str | None:
    found = auto_mapping.get("base_model_class") if isinstance(auto_mapping, dict) else None
    return found if isinstance(found, str) else None


CODE: Final = "untargeted_pair"


def untargeted_pairs(
    config: LoraAdapterConfig, table: TargetTable, pairs: Mapping[str, LoraPair], budget: PatternBudget
) -> list[str]:
    """Modules with a pair that the configuration does not target, as the checkpoint spells them.

    Args:
        config: the adapter's configuration.
        table: the base's modules.
        pairs: of the modules that ``target_modules`` has to mean, by name in the checkpoint.
        budget: time for the publisher's patterns.
    """
    if config.target_modules is None:
        # with target_parameters that is none; without, it is a list that PEFT keeps for each architecture
        return list(pairs) if config.target_parameters else []
    if not is_all_linear(config):
        test = name_test(config, budget)
        return [name for name in pairs if not test(name)]
    excluded = excluded_test(config, budget)
    return [name for name, pair in pairs.items() if excluded(name) or not _is_linear(config, pair, table)]


def _is_linear(config: LoraAdapterConfig, pair: LoraPair, table: TargetTable) -> bool:
    """Whether "all-linear" means the module of a pair, in the version of transformers that it was trained with.

    Each expert was a linear module of its own before transformers 5.
    """
    return pair.piece is not None or bool(pair.parameter) or is_linear(config, pair.target, table)


def untargeted_notice(names: Iterable[str]) -> str:
    """Notices about an adapter that is accepted all the same."""
    return (
        f"The adapter has tensors for {listed(list(names))}, which its configuration does not target: they are used "
        "here, but PEFT would ignore them."
    )


def refuse_untargeted(config: LoraAdapterConfig, names: Iterable[str]) -> None:
    """Refuse an adapter that has such pairs.

    Raises:
        InvalidAdapterError: ``untargeted_pair``, naming the modules.
    """
    names = list(names)
    if not names:
        return
    fields = ("target_modules", "exclude_modules", "modules_to_save", "layers_to_transform")
    said = [field for field in fields if config.document.get(field)] or ["target_modules"]
    raise InvalidAdapterError(
        f"The adapter has a LoRA pair for {listed(names)}, but adapter_config.json ({', '.join(said)}) does not target "
        f"{'it' if len(names) == 1 else 'them'}, so PEFT would ignore the pair when it loads the adapter. Correct "
        "target_modules if it was trained, or remove the tensors.",
        code=CODE,
    )


def sort_parts(tensors: Mapping[str, TensorEntry], modules: Collection[str] = ()) -> tuple[Parts, Parts]:
    """Sort the tensors and check what needs no base model: names, whole pairs, dtypes, sizes.

    Args:
        tensors: the tensors of the adapter by name.
        modules: names of the base's modules, for the advice on names of other dialects.

    Returns:
        The parts of adapters, and the whole parameters, by module.

    Raises:
        InvalidAdapterError: naming the tensor; the code names the rule.
    """
    parts: Parts = {}
    whole: Parts = {}
    for name, entry in tensors.items():
        key = parse_key(name, modules)
        sort, part = (whole, key.parameter) if key.part == PARAMETER else (parts, key.part)
        found = sort.setdefault(key.module, {})
        if part in found:
            raise _error(entry, f"says the same as {shown(found[part].name)}. Keep one of them.", "unexpected_tensor")
        found[part] = entry
    for module, found in parts.items():
        check_whole(module, found)
    for entry in _all_of(parts):
        _check_dtype(entry, FLOATS)
        if 0 in entry.shape or not entry.shape:
            raise _empty(entry)
    for entry in _all_of(whole):
        _check_dtype(entry, {*FLOATS, *WHOLE_NUMBERS})
        if 0 in entry.shape:
            raise _empty(entry)
    return parts, whole


def _all_of(found: Parts) -> Iterator[TensorEntry]:
    for entries in found.values():
        yield from entries.values()


def _error(entry: TensorEntry, why: str, code: str) -> InvalidAdapterError:
    return InvalidAdapterError(f"Tensor {shown(entry.name)} {why}", code=code)


def _check_dtype(entry: TensorEntry, dtypes: Collection[str]) -> None:
    if entry.dtype not in dtypes:
        raise _error(entry, f"has dtype {entry.dtype}, expected one of {', '.join(FLOATS)}.", "bad_dtype")


def _empty(entry: TensorEntry) -> InvalidAdapterError:
    return _error(
        entry,
        f"has shape {entry.shape} and no matrix in it (DeepSpeed ZeRO-3 leaves such files). Gather the weights and "
        "save the adapter again.",
        "empty_tensor",
    )


NO_PAIRS = "dummy-target-modules"
"""What target_modules is when an adapter has no pairs on purpose (PEFT's ``DUMMY_TARGET_MODULES``)."""


def read_checkpoint(config: LoraAdapterConfig, tensors: Mapping[str, TensorEntry], table: TargetTable) -> Checkpoint:
    """Check an adapter's tensors against its configuration and its base.

    Args:
        config: the adapter's configuration.
        tensors: the tensors of adapter_model.safetensors by name.
        table: the target table of the base model.

    Returns:
        What the adapter does to its base, and notices for people. That `Checkpoint.copies` equal the composed parent,
        and each of `Checkpoint.twins` the other, is for the caller to check, and so is whether an adapter may have
        `Checkpoint.untargeted` pairs.

    Raises:
        InvalidAdapterError: naming the tensor, module or field; the code names the rule.
    """
    file: LoraFile | None = config.values.get(FIELD)
    if file is None:
        draft = Draft(config, table, *sort_parts(tensors, table.targets), [])
    else:
        draft = _of_lora_file(file, config, tensors, table)
    for variant in VARIANTS:
        if variant.fold is not None:
            variant.fold(draft)
    _check_something(draft)
    for variant in VARIANTS:
        if variant.finish is not None:
            variant.finish(draft)
    draft.notices += draft.scales.notices()
    if draft.given is not None:  # the file's own modules are those that it targets
        return draft.checkpoint()
    draft.notices += check_coverage(config, table, draft.adapted, draft.budget)
    asked = {name: pair for name, pair in draft.asked.items() if pair.target.module not in draft.implied}
    untargeted = untargeted_pairs(config, table, asked, draft.budget)
    if untargeted:
        draft.notices.append(untargeted_notice(untargeted))
    return replace(draft.checkpoint(), untargeted=tuple(untargeted))


def _of_lora_file(
    file: LoraFile, config: LoraAdapterConfig, tensors: Mapping[str, TensorEntry], table: TargetTable
) -> Draft:
    held = table.named_parameters.items()
    vectors = {name: parameter.shape for name, parameter in held if len(parameter.shape) == 1}
    normal = normal_form(file, config.lora_alpha, tensors, _shapes(table), vectors, table.components)
    draft = Draft(
        config, table, *sort_parts(normal.tensors), [*normal.notices], given=normal.scales, alphas=normal.alphas
    )
    draft.added = {name: AddedValue(entry, name) for name, entry in normal.added.items()}
    draft.diagonals = {
        module: Diagonal(entry, table.targets[module], by_input)
        for module, (entry, by_input) in normal.diagonals.items()
    }
    for name, entry in normal.replaced.items():
        draft.add_value(NewValue(entry, name))
    return draft


def _shapes(table: TargetTable) -> dict[str, tuple[int, ...]]:
    multiplied = (TargetKind.LINEAR, TargetKind.CONV)
    return {name: target.shape for name, target in table.targets.items() if target.kind in multiplied}


def _check_something(draft: Draft) -> None:
    on_purpose = draft.config.target_modules == NO_PAIRS or draft.given is not None
    if draft.pairs or draft.added or draft.diagonals or (on_purpose and (draft.values or draft.tokens)):
        return
    raise InvalidAdapterError(
        "The adapter contains no LoRA pair, so there is nothing to add to the base. Save the adapter again.",
        code="incomplete_adapter",
    )
