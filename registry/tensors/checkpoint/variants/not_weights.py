"""LoRAs that are no change of the base's weights: routed, activated, of other layers, of shared layers."""

from __future__ import annotations

from typing import Final

from registry.tensors.checkpoint.field_rules import any_value, nothing
from registry.tensors.checkpoint.variants.variant import Variant

VARIANT: Final = Variant(
    "no change of weights",
    fields={
        "layer_replication": nothing(
            "layer_replication",
            "the adapter belongs to an expanded stack of layers that shares the weights of the base. Save the expanded "
            "model, add it as a base model, and train on that.",
        ),
        "alora_invocation_tokens": nothing(
            "not_mergeable",
            "an activated LoRA (aLoRA) works from certain tokens on and has no weight equivalent. Serve it unmerged, "
            "or train a plain LoRA.",
        ),
        "arrow_config": nothing(
            "not_mergeable",
            "Arrow routes between adapters by input and has no weight equivalent. Publish the adapters themselves.",
        ),
        "use_qalora": nothing(
            "not_mergeable", "QA-LoRA belongs to a quantised base and can't be merged. Train a plain LoRA."
        ),
        "qalora_group_size": any_value,
        "enable_lora": nothing(
            "not_mergeable", "fused projections of PEFT before 0.3 are not supported. Train a plain LoRA."
        ),
        "megatron_config": nothing(
            "not_mergeable",
            "a tensor-parallel LoRA (Megatron) belongs to sharded layers that the base's files do not have. Gather the "
            "shards, save the adapter for plain modules, and set the field to null.",
        ),
        "megatron_core": any_value,
    },
)
