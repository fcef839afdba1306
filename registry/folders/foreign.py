"""What a folder without PEFT's two files may hold instead, and what to do with it."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from typing import Final

from registry.figures import command

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
    """What the folder holds and what to do, in two sentences; None: it can't be told.

    Args:
        where: the folder, as messages name it.
        names: of the files that are taken.
        left_out: names of the others.
        others: subfolders that hold an adapter.
        head: None where files can't be read yet.
    """
    return (
        _mlx(where, names)
        or _adapters_below(where, others)
        or _model(where, {*names, *left_out})
        or _kohya(where, names, head)
        or _gguf(where, names)
        or (
            None
            if names or left_out
            else f"The folder {where} is empty; one that PEFT's save_pretrained wrote is expected."
        )
    )


def _mlx(where: str, names: Collection[str]) -> str | None:
    if _MLX not in names:
        return None
    return (
        f"{where} was written by mlx-lm: it holds {_MLX}. Write its tensors as PEFT does, MODULE.lora_a transposed as "
        f"{_IN_PEFT} and MODULE.lora_b transposed as lora_B, with r and lora_alpha = scale * rank; or publish what "
        f"mlx_lm.fuse makes of it with {command('registry', 'publish', '--full', 'DIR', 'PATH')}."
    )


def _adapters_below(where: str, others: Sequence[str]) -> str | None:
    if not others:
        return None
    held = "a folder with one" if len(others) == 1 else f"{len(others)} folders with adapters"
    return (
        f"{where} holds no adapter itself, but {held} in it: {' and '.join(others)}. Publish one of them, such as "
        f"{command('registry', 'publish', f'{where}/{others[0]}', 'PATH')}."
    )


def _model(where: str, names: Collection[str]) -> str | None:
    if "config.json" not in names or not any(_MODEL.fullmatch(name) for name in names):
        return None
    full = command("registry", "publish", "--full", where, "PATH")
    add = command("registry", "base", "add", "NAME", where)
    return (
        f"{where} holds a whole model and no adapter. Publish a full fine-tune with {full}, or add a model of its own "
        f"with {add}."
    )


def _kohya(where: str, names: Collection[str], head: Head | None) -> str | None:
    for name in sorted(names):
        if "/" in name or not name.endswith(".safetensors"):
            continue
        if name == _DIFFUSERS or (head is not None and _KOHYA.search(head(name))):
            return (
                f"{where} holds {name}, a LoRA as kohya's scripts and diffusers write them. Rename its tensors as PEFT "
                f"does, lora_down to {_IN_PEFT} and lora_up to lora_B, in one folder for each model that it is of, and "
                "write an adapter_config.json with r, lora_alpha and target_modules."
            )
    return None


def _gguf(where: str, names: Collection[str]) -> str | None:
    for name in sorted(names):
        if name.endswith(".gguf"):
            return f"{where} holds {name}, which is for llama.cpp. Publish the folder of PEFT that it was made from."
    return None
