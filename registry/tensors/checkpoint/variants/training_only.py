"""Variants that change training alone: VeLoRA the backward pass, MonteCLoRA by noise. The plain pair is merged.

Both keep tensors of their own in the file; PEFT's merge and its evaluation do not look at them.
"""

from __future__ import annotations

from typing import Final

from registry.files.strict_json import shown
from registry.tensors.checkpoint.field_rules import any_value
from registry.tensors.checkpoint.variants.draft import Draft, refuse_tensor
from registry.tensors.checkpoint.variants.variant import Variant

VELORA: Final = "lora_velora_embed"
MONTECLORA: Final = "lora_monteclora_sampler"
_SAMPLER: Final = ("expert_weights", "expert_weights_prior", "gaussian_var_prior", "std_prior")
_FIELDS: Final = {
    VELORA: "velora_config",
    **{f"{MONTECLORA}.{name}": "monteclora_config" for name in _SAMPLER},
}


def fold(draft: Draft) -> None:
    """Leave their tensors out, with a notice."""
    left_out: list[str] = []
    for part, field in _FIELDS.items():
        for module in draft.having(part):
            entry = draft.take(module, part)
            if entry is None:
                continue
            if not draft.config.document.get(field):
                refuse_tensor(
                    entry, f"has no meaning while {field} is not set in adapter_config.json.", "unexpected_tensor"
                )
            left_out.append(entry.name)
    if left_out:
        draft.notices.append(
            f"{len(left_out)} tensors that are only used in training are ignored, such as {shown(min(left_out))}."
        )


VARIANT: Final = Variant(
    "training only",
    fields={"velora_config": any_value, "monteclora_config": any_value},
    tails={part: part for part in _FIELDS},
    fold=fold,
)
