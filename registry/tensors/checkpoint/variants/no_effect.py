"""Fields that say where an adapter comes from and how it was trained, and nothing about its weights."""

from __future__ import annotations

from typing import Final

from registry.tensors.checkpoint.field_rules import any_value, boolean, fraction, text
from registry.tensors.checkpoint.variants.variant import Variant

VARIANT: Final = Variant(
    "without effect",
    fields={
        "base_model_name_or_path": text,
        "revision": text,
        "task_type": text,
        "peft_version": text,
        "fan_in_fan_out": boolean,  # never believed: PEFT writes the value of the module that it visited last
        "lora_dropout": fraction,
        "inference_mode": boolean,
        "auto_mapping": any_value,
        "runtime_config": any_value,
        "merge_weights": any_value,
    },
)
