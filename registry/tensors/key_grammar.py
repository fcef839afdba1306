"""The names of tensors in a PEFT LoRA checkpoint.

``base_model.model.`` MODULE ``.`` TAIL, where the tail says which part of the adapter of MODULE the tensor is. MODULE
is a path in the runtime module tree, not a name in the base files. Everything else is refused; other dialects are
recognised, so that the message can say how to come to this one.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum
from typing import Final

from registry.errors import InvalidAdapterError
from registry.tensors.strict_json import shown

LEAD: Final = "base_model.model."


class Part(Enum):
    """Which part of a module's adapter a tensor is."""

    A = "lora_A.weight"
    B = "lora_B.weight"
    EMBEDDING_A = "lora_embedding_A"
    EMBEDDING_B = "lora_embedding_B"
    BIAS = "lora_B.bias"
    MAGNITUDE = "lora_magnitude_vector"
    COPY = "base_layer.weight"
    COPY_BIAS = "base_layer.bias"
    TOKENS = "token_adapter.trainable_tokens_delta"
    DIAGONAL = "lora_diag"
    VELORA = "lora_velora_embed"
    MONTECLORA = "lora_monteclora_sampler"
    PARAMETER = "parameter"  # a whole parameter of the module: ParsedKey.parameter names it


@dataclass(frozen=True, slots=True)
class ParsedKey:
    """What a tensor's name says."""

    module: str
    part: Part
    parameter: str = ""


_ONE: Final = {
    part.value: part
    for part in (Part.EMBEDDING_A, Part.EMBEDDING_B, Part.MAGNITUDE, Part.DIAGONAL, Part.VELORA)
}  # fmt: skip
_TWO: Final = {
    **{part.value: part for part in (Part.A, Part.B, Part.BIAS, Part.COPY, Part.COPY_BIAS, Part.TOKENS)},
    "lora_magnitude_vector.weight": Part.MAGNITUDE,
    **{
        f"lora_monteclora_sampler.{name}": Part.MONTECLORA
        for name in ("expert_weights", "expert_weights_prior", "gaussian_var_prior", "std_prior")
    },
}
_SEGMENT: Final = re.compile(r"[^\s.\x00-\x1f\x7f]+(?:\.[^\s.\x00-\x1f\x7f]+)*")
_RAW: Final = re.compile(
    r"(.*\.lora_(?:A|B|embedding_A|embedding_B|magnitude_vector))\.([\w-]+?)((?:\.weight|\.bias)?)"
)
_KOHYA: Final = re.compile(r"lora_(?:unet|te\d?|transformer)_|.*\.(?:lora_down|lora_up|hada_\w+|lokr_\w+|dora_scale)\b")
_DIFFUSERS: Final = re.compile(
    r"(?:unet|transformer|text_encoder(?:_2|_3)?)\.|.*(?:processor|_lora|\.lora)\.(?:up|down)\b"
)


def parse_key(name: str) -> ParsedKey:
    """Read a tensor's name.

    Raises:
        InvalidAdapterError: ``unexpected_tensor``, saying what the name looks like and what to do.
    """
    if not name.startswith(LEAD) or _SEGMENT.fullmatch(name) is None:
        raise _refusal(name)
    path = name[len(LEAD) :]
    before, _, last = path.rpartition(".")
    module, _, second = before.rpartition(".")
    part = _TWO.get(f"{second}.{last}")
    if part is not None and module:
        return ParsedKey(module, part)
    part = _ONE.get(last)
    if part is not None and before:
        return ParsedKey(before, part)
    if not before or "lora_" in path or ".original_module." in path or ".modules_to_save." in path:
        raise _refusal(name)
    return ParsedKey(before, Part.PARAMETER, last)


def _refusal(name: str) -> InvalidAdapterError:
    def unexpected(why: str) -> InvalidAdapterError:
        return InvalidAdapterError(f"Tensor {shown(name)} {why}", code="unexpected_tensor")

    raw = _RAW.fullmatch(name)
    if raw is not None and raw[2] not in ("weight", "bias"):
        return unexpected(
            f"carries the adapter name {raw[2]!r}: this is a raw state dict. Save the adapter with save_pretrained, "
            f"or rename the tensor to {shown(raw[1] + raw[3])}."
        )
    if ".original_module." in name or ".modules_to_save." in name:
        return unexpected(
            "is part of a raw state dict with a replaced module. Save the adapter with PEFT's save_pretrained."
        )
    if _KOHYA.match(name) or _DIFFUSERS.match(name):
        return unexpected(
            "is named as kohya or diffusers name LoRA tensors. Convert the adapter to PEFT's format first."
        )
    if not name.startswith(LEAD):
        return unexpected(f"lacks the prefix {LEAD!r} that PEFT writes. Save the adapter with PEFT's save_pretrained.")
    return unexpected("is not a part of a PEFT LoRA. Remove it, or save the adapter with PEFT's save_pretrained.")
