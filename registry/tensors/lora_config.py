"""A PEFT LoRA configuration, read and checked."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from registry.errors import InvalidAdapterError
from registry.tensors.lora_rules import RULES, says_something
from registry.tensors.strict_json import parse, shown

FILE: Final = "adapter_config.json"
MAX_BYTES: Final = 8 * 1024 * 1024
REQUIRED: Final = ("peft_type", "r", "lora_alpha")


@dataclass(frozen=True)
class LoraAdapterConfig:
    """What adapter_config.json says about the weights.

    ``document`` is the file as it is, keys in file order: the order of patterns carries meaning.
    """

    document: Mapping[str, Any]
    r: int
    lora_alpha: float
    use_rslora: bool = False
    use_dora: bool = False
    rank_pattern: Mapping[str, int] = field(default_factory=dict)
    alpha_pattern: Mapping[str, float] = field(default_factory=dict)
    target_modules: tuple[str, ...] | str | None = None  # a string is a regular expression or "all-linear"
    exclude_modules: tuple[str, ...] | str | None = None
    layers_to_transform: tuple[int, ...] = ()
    layers_pattern: tuple[str, ...] = ()
    base_model_name_or_path: str | None = None
    revision: str | None = None
    task_type: str | None = None
    peft_version: str | None = None
    trained_class: str | None = None  # class of the model that was trained, where PEFT recorded it

    def scaling(self, rank: int, alpha: float) -> float:
        """Factor of B A for a module: alpha / rank, or alpha / sqrt(rank) with rsLoRA (Kalajdzievski 2023)."""
        return alpha / math.sqrt(rank) if self.use_rslora else alpha / rank


def parse_config(data: bytes) -> LoraAdapterConfig:
    """Read adapter_config.json.

    Raises:
        InvalidAdapterError: the file is not strict JSON, a field is unknown, malformed, or says something that has no
            place here; the code says which.
    """
    document = parse(data, what=FILE, limit=MAX_BYTES, error=InvalidAdapterError, code="bad_config")
    if not isinstance(document, dict):
        raise InvalidAdapterError(f"{FILE} is not a JSON object.")
    for name in REQUIRED:
        if name not in document:
            raise InvalidAdapterError(f"{FILE} lacks the field {name!r}, which has no default here. Add it.")
    values = {name: rule(name, document[name]) for name, rule in RULES.items() if name in document}
    for name, value in document.items():
        if name not in RULES and says_something(value):
            raise InvalidAdapterError(
                f"{FILE} has the field {shown(name)} ({shown(value)}), which this version does not know: it may change "
                "what the weights mean. Remove it if it does not.",
                code="unknown_config_field",
            )
    kept = {name: values[name] for name in LoraAdapterConfig.__dataclass_fields__ if name in values}
    return LoraAdapterConfig(document=document, trained_class=_trained_class(document.get("auto_mapping")), **kept)


def _trained_class(auto_mapping: Any) -> str | None:
    found = auto_mapping.get("base_model_class") if isinstance(auto_mapping, dict) else None
    return found if isinstance(found, str) else None
