"""The tensors of an adapter sorted by module and part, with every part that has no place here refused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from registry.errors import InvalidAdapterError
from registry.tensors.dtypes import FLOATS
from registry.tensors.header import TensorEntry
from registry.tensors.key_grammar import ParsedKey, Part, parse_key
from registry.tensors.lora_config import LoraAdapterConfig
from registry.tensors.strict_json import shown

Parts = dict[str, dict[Part, TensorEntry]]
"""Module as the checkpoint spells it -> part -> tensor."""

PAIRS: Final = ((Part.A, Part.B), (Part.EMBEDDING_A, Part.EMBEDDING_B))

_TRAINING_ONLY: Final = {Part.VELORA: "velora_config", Part.MONTECLORA: "monteclora_config"}
_WITHOUT_PLACE: Final = {
    Part.BIAS: ("unexpected_tensor", "is a bias, but lora_bias is not set in adapter_config.json: PEFT would drop it."),
    Part.COPY_BIAS: ("not_supported_yet", "is the bias of a whole module, which this version can't compose yet."),
    Part.TOKENS: (
        "unexpected_tensor",
        "holds trained token rows, but adapter_config.json sets no trainable_token_indices: their place is unknown.",
    ),
    Part.DIAGONAL: ("base_shifting_init", "belongs to KaSA, which cuts the base weights. Train a plain LoRA instead."),
}


def sort_parts(config: LoraAdapterConfig, tensors: Mapping[str, TensorEntry]) -> tuple[Parts, list[str]]:
    """Sort the tensors and check what needs no base model: names, pairs, magnitudes, dtypes, sizes.

    Returns:
        The parts by module, and notices about tensors that are left out because only training uses them.

    Raises:
        InvalidAdapterError: naming the tensor; the code says which rule it was.
    """
    parts: Parts = {}
    left_out: list[str] = []
    for name, entry in tensors.items():
        key = parse_key(name)
        if _training_only(config, key, entry):
            left_out.append(name)
            continue
        _check_place(key, entry)
        found = parts.setdefault(key.module, {})
        part = Part.COPY if key.part is Part.PARAMETER and Part.COPY in found else key.part
        if part in found or (part is Part.COPY and Part.PARAMETER in found):
            raise _error(entry, "says the same as another tensor of the file. Keep one of them.", "unexpected_tensor")
        found[part] = entry
    for module, found in parts.items():
        _check_pair(config, module, found)
    for entry in tensors.values():
        _check_values(entry)
    if not left_out:
        return parts, []
    return parts, [f"{len(left_out)} tensors that only training uses do not count, such as {shown(left_out[0])}."]


def _error(entry: TensorEntry, why: str, code: str) -> InvalidAdapterError:
    return InvalidAdapterError(f"Tensor {shown(entry.name)} {why}", code=code)


def _training_only(config: LoraAdapterConfig, key: ParsedKey, entry: TensorEntry) -> bool:
    field = _TRAINING_ONLY.get(key.part)
    if field is None:
        return False
    if not config.document.get(field):
        raise _error(entry, f"has no meaning while {field} is not set in adapter_config.json.", "unexpected_tensor")
    return True


def _check_place(key: ParsedKey, entry: TensorEntry) -> None:
    if key.part in _WITHOUT_PLACE:
        code, why = _WITHOUT_PLACE[key.part]
        raise _error(entry, why, code)
    if key.part is Part.PARAMETER and key.parameter != "weight":
        raise _error(
            entry,
            "is a whole parameter, but neither modules_to_save nor bias in adapter_config.json names it.",
            "unexpected_tensor",
        )
    if "base_layer" in key.module.split("."):
        raise _error(
            entry,
            "belongs to experts (target_parameters) or to a fused attention, which this version can't compose yet.",
            "not_supported_yet",
        )


def _check_pair(config: LoraAdapterConfig, module: str, found: Mapping[Part, TensorEntry]) -> None:
    pairs = 0
    for first, second in PAIRS:
        if (first in found) is not (second in found):
            there, missing = (first, second) if first in found else (second, first)
            raise InvalidAdapterError(
                f"Module {shown(module)} has {there.value} but no {missing.value}: half a pair means nothing. "
                "Save the adapter again.",
                code="incomplete_pair",
            )
        pairs += first in found
    if pairs > 1:
        raise InvalidAdapterError(
            f"Module {shown(module)} has the pair of a linear module and that of an embedding; it can be only one.",
            code="unexpected_tensor",
        )
    if (Part.MAGNITUDE in found) is not (config.use_dora and pairs == 1):
        has = "has" if Part.MAGNITUDE in found else "lacks"
        raise InvalidAdapterError(
            f"Module {shown(module)} {has} a lora_magnitude_vector, but use_dora is {str(config.use_dora).lower()} in "
            "adapter_config.json: DoRA needs both, on every pair. Save the adapter again.",
            code="dora_incomplete",
        )


def _check_values(entry: TensorEntry) -> None:
    if entry.dtype not in FLOATS:
        raise _error(entry, f"has dtype {entry.dtype}, expected one of {', '.join(FLOATS)}.", "bad_dtype")
    if 0 in entry.shape or not entry.shape:
        raise _error(
            entry,
            f"has shape {entry.shape} and no matrix in it (DeepSpeed ZeRO-3 leaves such files). Gather the weights and "
            "save the adapter again.",
            "empty_tensor",
        )
