"""What is trained: a LoraConfig of PEFT or its fields, read by the rules for adapters that are published."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final

from registry.errors import InvalidAdapterError, RegistryError, UsageError
from registry.files.strict_json import shown
from registry.tensors.checkpoint.adapter_config import LoraAdapterConfig
from registry.tensors.checkpoint.field_rules import says_something
from registry.tensors.checkpoint.lora_config import parse_config

_TRAINED: Final = frozenset(
    {"peft_type", "r", "lora_alpha", "use_rslora", "use_dora", "lora_dropout", "init_lora_weights", "fan_in_fan_out"}
    | {"rank_pattern", "alpha_pattern", "target_modules", "exclude_modules", "layers_to_transform", "layers_pattern"}
    | {"modules_to_save", "task_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision"}
    | {"inference_mode", "runtime_config"}
)
"""Fields that are understood here."""
_WITHOUT_EFFECT: Final = frozenset({"megatron_core", "qalora_group_size"})
"""Fields that have a value by default, and mean nothing while others are not set."""


@dataclass(frozen=True)
class Recipe:
    """One sibling, as it is to be trained."""

    path: str
    config: LoraAdapterConfig
    initial: bool | str  # True, False or "gaussian"
    dropout: float


def read_recipe(path: str, given: object) -> Recipe:
    """Read what a sibling was given: a ``peft.LoraConfig``, or the fields of adapter_config.json.

    Raises:
        UsageError: it is neither.
        InvalidAdapterError: a field is unknown, malformed, or of a kind of LoRA that is not trained here.
    """
    document = _document(path, given)
    try:
        config = parse_config(json.dumps(document).encode())
    except RegistryError as problem:
        raise type(problem)(f"{path}: {problem}", code=problem.code) from None
    if config.document.get("bias") not in (None, "none"):
        raise _unsupported(path, "bias", config.document["bias"])
    for name, value in config.document.items():
        if name not in _TRAINED | _WITHOUT_EFFECT | {"bias"} and says_something(value):
            raise _unsupported(path, name, value)
    initial = config.values.get("init_lora_weights", True)
    if initial not in (True, False, "gaussian"):
        raise _unsupported(path, "init_lora_weights", initial)
    if config.target_modules is None:
        raise UsageError(
            f"{path}: target_modules is not set. Name the modules, as the configuration is saved with them."
        )
    dropout = float(config.document.get("lora_dropout") or 0.0)
    if not 0 <= dropout < 1:
        raise UsageError(f"{path}: lora_dropout is {dropout:g}, and a number from 0 to below 1 is expected.")
    return Recipe(path, config, initial, dropout)


def _document(path: str, given: object) -> dict[str, Any]:
    to_dict = getattr(given, "to_dict", None)
    fields = to_dict() if callable(to_dict) else given
    if not isinstance(fields, Mapping):
        raise UsageError(f"{path}: a peft.LoraConfig or a dictionary of its fields is expected, not {shown(given)}.")
    return {"peft_type": "LORA", **{str(name): _plain(value) for name, value in fields.items()}}


def _plain(value: Any) -> Any:
    """A value as JSON has it: sets in order, enums by their values."""
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, set | frozenset):
        return sorted(_plain(item) for item in value)
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


def _unsupported(path: str, field: str, value: object) -> InvalidAdapterError:
    return InvalidAdapterError(
        f"{path}: {field} is {shown(value)}, which siblings are not trained with: LoRA, rsLoRA and DoRA of linear "
        "modules and embeddings are, and whole modules of modules_to_save. Leave it out, or train it with PEFT.",
        code="not_supported_yet",
    )
