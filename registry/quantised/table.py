"""Which reader understands a checkpoint: what marks it as quantised, which marks conflict, what is refused.

The block that marks it is the configuration's ``quantization_config``, that of a model in it (``text_config``), the old
``compression_config``, or ModelOpt's ``hf_quant_config.json``. It gives the format; the tensors show what is quantised
(docs/quantised.md).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from registry.errors import InvalidBaseError
from registry.files.header import TensorEntry
from registry.files.strict_json import shown
from registry.folders.quantised import is_quantised
from registry.quantised import bitsandbytes, compressed_tensors, fp8, modelopt, mxfp4
from registry.quantised.reading import Quantised, Reading, StoredTensor, refuse

READERS: Final[Mapping[str, Callable[[Quantised], Reading]]] = {
    "bitsandbytes": bitsandbytes.read,
    "compressed-tensors": compressed_tensors.read,
    "fp8": fp8.read,
    "mxfp8": fp8.read,
    "fbgemm_fp8": fp8.read,
    "mxfp4": mxfp4.read,
    "modelopt": modelopt.read,
    "modelopt_fp4": modelopt.read,
}
"""quant_method -> what reads it."""

_MODELOPT: Final = ("modelopt", "modelopt_fp4")
_NO_CODES: Final = "its codes are laid out for one kernel"
_ROTATED: Final = "its weights are stored rotated, so what is stored is not the model's weight"
_CODEBOOKS: Final = "its weights are sums of codebooks"
_UNREAD: Final[Mapping[str, str]] = {
    "gptq": "the layout of qweight, qzeros and g_idx differs from tool to tool",
    "awq": "the order of its nibbles differs from tool to tool",
    "auto-round": "it is GPTQ or AWQ inside (packing_format)",
    "auto_round": "it is GPTQ or AWQ inside (packing_format)",
    "torchao": "its files name classes of torchao, whose layouts change with its version",
    "hqq": "its bits lie differently for each axis and width",
    "quanto": "transformers can't save it",
    "aqlm": _CODEBOOKS,
    "vptq": _CODEBOOKS,
    "quip": _ROTATED,
    "higgs": _ROTATED,
    "fp_quant": _ROTATED,
    "eetq": _NO_CODES,
    "spqr": _NO_CODES,
    "marlin": _NO_CODES,
    "exl2": _NO_CODES,
    "exl3": _NO_CODES,
    "mlx": "its words are read by Apple's MLX alone",
    "metal": "its words are read by Apple's MLX alone",
    "gguf": "its weights lie in another container",
    **dict.fromkeys(("bitnet", "quark", "sinq", "fouroversix", "gemma", "humming", "jang", "nvfp4"), ""),
}
"""Known methods that are not read, and why, if a reason is known."""


@dataclass(frozen=True)
class _Said:
    where: str  # for messages
    block: Mapping[str, Any]
    method: str


def read_quantised(
    config: Mapping[str, Any] | None,
    hf_quant: Mapping[str, Any] | None,
    tensors: Mapping[str, StoredTensor],
    small: Callable[[str], bytes],
) -> Reading | None:
    """How the stored tensors of a checkpoint mean plain ones; None for a plain model, whose tensors mean themselves.

    Args:
        config: config.json.
        hf_quant: hf_quant_config.json.
        tensors: all stored tensors, by name.
        small: reads a tensor of at most `registry.quantised.reading.SMALL` bytes.

    Raises:
        InvalidBaseError: ``quantised_base``: the base is quantised in a way that is not exactly understood.
    """
    found = [name for name, stored in tensors.items() if is_quantised(TensorEntry(name, stored.dtype, (), 0, 0))]
    said = _said(config or {}, hf_quant)
    if said is None:
        if not found:
            return None
        raise _without_block(found[0], tensors[found[0]])
    if said.method not in READERS:
        raise _unread(said)
    quantised = Quantised(said.method, said.block, config or {}, tensors, small)
    reading = READERS[said.method](quantised)
    used = reading.dropped.union(*(decoding.parts for decoding in reading.decoded.values()))
    if (left := next((name for name in found if name not in used), None)) is not None:
        raise quantised.refuse(
            f"tensor {shown(left)} ({tensors[left].dtype}) belongs to none of its weights",
            "nothing but codes and what they are read with",
        )
    if reading.decoded:
        return reading
    plain = f"{said.where} says that the base is quantised ({shown(said.method)}), but no tensor is: it is a plain one."
    return replace(reading, notices=(*reading.notices, plain))


def _said(config: Mapping[str, Any], hf_quant: Mapping[str, Any] | None) -> _Said | None:
    """The one block that describes how the checkpoint is quantised."""
    first: _Said | None = None
    for where, block in _blocks(config):
        said = _Said(where, block, _method(where, block))
        if first is None:
            first = said
        elif (said.method, said.block) != (first.method, first.block):
            raise _contradiction(first, said.where)
    return first if hf_quant is None else _with_modelopt(first, hf_quant)


def _blocks(config: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The blocks of config.json that mark it as quantised; models in it are objects under keys that end in _config."""
    models = [("config.json: ", config)]
    for where, model in models:
        for key, value in model.items():
            if key in ("quantization_config", "compression_config") and value not in (None, {}):
                if not isinstance(value, Mapping):
                    raise refuse("?", f"{where}{key} is {shown(value)}", "an object that names its quant_method")
                yield where + key, value
            elif key == "quantization" and isinstance(value, Mapping) and "bits" in value:
                yield where + key, value  # of mlx-lm, which repeats it as quantization_config
            elif key.endswith("_config") and isinstance(value, Mapping):
                models.append((f"{where}{_named(key)}.", value))


def _method(where: str, block: Mapping[str, Any]) -> str:
    method = block.get("quant_method")
    for flag in ("load_in_4bit", "load_in_8bit"):
        if not isinstance(block.get(flag), bool | None):
            raise refuse("bitsandbytes", f"{where} has {flag} {shown(block[flag])}", "true or false")
    if block.get("load_in_4bit") or block.get("load_in_8bit"):
        return "bitsandbytes"  # whatever else it has, as transformers reads it
    if method is None and where.endswith("compression_config"):
        return "compressed-tensors"
    if method is None and {"bits", "group_size"} <= block.keys():
        return "mlx"
    if not isinstance(method, str):
        fault = f"has quant_method {shown(method)}" if "quant_method" in block else "names no quant_method"
        raise refuse("?", f"{where} {fault}", "a name such as 'bitsandbytes'")
    return method


def _with_modelopt(said: _Said | None, document: Mapping[str, Any]) -> _Said:
    """ModelOpt writes it to its own file, newer versions also to config.json."""
    where = "hf_quant_config.json"
    block = document.get("quantization")
    if not isinstance(block, Mapping):
        raise refuse("modelopt", f"{where} has quantization {shown(block)}", "an object with quant_algo")
    if said is None:
        return _Said(where, {**block, "quant_method": "modelopt"}, "modelopt")
    if said.method not in _MODELOPT or any(
        said.block[key] != block[key] for key in ("quant_algo", "group_size") if key in said.block and key in block
    ):
        raise _contradiction(said, where)
    return replace(said, block={**block, **said.block})


def _contradiction(said: _Said, other: str) -> InvalidBaseError:
    return refuse(said.method, f"{said.where} and {other} contradict each other", "one way to read the weights")


def _unread(said: _Said) -> InvalidBaseError:
    why = _UNREAD.get(said.method)
    known = "which this version does not know" if why is None else "which is not read" + (why and f": {why}")
    return InvalidBaseError(
        f"The base is quantised ({said.where}: quant_method {shown(said.method)}), {known}. Add the model that it was "
        "made from; adapters trained on the quantised copy may be published on it.",
        code="quantised_base",
    )


def _without_block(name: str, stored: StoredTensor) -> InvalidBaseError:
    return InvalidBaseError(
        f"Tensor {shown(name)} ({stored.dtype}) belongs to quantised weights, and config.json has no "
        "quantization_config that says how to read it. Add the model that it was made from, or the whole folder.",
        code="quantised_base",
    )


def _named(key: str) -> str:
    """A key as part of a place; a stranger's may be long."""
    return key if key.isidentifier() and len(key) <= 40 else shown(key)[:40]
