"""A PEFT LoRA configuration, read and checked: each field by the rule of the variant that it belongs to."""

from __future__ import annotations

from typing import Any, Final

from registry.errors import InvalidAdapterError
from registry.files.strict_json import MAX_SETTINGS, parse, shown
from registry.tensors.checkpoint.adapter_config import LoraAdapterConfig, PeftVersion
from registry.tensors.checkpoint.field_rules import says_something
from registry.tensors.checkpoint.variants.table import RULES

__all__ = ["FILE", "MAX_BYTES", "REQUIRED", "LoraAdapterConfig", "PeftVersion", "parse_config"]

FILE: Final = "adapter_config.json"
MAX_BYTES: Final = 8 * 1024 * 1024
REQUIRED: Final = ("peft_type", "r", "lora_alpha")


def parse_config(data: bytes) -> LoraAdapterConfig:
    """Read adapter_config.json.

    Raises:
        InvalidAdapterError: the file is not strict JSON, a field is unknown, malformed, or says something that has no
            place here; the code says which.
    """
    document = parse(
        data, what=FILE, limit=MAX_BYTES, error=InvalidAdapterError, code="bad_config", brackets=MAX_SETTINGS
    )
    if not isinstance(document, dict):
        raise InvalidAdapterError(f"{FILE} is not a JSON object.")
    if "peft_type" in document:
        RULES["peft_type"]("peft_type", document["peft_type"])  # other tuners have other fields: this one comes first
    for name in REQUIRED:
        if name not in document:
            raise InvalidAdapterError(f"{FILE} lacks the field {name!r}, which has no default here. Add it.")
    values = {name: rule(name, document[name]) for name, rule in RULES.items() if name in document}
    for name, value in document.items():
        if name not in RULES and says_something(value):
            raise InvalidAdapterError(
                f"{FILE} has the field {shown(name)} ({shown(value)}), which this version does not know: it may "
                "change the meaning of the weights. Remove it if it does not.",
                code="unknown_config_field",
            )
    kept = {name: values[name] for name in LoraAdapterConfig.__dataclass_fields__ if name in values}
    return LoraAdapterConfig(
        document=document, trained_class=_trained_class(document.get("auto_mapping")), values=values, **kept
    )


def _trained_class(auto_mapping: Any) -> str | None:
    found = auto_mapping.get("base_model_class") if isinstance(auto_mapping, dict) else None
    return found if isinstance(found, str) else None
