"""bitsandbytes: NF4 and FP4 in blocks of the flat tensor, their scales quantised again or not, and int8 by rows.

A 4-bit weight ``X.weight`` has ``X.weight.absmax``, ``.quant_map`` and ``.quant_state.bitsandbytes__nf4``: JSON in
bytes, with the shape that the codes do not have. Nested, absmax are codes of ``.nested_quant_map``. An int8 weight has
``X.SCB``, the largest number of each row (bitsandbytes/functional.py, transformers/integrations/bitsandbytes.py).
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Iterator, Mapping
from typing import Any, Final, Literal, cast

from registry.errors import InvalidBaseError
from registry.files.header import MAX_DIMENSION, SIZES
from registry.files.strict_json import parse, shown
from registry.quantised.reading import MAPS, Codes, Factor, FlatBlocks, Grid, Nested, Quantised, Reading, Scale

_STATE: Final = re.compile(r"(?s)(.+)\.quant_state\.([^.]+)")
_MOST_STATE: Final = 1 << 16  # bytes
_KEYS: Final = {"quant_type", "blocksize", "dtype", "shape"}
_NESTED_KEYS: Final = {"nested_blocksize", "nested_dtype", "nested_offset"}
_BLOCKS: Final = (32, 64, 128, 256, 512, 1024, 2048, 4096)
_FLOATS: Final = ("float32", "bfloat16", "float16")
_STORAGE: Final = ("U8", "I8", "BF16", "F16", "F32", "F64")
_COMPANIONS: Final = ("absmax", "quant_map", "nested_absmax", "nested_quant_map")

_CONV1D: Final = ("gpt2", "openai-gpt", "imagegpt", "decision_transformer", "clvp", "jais", "btlm")
"""model_type of models with transformers' Conv1D: its weights are (in, out) in plain files, and (out, in) quantised."""
_CONV1D_MODULES: Final = ("c_attn", "c_proj", "c_fc", "c_fc2", "q_attn")


def read(quantised: Quantised) -> Reading:
    """Read the tensors of a checkpoint of bitsandbytes.

    Raises:
        InvalidBaseError: ``quantised_base``: a tensor, or the state of one, is not as the library writes it.
    """
    flat = dict(_flat_blocks(quantised))
    rows = dict(_rows(quantised))
    if flat and rows:
        raise quantised.refuse(f"{shown(min(flat))} is of 4 bits and {shown(min(rows))} of 8", "one of the two")
    for flag, held in (("load_in_4bit", rows), ("load_in_8bit", flat)):
        if held and quantised.block.get(flag):
            raise quantised.refuse(f"{shown(min(held))} is not what {flag} says", "a checkpoint that agrees with it")
    kinds = sorted({f"{how.map}, nested" if how.nested else how.map for how in flat.values()}) or ["int8"] * bool(rows)
    return Reading(" ".join(["bitsandbytes", *kinds]), {**flat, **rows})


def _flat_blocks(quantised: Quantised) -> Iterator[tuple[str, FlatBlocks]]:
    states: dict[str, tuple[str, str]] = {}
    for name in quantised.tensors:
        if (match := _STATE.fullmatch(name)) is not None:
            base, kind = match.groups()
            if base in states:
                raise quantised.refuse(f"{shown(base)} has two states", "one quant_state")
            states[base] = name, kind
    for name in quantised.tensors:
        base, _, last = name.rpartition(".")
        if base in states and last not in _COMPANIONS:
            raise _refuse(quantised, name, "stands beside a weight of 4 bits", f"only {', '.join(_COMPANIONS)}")
    for base, (name, kind) in states.items():
        yield base, _flat(quantised, base, name, kind)


def _flat(quantised: Quantised, base: str, name: str, kind: str) -> FlatBlocks:
    """A weight of 4 bits, whose state is the tensor ``name``."""
    if kind not in ("bitsandbytes__nf4", "bitsandbytes__fp4"):
        raise _refuse(quantised, name, f"is a state of {shown(kind)}", "bitsandbytes__nf4 or bitsandbytes__fp4")
    which = cast(Literal["nf4", "fp4"], kind.removeprefix("bitsandbytes__"))
    state = _state(quantised, name, which)
    count = math.prod(state["shape"])
    _check_codes(quantised, base, state["shape"], (count + 1) // 2)
    _check_map(quantised, f"{base}.quant_map", which)
    blocks = -(-count // state["blocksize"])
    absmax = f"{base}.absmax"
    nested = _nested(quantised, base, name, state, blocks)
    _expect(quantised, absmax, ("U8",) if nested else ("F32",), (blocks,))
    shape = tuple(state["shape"])
    transposed = len(shape) == 2 and _is_conv1d(quantised, base)
    said = (f"{base}.quant_map", name)
    return FlatBlocks(shape, base, which, absmax, state["blocksize"], nested, transposed, said)


def _state(quantised: Quantised, name: str, kind: str) -> dict[str, Any]:
    if quantised.tensors[name].dtype != "U8":
        raise _refuse(quantised, name, f"is {quantised.tensors[name].dtype}", "JSON in bytes (U8)")
    if quantised.tensors[name].elements > _MOST_STATE:
        raise _refuse(
            quantised, name, f"has {quantised.tensors[name].elements} bytes", f"at most {_MOST_STATE} of JSON"
        )
    state = parse(
        quantised.small(name),
        what=f"The quantisation state {shown(name)}",
        limit=_MOST_STATE,
        error=InvalidBaseError,
        code="quantised_base",
        brackets=16,
    )

    def refuse(what: str, expected: str) -> InvalidBaseError:
        return _refuse(quantised, name, what, expected)

    if not isinstance(state, dict) or not _KEYS <= state.keys() <= _KEYS | _NESTED_KEYS:
        raise refuse("has other fields than bitsandbytes writes", ", ".join(sorted(_KEYS)))
    if state["quant_type"] != kind:
        raise refuse(f"has quant_type {shown(state['quant_type'])}", repr(kind))
    if not _is_one_of(state["blocksize"], _BLOCKS):
        raise refuse(f"has blocksize {shown(state['blocksize'])}", f"one of {_BLOCKS}")
    if state["dtype"] not in _FLOATS:
        raise refuse(f"has dtype {shown(state['dtype'])}", f"one of {', '.join(_FLOATS)}")
    shape = state["shape"]
    if not isinstance(shape, list) or len(shape) not in (2, 3) or not all(map(_is_size, shape)):
        raise refuse(f"has shape {shown(shape)}", "that of a matrix, or of a stack of them")
    return state


def _check_codes(quantised: Quantised, base: str, shape: list[int], count: int) -> None:
    codes = quantised.tensors.get(base)
    if codes is None:
        raise quantised.refuse(f"{shown(base)} has a state but no codes", f"{count} bytes of them")
    if codes.dtype not in _STORAGE or codes.elements * SIZES[codes.dtype] != count:
        raise _refuse(
            quantised,
            base,
            f"is {codes.dtype} {list(codes.shape)}, but its state says shape {shape}",
            f"{count} bytes of codes",
        )


def _check_map(quantised: Quantised, name: str, kind: Literal["nf4", "fp4"]) -> None:
    """The library's kernels have a map of their own: a file with another one would mean two things."""
    _expect(quantised, name, ("F32",), (16,))
    if struct.unpack("<16f", quantised.small(name)) != MAPS[kind]:
        raise _refuse(quantised, name, f"is not the map of {kind}", "the 16 numbers that bitsandbytes computes with")


def _nested(quantised: Quantised, base: str, name: str, state: Mapping[str, Any], blocks: int) -> Nested | None:
    absmax, codes = f"{base}.nested_absmax", f"{base}.nested_quant_map"
    parts = [*(key in state for key in sorted(_NESTED_KEYS)), absmax in quantised.tensors, codes in quantised.tensors]
    if not any(parts):
        return None
    if not all(parts):
        expected = f"nested_absmax, nested_quant_map and {', '.join(sorted(_NESTED_KEYS))}, or none of them"
        raise _refuse(quantised, name, "says half of how its scales are quantised", expected)
    offset = state["nested_offset"]
    if not _is_float32(offset):
        raise _refuse(quantised, name, f"has nested_offset {shown(offset)}", "a float32 number")
    if state["nested_dtype"] != "float32":
        raise _refuse(quantised, name, f"has nested_dtype {shown(state['nested_dtype'])}", "float32")
    if not _is_one_of(block := state["nested_blocksize"], _BLOCKS):
        raise _refuse(quantised, name, f"has nested_blocksize {shown(block)}", f"one of {_BLOCKS}")
    _expect(quantised, absmax, ("F32",), (-(-blocks // block),))
    _expect(quantised, codes, ("F32",), (256,))
    return Nested(absmax, codes, float(offset), block)


def _rows(quantised: Quantised) -> Iterator[tuple[str, Grid]]:
    """Weights of 8 bits: (code * SCB of its row) / 127."""
    for name, stored in quantised.tensors.items():
        module, _, last = name.rpartition(".")
        weight, scale, form = (f"{module}.{part}" for part in ("weight", "SCB", "weight_format"))
        if last == "weight" and stored.dtype == "I8":
            _expect(quantised, scale, ("F32",), stored.shape[:1])
        elif last == "SCB":
            shape = _expect(quantised, weight, ("I8",), None)
            if len(shape) != 2 or not all(shape):
                raise _refuse(quantised, weight, f"has shape {list(shape)}", "a matrix")
            _expect(quantised, scale, ("F32",), shape[:1])
            _expect(quantised, form, ("U8",), ())
            if quantised.small(form) != b"\0":
                raise _refuse(quantised, form, f"is {quantised.small(form)[0]}", "0, the codes row by row")
            yield (
                weight,
                Grid(
                    shape,
                    Codes(weight, "int8"),
                    Scale(scale, "float", (1, shape[1])),
                    factor=Factor("divide", value=127.0),
                    transposed=_is_conv1d(quantised, weight),
                    said=(form,),
                ),
            )


def _is_conv1d(quantised: Quantised, name: str) -> bool:
    """Whether a plain file holds the weight turned; the quantised file always has it as (out, in)."""
    if name.split(".")[-2:-1] not in [[module] for module in _CONV1D_MODULES]:
        return False
    kinds = set(_model_types(quantised.config))
    if not kinds or (kinds.intersection(_CONV1D) and quantised.config.get("model_type") not in _CONV1D):
        raise _refuse(
            quantised,
            name,
            "may be a weight that plain files hold turned (Conv1D)",
            f"a model_type in config.json that says so, such as {_CONV1D[0]!r}",
        )
    return bool(kinds.intersection(_CONV1D))


def _model_types(config: Mapping[str, Any]) -> Iterator[str]:
    """model_type of the model, and of models in it."""
    for model in (config, *(value for value in config.values() if isinstance(value, Mapping))):
        if isinstance(kind := model.get("model_type"), str):
            yield kind


def _expect(quantised: Quantised, name: str, dtypes: tuple[str, ...], shape: tuple[int, ...] | None) -> tuple[int, ...]:
    """The shape of a stored tensor, which has one of these dtypes, and ``shape`` unless that is None."""
    said = f"{' or '.join(dtypes)}{'' if shape is None else f' {list(shape)}'}"
    stored = quantised.tensors.get(name)
    if stored is None:
        raise quantised.refuse(f"tensor {shown(name)} is missing", said)
    if stored.dtype not in dtypes or (shape is not None and stored.shape != shape):
        raise _refuse(quantised, name, f"is {stored.dtype} {list(stored.shape)}", said)
    return stored.shape


def _refuse(quantised: Quantised, name: str, what: str, expected: str) -> InvalidBaseError:
    return quantised.refuse(f"tensor {shown(name)} {what}", expected)


def _is_size(value: object) -> bool:
    return type(value) is int and 1 <= value <= MAX_DIMENSION


def _is_one_of(value: object, allowed: tuple[int, ...]) -> bool:
    return type(value) is int and value in allowed


def _is_float32(value: object) -> bool:
    if type(value) is not int and type(value) is not float:
        return False
    try:
        return bool(struct.unpack("<f", struct.pack("<f", value))[0] == value)
    except OverflowError:
        return False
