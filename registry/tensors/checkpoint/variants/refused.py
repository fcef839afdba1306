"""Adapters of other kinds than LoRA: refused, with the way that leads from each to one that can be kept.

LoRAs that are no change of the base's weights: routed, activated, of other layers, of shared layers.
"""

from __future__ import annotations

from typing import Any, Final

from registry.tensors.checkpoint.field_rules import any_value, fault, nothing
from registry.tensors.checkpoint.variants.draft import Variant

NOT_WEIGHTS: Final = Variant(
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


_DENSE: Final = "merge it with merge_and_unload(), save the model, and publish that with --full."
_ROUTED: Final = "what it does depends on the input, so it has no weight equivalent."
_PROMPT: Final = "it changes the input and no weights, so there is nothing to compose or to merge."
_CONVERTED: Final = (
    "convert it to a LoRA with PEFT's convert_to_lora (peft.convert_to_lora, from 0.19 on) and publish that."
)

WAYS: Final[dict[str, str]] = {
    "ADALORA": "its delta is B diag(E) A alpha / (init_r + 1e-5): save B diag(E) as lora_B of a plain LoRA with the "
    "same scaling.",
    **dict.fromkeys(
        (
            "C3A", "DELORA", "FOURIERFT", "GRALORA", "LOHA", "LOKR", "MISS", "RANDLORA", "SHIRA", "TINYLORA",
            "UNILORA", "VBLORA", "VERA", "WAVEFT",
        ),
        _CONVERTED,
    ),
    **dict.fromkeys(
        (
            "ADAMSS", "BEFT", "BOFT", "BONE", "DEFT", "FROD", "GLORA", "HIRA", "HRA", "IA3", "LN_TUNING", "OFT", "OSF",
            "PEANUT", "PSOFT", "PVERA", "ROAD", "SUPERTUNING",
        ),
        _DENSE,
    ),
    "TRAINABLE_TOKENS": "train the tokens with LoraConfig(trainable_token_indices=..., "
    'target_modules="dummy-target-modules") instead.',
    **dict.fromkeys(("LILY", "POLY", "SHADOW", "XLORA"), _ROUTED),
    **dict.fromkeys(
        (
            "ADAPTION_PROMPT", "CARTRIDGE", "CPT", "MULTITASK_PROMPT_TUNING", "PREFIX_TUNING", "PROMPT_TUNING",
            "P_TUNING",
        ),
        _PROMPT,
    ),
}  # fmt: skip
"""``peft_type`` -> what to do."""


def peft_type(field: str, value: Any) -> str:
    """LORA and nothing else."""
    if value == "LORA":
        return "LORA"
    way = WAYS.get(value, _DENSE) if isinstance(value, str) else "expected 'LORA'."
    raise fault(field, value, f"only LORA adapters are supported: {way}", "unsupported_peft_type")


OTHER_TUNERS: Final = Variant("other tuners", fields={"peft_type": peft_type})
