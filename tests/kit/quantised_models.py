"""Quantised copies of base model folders, written by numpy, and beside each the exact model that it means, in float64.

The encoders are any: what counts is what the stored codes and scales mean, which is decoded here by the formulas of
docs/quantised.md, one float64 operation each.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from tests.kit.bases import Base
from tests.kit.floats import Array
from tests.kit.tensor_files import RawTensor, read_model, write_model

Written = tuple[dict[str, RawTensor], Array]
"""Stored tensors of a weight, and what they mean."""

Encode = Callable[[str, Array], Written]


def e4m3() -> Array:
    """The numbers of F8_E4M3 by code; NaN for 0x7F and 0xFF."""
    codes = np.arange(256)
    exponent, mantissa = codes >> 3 & 15, (codes & 7).astype(np.float64)
    sizes = np.where(exponent == 0, mantissa * 2.0**-9, (1 + mantissa / 8) * 2.0 ** (exponent - 7.0))
    sizes[codes & 127 == 127] = np.nan
    return np.where(codes < 128, sizes, -sizes)


E2M1: Final = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6])

NF4: Final = np.array(
    [
        *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635),
        *(-0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725),
        *(0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941, 0.7229568362836023, 1.0),
    ],
    dtype=np.float32,
)


def nearest(values: Array, numbers: Array) -> Array:
    """The code of the nearest number to each value."""
    known = np.where(np.isnan(numbers), np.inf, numbers)
    codes: Array = np.abs(values[..., None] - known).argmin(axis=-1).astype(np.uint8)
    return codes


def spread(grid: Array, block: tuple[int, int], shape: tuple[int, int]) -> Array:
    """A grid of blocks as one number an element; the last blocks are cut."""
    return np.repeat(np.repeat(grid, block[0], 0), block[1], 1)[: shape[0], : shape[1]]


def fp8(block: tuple[int, int], scale: str = "F32") -> Encode:
    """DeepSeek's block FP8."""

    def encode(name: str, values: Array) -> Written:
        rows, columns = values.shape
        down, across = -(-rows // block[0]), -(-columns // block[1])
        grid = np.zeros((down, across))
        for i in range(down):
            for j in range(across):
                part = values[i * block[0] : (i + 1) * block[0], j * block[1] : (j + 1) * block[1]]
                grid[i, j] = np.abs(part).max() / 448 or 1.0
        scales = RawTensor.of(grid, scale)
        sizes = spread(scales.values, block, (rows, columns))
        codes = nearest(values / sizes, e4m3())
        stored = {
            name: RawTensor("F8_E4M3", (rows, columns), codes.tobytes()),
            f"{name}_scale_inv": scales,
        }
        return stored, e4m3()[codes] * sizes

    return encode


def nf4(name: str, values: Array) -> Written:
    """bitsandbytes' NF4, its scales quantised too, in the last dimension's order across rows."""
    flat = values.astype(np.float32).reshape(-1)
    count = flat.size
    blocks = -(-count // 64)
    padded = np.zeros(blocks * 64, dtype=np.float32)
    padded[:count] = flat
    absmax = np.abs(padded.reshape(blocks, 64)).max(1).astype(np.float32)
    offset = np.float32(absmax.mean())
    outer = np.zeros(-(-blocks // 256) * 256, dtype=np.float32)
    outer[:blocks] = absmax - offset
    nested = np.abs(outer.reshape(-1, 256)).max(1).astype(np.float32)
    nested_map = np.linspace(-1, 1, 256).astype(np.float32)  # any map: it is used as stored
    by_nested = np.repeat(nested, 256)[:blocks].astype(np.float64)
    scales = nearest((absmax - offset).astype(np.float64) / by_nested, nested_map.astype(np.float64))
    meant = nested_map[scales].astype(np.float64) * by_nested + float(offset)
    sizes = np.repeat(meant, 64)[:count]
    codes = nearest(flat.astype(np.float64) / sizes, NF4.astype(np.float64))
    even = np.append(codes, [0] * (count % 2)).astype(np.uint8)
    packed = (even[0::2] << 4 | even[1::2]).astype(np.uint8)
    state = {
        "quant_type": "nf4", "blocksize": 64, "dtype": "bfloat16", "shape": list(values.shape),
        "nested_blocksize": 256, "nested_dtype": "float32", "nested_offset": float(offset),
    }  # fmt: skip
    text = json.dumps(state).encode()
    stored = {
        name: RawTensor("U8", (packed.size, 1), packed.tobytes()),
        f"{name}.absmax": RawTensor("U8", (blocks,), scales.tobytes()),
        f"{name}.quant_map": RawTensor("F32", (16,), NF4.tobytes()),
        f"{name}.nested_absmax": RawTensor("F32", nested.shape, nested.tobytes()),
        f"{name}.nested_quant_map": RawTensor("F32", (256,), nested_map.tobytes()),
        f"{name}.quant_state.bitsandbytes__nf4": RawTensor("U8", (len(text),), text),
    }
    return stored, (NF4[codes].astype(np.float64) * sizes).reshape(values.shape)


def mxfp4(name: str, values: Array) -> Written:
    """gpt-oss' experts: (experts, in, out) in the plain model, codes of the transpose, 32 along the last axis."""
    turned = values.transpose(0, 2, 1)
    experts, rows, columns = turned.shape
    blocks = turned.reshape(experts, rows, columns // 32, 32)
    exponents = np.floor(np.log2(np.abs(blocks).max(-1))) - 2
    codes = nearest(blocks / 2.0 ** exponents[..., None], E2M1).astype(np.uint8)
    packed = np.left_shift(codes[..., 1::2], 4) | codes[..., 0::2]
    scales = (exponents + 127).astype(np.uint8)
    meant = (E2M1[codes] * 2.0 ** exponents[..., None]).reshape(turned.shape).transpose(0, 2, 1)
    stored = {
        f"{name}_blocks": RawTensor("U8", packed.shape, packed.tobytes()),
        f"{name}_scales": RawTensor("U8", scales.shape, scales.tobytes()),
    }
    return stored, np.ascontiguousarray(meant)


MXFP4_CONFIG: Final[Mapping[str, Any]] = {
    "quant_method": "mxfp4",
    "modules_to_not_convert": [
        "model.layers.*.self_attn",
        "model.layers.*.mlp.router",
        "model.embed_tokens",
        "lm_head",
    ],
}
FP8_CONFIG: Final[Mapping[str, Any]] = {
    "quant_method": "fp8",
    "activation_scheme": "dynamic",
    "fmt": "e4m3",
    "weight_block_size": [16, 16],
    "modules_to_not_convert": ["lm_head"],
}
NF4_CONFIG: Final[Mapping[str, Any]] = {
    "quant_method": "bitsandbytes",
    "load_in_4bit": True,
    "load_in_8bit": False,
    "bnb_4bit_quant_type": "nf4",
    "bnb_4bit_use_double_quant": True,
    "bnb_4bit_compute_dtype": "bfloat16",
    "bnb_4bit_quant_storage": "uint8",
}


@dataclass(frozen=True)
class Quantised:
    """A quantised base model: its folder, and the exact model that it means as a base in float64 where decoded."""

    folder: Path
    exact: Base
    decoded: frozenset[str]


def quantised(plain: Base, folder: Path, encode: Encode, block: Mapping[str, Any], shards: int = 1) -> Quantised:
    """Quantise every linear layer of a base but its head; by MXFP4 its experts alone.

    Args:
        plain: the model to begin with.
        folder: gets the quantised model; FOLDER-exact gets the exact one.
        encode: how a weight is stored, and what that means.
        block: ``quantization_config``.
        shards: files of the quantised model.
    """
    config = json.loads((plain.folder / "config.json").read_text())
    linear = {one.tensor for one in plain.modules.values() if one.kind == "linear" and one.name != "lm_head"}
    if block["quant_method"] == "mxfp4":
        linear = {name for name in read_model(plain.folder) if name.endswith(("gate_up_proj", "down_proj"))}
    stored: dict[str, RawTensor] = {}
    exact: dict[str, RawTensor] = {}
    for name, tensor in read_model(plain.folder).items():
        if name in linear:
            written, meant = encode(name, tensor.values)
            stored |= written
            exact[name] = RawTensor.of(meant, "F64")
        else:
            stored[name] = exact[name] = tensor
    beside = folder.with_name(f"{folder.name}-exact")
    for place, tensors, said, count in (
        (folder, stored, {"quantization_config": dict(block)}, shards),
        (beside, exact, {}, 1),
    ):
        shutil.copytree(plain.folder, place, ignore=shutil.ignore_patterns("*.safetensors*"))
        write_model(place, tensors, count)
        (place / "config.json").write_text(json.dumps({**config, **said}))
    return Quantised(folder, replace(plain, folder=beside), frozenset(linear))
