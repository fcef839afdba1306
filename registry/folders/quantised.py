"""Finds signs in a folder that an adapter was trained on quantised weights, as QLoRA does.

The checkpoint does not record it: `adapter_config.json` has no field for how the base model was loaded. Possible signs
are the model card or another file of the trainer, a `config.json` saved beside them, and the `config.json` of the base
model, if that is a local folder. The base model's name may show it too, but it is kept in the configuration anyway.

Tensors that belong to quantised weights: packed numbers, and what quantisers keep beside them.

A name is a mark as a whole last part only: ``down_blocks`` is a module of every Stable Diffusion UNet, ``layer_scales``
a parameter of many nets, and neither says anything about how numbers are kept. Where a last part alone could be either
(``gate_up_proj_blocks``, ``codes``), the dtype decides: quantisers keep integers there, models train floats.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from registry.files.header import TensorEntry
from registry.folders.scan import README, Folder

_MARKS: Final = re.compile(
    r"(?:^|\.)(?:"
    # bitsandbytes, 4 and 8 bits
    r"absmax|nested_absmax|quant_map|nested_quant_map|quant_state\.[^.]+|SCB|weight_format|"
    # GPTQ and AWQ
    r"qweight|qzeros|g_idx|"
    # fp8, compressed-tensors, ModelOpt, EETQ
    r"weight_scale|weight_scale_2|weight_scales|weight_scale_inv|weight_global_scale|weight_packed|weight_shape|"
    r"weight_zero_point|weight_g_idx|qscale_weight|"
    # HQQ and SINQ, torchao, quanto
    r"W_q|_weight_qdata|weight\._data|weight\._scale"
    r")$"
)
_PACKED: Final = re.compile(
    # any weight; MXFP4 (gpt_oss) and fp8 experts; AQLM; scales as bytes of exponents, and mlx's
    r"(?:^|\.)(?:weight|[^.]+_blocks|[^.]+_scales|[^.]+_scale_inv|codes|scales?)$"
)
_SMALL_FLOATS: Final = ("F4", "F6_", "F8_")
_INTEGERS: Final = ("U8", "I8", "U16", "I16", "U32", "I32")


def is_quantised(entry: TensorEntry) -> bool:
    """Whether a tensor is packed weights, or what a quantiser keeps beside them.

    Integers that are neither, such as a byte mask (GPT-2's ``attn.bias``) and position ids, belong to any model.
    """
    if entry.dtype.startswith(_SMALL_FLOATS) or _MARKS.search(entry.name) is not None:
        return True
    return entry.dtype in _INTEGERS and _PACKED.search(entry.name) is not None


_TRAINERS: Final = (".yaml", ".yml")  # trainer configurations, as axolotl and LLaMA-Factory leave them
_CONFIG: Final = "config.json"
_MOST: Final = 1 << 20  # bytes searched of each file
_SIGNS: Final[tuple[tuple[re.Pattern[str], str], ...]] = (
    (re.compile(r"^[ \t]*[-*]?[ \t]*load_in_4bit[ \t]*:[ \t]*true[ \t]*$", re.IGNORECASE | re.MULTILINE), "4 bits"),
    (re.compile(r"^[ \t]*[-*]?[ \t]*load_in_8bit[ \t]*:[ \t]*true[ \t]*$", re.IGNORECASE | re.MULTILINE), "8 bits"),
    (re.compile(r"^[ \t]*adapter[ \t]*:[ \t]*qlora[ \t]*$", re.IGNORECASE | re.MULTILINE), "QLoRA"),
    (re.compile(r"^[ \t]*quantization_bit[ \t]*:[ \t]*[2-8][ \t]*$", re.IGNORECASE | re.MULTILINE), "quantization_bit"),
    (re.compile(r"quantization config was used during training", re.IGNORECASE), "a quantization config"),
)


def sign_of_quantised(folder: Folder, trained_on: Path | None) -> str | None:
    """A sign that an adapter was trained on quantised weights; None if there is no sign, which proves nothing.

    Args:
        folder: the adapter's folder.
        trained_on: the local folder that ``base_model_name_or_path`` names.
    """
    for name, file in _written(folder):
        text = _read(file).decode("utf-8", errors="replace")
        found = next((what for pattern, what in _SIGNS if pattern.search(text)), None)
        if found is not None:
            return f"{name} says {found}"
    beside = folder.find(_CONFIG)
    if beside is not None and _is_quantised(beside):
        return f"quantization_config in its {_CONFIG}"
    if trained_on is not None and _is_quantised(trained_on / _CONFIG):
        return f"quantization_config in the {_CONFIG} of the folder that it was trained on"
    return None


def _written(folder: Folder) -> Iterator[tuple[str, Path]]:
    """Files that may record how the base model was loaded, with names for messages."""
    for found in folder.files:
        if found.path == README:
            yield README, found.file
        elif "/" not in found.path and found.path.endswith(_TRAINERS):
            plain = found.path.isascii() and len(found.path) <= 100
            yield found.path if plain else "a file of the trainer", found.file


def _is_quantised(config: Path) -> bool:
    try:
        document: Any = json.loads(_read(config))
    except (ValueError, RecursionError):
        return False
    return isinstance(document, dict) and bool(document.get("quantization_config"))


def _read(file: Path) -> bytes:
    """The first bytes of a file; empty if it can't be read, which counts as no sign."""
    try:
        with file.open("rb") as stream:
            return stream.read(_MOST)
    except OSError:
        return b""
