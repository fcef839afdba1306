"""Finds signs in a folder that an adapter was trained on quantised weights, as QLoRA does.

The checkpoint does not record it: `adapter_config.json` has no field for how the base model was loaded. Possible signs
are the model card or another file of the trainer, a `config.json` saved with them, and the `config.json` of the base
model, if that is a local folder. The base model's name may show it too. If they describe how, that is read too: type,
block size, double quantisation.

Tensors that belong to quantised weights: packed numbers, and what quantisers store with them.

A name is a mark as a whole last part only: ``down_blocks`` is a module of every Stable Diffusion UNet, ``layer_scales``
a parameter of many nets, and neither shows how numbers are stored. If a last part alone could be either
(``gate_up_proj_blocks``, ``codes``), the dtype decides: quantisers store integers in it, models train floats.

The notice for an adapter that was trained on quantised weights: on the unquantised base it behaves differently.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from registry.files.header import TensorEntry
from registry.folders.scan import README, Folder
from registry.schemas.artifacts import FourBits

_QUANTISED_NAMES: Final = re.compile(
    r"(?:^|[-_./])(?:bnb|[48]-?bits?|int[48]|fp8|nf4|gptq|awq|aqlm|hqq|gguf|exl2|quanto|w[48]a(?:8|16))(?:$|[-_./])"
)
_NOTICE: Final = (
    "The adapter was trained on quantised weights ({}): on the unquantised base it is a slightly different function."
)
_SAID_IN_NOTICE: Final = re.compile(re.escape(_NOTICE).replace(re.escape("{}"), r"([ -~]{1,200})"))


def quantised_notices(trained_on: str | None, sign: str | None) -> tuple[str, ...]:
    """The notice, by the name of what it was trained on or a ``sign`` in the folder (`registry.folders.quantised`)."""
    if trained_on and _QUANTISED_NAMES.search(trained_on.lower().rstrip("/")):
        return (_by_name(trained_on),)
    return (_NOTICE.format(sign),) if sign else ()


def _by_name(trained_on: str) -> str:
    return (
        f"The adapter was trained on {trained_on}, a quantised copy: on the unquantised base it is a slightly "
        "different function."
    )


def sign_in(notices: Iterable[str]) -> str | None:
    """The sign in a revision's notices: for a copy, which has no folder to look into."""
    found = (_SAID_IN_NOTICE.fullmatch(notice) for notice in notices)
    return next((match[1] for match in found if match), None)


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
    """Whether a tensor is packed weights, or what a quantiser stores with them.

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


@dataclass(frozen=True)
class Sign:
    """What shows that an adapter was trained on quantised weights."""

    words: str
    how: FourBits | None = None  # as far as it shows: type, block size and double quantisation


def sign_of_quantised(folder: Folder, trained_on: Path | None, name: str | None = None) -> Sign | None:
    """A sign that an adapter was trained on quantised weights; None if no sign is found, which proves nothing.

    Args:
        folder: the adapter's folder.
        trained_on: the local folder that ``base_model_name_or_path`` names.
        name: its value, if that is no folder.
    """
    for written, file in _written(folder):
        found = sign_in_text(written, _read(file).decode("utf-8", errors="replace"), name)
        if found is not None:
            return found
    beside = folder.find(_CONFIG)
    for config, whose in ((beside, "its"), (trained_on and trained_on / _CONFIG, "the")):
        block = None if config is None else _block(config)
        if block is not None:
            of = "" if whose == "its" else " of the folder that it was trained on"
            return Sign(f"quantization_config in {whose} {_CONFIG}{of}", how_of_block(block))
    return sign_in_name(name)


def sign_in_name(name: str | None) -> Sign | None:
    """The sign in the name of a base model, if the name shows how it was quantised."""
    how = how_of_name(name)
    return None if how is None else Sign("the name of its base model", how)


def sign_in_text(written: str, text: str, name: str | None = None) -> Sign | None:
    """The sign in a model card or a trainer's configuration, which messages call ``written``."""
    what = next((what for pattern, what in _SIGNS if pattern.search(text)), None)
    return None if what is None else Sign(f"{written} says {what}", _how_of_text(text) or how_of_name(name))


_YES: Final = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
_SAID: Final = re.compile(
    r"^[ \t]*[-*]?[ \t]*([a-z0-9_]+)[ \t]*:[ \t]*[\"']?([^\s\"'#]+)", re.IGNORECASE | re.MULTILINE
)
_BITSANDBYTES: Final = ("bnb", "bitsandbytes", "quantizationmethod.bits_and_bytes")
_SKIPPED: Final = re.compile(r"^[ \t]*[-*]?[ \t]*llm_int8_skip_modules[ \t]*:[ \t]*(.{0,8000}?)[ \t]*$", re.MULTILINE)


def _how_of_text(text: str) -> FourBits | None:
    """How weights were quantised by what PEFT's card, axolotl, LLaMA-Factory or TRL write; None: it is unknown.

    axolotl and LLaMA-Factory default to nf4 and double quantisation, TRL to nf4 without it. None too if two lines
    contradict each other.
    """
    said: dict[str, set[str]] = {}
    for key, value in _SAID.findall(text):
        said.setdefault(key.lower(), set()).add(value.lower())

    def one(*keys: str, default: str) -> str | None:
        found = set().union(*(said.get(key, set()) for key in keys))
        return default if not found else found.pop() if len(found) == 1 else None

    by_block = "bnb_4bit_quant_type" in said and "quant_method" in said
    factory = said.get("quantization_bit") == {"4"}
    if not factory and said.get("load_in_4bit") != {"true"} and said.get("adapter") != {"qlora"}:
        return None
    if one("quantization_method", "quant_method", default="bnb") not in _BITSANDBYTES:
        return None
    if not by_block and not factory and not said.keys() & {"base_model", "model_name_or_path"}:
        return None
    trl = not by_block and not factory and "base_model" not in said
    kind = one("bnb_4bit_quant_type", "quantization_type", default="nf4")
    default = "false" if trl or by_block else "true"
    double = one("bnb_4bit_use_double_quant", "use_bnb_nested_quant", "double_quantization", default=default)
    skipped = _SKIPPED.findall(text)
    if len(set(skipped)) > 1:
        return None
    skip = _texts(skipped[0]) if skipped else ()
    return None if skip is None or double not in _YES else _how(kind, _YES[double], skip)


def _texts(written: str) -> tuple[str, ...] | None:
    """A list of texts as Python or JSON writes it, empty for no list; None: it is something else."""
    if written.lower() in ("", "none", "null"):
        return ()
    try:
        found = ast.literal_eval(written)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return None
    return tuple(found) if isinstance(found, list) and all(isinstance(one, str) for one in found) else None


def how_of_block(block: Mapping[str, Any]) -> FourBits | None:
    """How weights were quantised by a ``quantization_config``; None: in another way than bitsandbytes' 4 bits."""
    four = block.get("load_in_4bit", block.get("_load_in_4bit"))
    if block.get("quant_method", "bitsandbytes") != "bitsandbytes" or four is not True:
        return None
    skip = block.get("llm_int8_skip_modules") or []
    if not isinstance(skip, list) or not all(isinstance(one, str) for one in skip):
        return None
    double = block.get("bnb_4bit_use_double_quant", False)
    return _how(block.get("bnb_4bit_quant_type", "fp4"), double, tuple(skip)) if isinstance(double, bool) else None


_DYNAMIC: Final = "-unsloth-bnb-4bit"
"""Ends the names of copies that have some of their linear modules in 16 bits; only the files show which."""


def how_of_name(name: str | None) -> FourBits | None:
    """How the weights of a repository are quantised by its name, if that shows it: Unsloth's have one way."""
    if name is None:
        return None
    plain = name.lower().rstrip("/")
    told = plain.startswith("unsloth/") and plain.endswith("-bnb-4bit") and not plain.endswith(_DYNAMIC)
    return FourBits(type="nf4", double=True) if told else None


def _how(kind: object, double: bool, skip: tuple[str, ...]) -> FourBits | None:
    try:
        return FourBits.model_validate({"type": kind, "double": double, "skip": tuple(sorted(set(skip)))})
    except ValidationError:
        return None


def _written(folder: Folder) -> Iterator[tuple[str, Path]]:
    """Files that may record how the base model was loaded, with names for messages."""
    for found in folder.files:
        if found.path == README:
            yield README, found.file
        elif "/" not in found.path and found.path.endswith(_TRAINERS):
            plain = found.path.isascii() and len(found.path) <= 100
            yield found.path if plain else "a file of the trainer", found.file


def _block(config: Path) -> Mapping[str, Any] | None:
    try:
        document: Any = json.loads(_read(config))
    except (ValueError, RecursionError):
        return None
    found = document.get("quantization_config") if isinstance(document, dict) else None
    return None if not found else found if isinstance(found, dict) else {"quant_method": None}


def _read(file: Path) -> bytes:
    """The first bytes of a file; empty if it can't be read, which counts as no sign."""
    try:
        with file.open("rb") as stream:
            return stream.read(_MOST)
    except OSError:
        return b""
