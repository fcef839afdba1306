"""What a folder without PEFT's two files may hold instead, and what to do with it: the end of a refusal."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from typing import Final

Head = Callable[[str], bytes]
"""Reads the header of a safetensors file by name."""

_MODEL: Final = re.compile(r"model(-\d+-of-\d+)?\.safetensors|pytorch_model(-\d+-of-\d+)?\.bin")
_MLX: Final = "adapters.safetensors"
_DIFFUSERS: Final = "pytorch_lora_weights.safetensors"
_KOHYA: Final = re.compile(rb'"lora_(unet|te\d?|transformer)_')
_IN_PEFT: Final = "base_model.model.MODULE.lora_A.weight"


def what_it_is(
    where: str, names: Collection[str], left_out: Collection[str], others: Sequence[str], head: Head | None
) -> str | None:
    """A sentence about what the folder holds and what to do; None: it can't be told.

    Args:
        where: the folder, as messages name it.
        names: of the files that are taken.
        left_out: names of the others.
        others: subfolders that hold an adapter.
        head: None where files can't be read yet.
    """
    weights = sorted(name for name in names if "/" not in name and name.endswith(".safetensors"))
    if _MLX in weights:
        return (
            f"{where} was written by mlx-lm: it holds {_MLX}. Write its tensors as PEFT does, MODULE.lora_a transposed "
            f"as {_IN_PEFT} and MODULE.lora_b as lora_B, with r and lora_alpha = scale * rank; or add what mlx_lm.fuse "
            "makes of it as a base model."
        )
    if others:
        return (
            f"{where} holds no adapter itself, but {_counted(others)}: {' and '.join(others)}. Publish one of them, "
            f"such as `registry publish {where}/{others[0]} PATH`."
        )
    if "config.json" in names and any(_MODEL.fullmatch(name) for name in (*names, *left_out)):
        return f"{where} holds a whole model and no adapter. Add it with `registry base add NAME {where}`."
    if kohya := next((name for name in weights if name == _DIFFUSERS or _is_kohya(name, head)), None):
        return (
            f"{where} holds {kohya}, a LoRA as kohya's scripts and diffusers write them. Rename its tensors as PEFT "
            f"does, lora_down to {_IN_PEFT} and lora_up to lora_B, one folder for each model that it is of, and write "
            "an adapter_config.json with r, lora_alpha and target_modules."
        )
    if gguf := next((name for name in sorted(names) if name.endswith(".gguf")), None):
        return f"{where} holds {gguf}, which is for llama.cpp. Publish the folder that PEFT saved, before it was converted."
    if not names and not left_out:
        return f"{where} is empty; a folder written by PEFT's save_pretrained is expected."
    return None


def _counted(others: Sequence[str]) -> str:
    return "a folder with one in it" if len(others) == 1 else f"{len(others)} folders with adapters in them"


def _is_kohya(name: str, head: Head | None) -> bool:
    return head is not None and _KOHYA.search(head(name)) is not None
