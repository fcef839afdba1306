"""Adapters of other kinds than LoRA: refused, with the way that leads from each to one that can be kept."""

from __future__ import annotations

from typing import Any, Final

from registry.tensors.checkpoint.field_rules import fault
from registry.tensors.checkpoint.variants.variant import Variant

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


VARIANT: Final = Variant("other tuners", fields={"peft_type": peft_type})
