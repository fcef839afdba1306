"""Quantised tensors by their definitions: what codes and scales mean, in float64, with numpy alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from registry.files.header import TensorEntry, Tensors
from registry.files.source import BytesSource
from registry.quantised.reading import MAPS, Codes, Decoding, FlatBlocks, Grid, Quantised, StoredTensor
from tests.kit.floats import FORMATS, Array, from_bytes
from tests.kit.tensor_files import RawTensor

Raw = Mapping[str, RawTensor]


def in_memory(tensors: Raw, *, before: int = 3) -> Tensors:
    """The tensors as an open file has them, each after some bytes that are none of it (odd: numbers lie anywhere)."""
    return {
        name: (
            BytesSource(b"\xee" * before + tensor.data + b"\xee", name),
            TensorEntry(name, tensor.dtype, tensor.shape, before, before + len(tensor.data)),
        )
        for name, tensor in tensors.items()
    }


def quantised(
    method: str, tensors: Raw, block: Mapping[str, Any] | None = None, config: Mapping[str, Any] | None = None
) -> Quantised:
    """What a format's reader gets of these tensors."""
    said = {"quant_method": method, **(block or {})}
    return Quantised(
        method=method,
        block=said,
        config={**(config or {}), "quantization_config": said},
        tensors={name: StoredTensor(tensor.dtype, tensor.shape) for name, tensor in tensors.items()},
        small=lambda name: tensors[name].data,
    )


def float8(data: bytes, *, fraction: int = 3, bias: int = 7) -> Array:
    """E4M3 (without infinities), or with 2 and 15 E5M2."""
    byte = np.frombuffer(data, "u1").astype(np.int64)
    exponent, rest = (byte & 0x7F) >> fraction, byte & ((1 << fraction) - 1)
    size = np.where(
        exponent == 0,
        np.ldexp(rest.astype(np.float64), 1 - bias - fraction),
        np.ldexp(rest + 2.0**fraction, exponent - bias - fraction),
    )
    if fraction == 3:
        size = np.where((byte & 0x7F) == 0x7F, np.nan, size)
    else:
        size = np.where(exponent == 31, np.where(rest == 0, np.inf, np.nan), size)
    found: Array = np.where(byte & 0x80, -size, size)
    return found


def exponents(data: bytes) -> Array:
    """E8M0: 2^(byte - 127), and 255 is NaN."""
    byte = np.frombuffer(data, "u1").astype(np.int64)
    return np.where(byte == 255, np.nan, np.ldexp(1.0, byte - 127))


def nibbles(data: bytes, *, high_first: bool = False) -> NDArray[np.int64]:
    """Two codes of each byte."""
    byte = np.frombuffer(data, "u1").astype(np.int64)
    halves = (byte >> 4, byte & 15) if high_first else (byte & 15, byte >> 4)
    return np.stack(halves, axis=-1).reshape(-1)


def e2m1(codes: NDArray[np.int64]) -> Array:
    """FP4: 0 .5 1 1.5 2 3 4 6, and bit 3 is the sign, of zero too."""
    size = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6])[codes & 7]
    found: Array = np.where(codes & 8, -size, size)
    return found


def numbers(tensor: RawTensor, coding: str = "float") -> Array:
    """A stored tensor's numbers."""
    made: dict[str, Callable[[bytes], Array]] = {
        "F8_E4M3": float8,
        "F8_E5M2": lambda data: float8(data, fraction=2, bias=15),
        "F8_E8M0": exponents,
        "I8": lambda data: np.frombuffer(data, "i1").astype(np.float64),
    }
    if coding == "exponent":
        found = exponents(tensor.data)
        return found.reshape(tensor.shape)
    if tensor.dtype in FORMATS:
        return from_bytes(tensor.data, tensor.dtype, tensor.shape)
    return made[tensor.dtype](tensor.data).reshape(tensor.shape)


def bits_of(words: NDArray[np.uint32], bits: int, count: int) -> Array:
    """The first ``count`` fields of each row of words, a stream of bits, the lowest first, less the half."""
    stream = (words[..., None] >> np.arange(32, dtype=np.uint32)) & 1
    stream = stream.reshape(*words.shape[:-1], -1)[..., : count * bits].reshape(*words.shape[:-1], count, bits)
    found: Array = (stream.astype(np.float64) * 2.0 ** np.arange(bits)).sum(-1) - 2.0 ** (bits - 1)
    return found


def meaning(decoding: Decoding, tensors: Raw) -> Array:
    """The plain tensor, in float64, in the order of operations of docs/quantised.md."""
    made = _grid(decoding, tensors) if isinstance(decoding, Grid) else _flat(decoding, tensors)
    return np.ascontiguousarray(np.swapaxes(made, -1, -2)) if decoding.transposed else made


def _codes(codes: Codes, shape: tuple[int, ...], tensors: Raw) -> Array:
    tensor = tensors[codes.name]
    if codes.coding == "e2m1":
        return e2m1(nibbles(tensor.data)).reshape(shape)
    if codes.coding == "packed":
        words = np.frombuffer(tensor.data, "<u4").reshape(*shape[:-1], -1)
        return bits_of(words, codes.bits, shape[-1])
    return numbers(tensor).reshape(shape)


def _grid(grid: Grid, tensors: Raw) -> Array:
    *matrices, rows, columns = grid.shape
    (down, across), many = grid.scale.block, math.prod(matrices)
    lines, steps = -(-rows // down), -(-columns // across)
    row, column = np.arange(rows) // down, np.arange(columns) // across

    def spread(values: Array) -> Array:
        return values.reshape(many, lines, steps)[:, row][:, :, column]

    made = _codes(grid.codes, grid.shape, tensors).reshape(many, rows, columns)
    if grid.zero is not None and grid.zero.coding == "packed":
        words = np.frombuffer(tensors[grid.zero.name].data, "<u4").reshape(-1, steps)
        made = made - spread(np.ascontiguousarray(bits_of(words.T.copy(), grid.zero.bits, rows).T))
    elif grid.zero is not None:
        made = made - spread(numbers(tensors[grid.zero.name]))
    with np.errstate(invalid="ignore", over="ignore"):
        made = made * spread(numbers(tensors[grid.scale.name], grid.scale.coding))
        if grid.factor is not None:
            name, value = grid.factor.name, grid.factor.value
            by = numbers(tensors[name]).reshape(()) if name else np.float64(value)
            made = made * by if grid.factor.operation == "multiply" else made / by
    return made.reshape(grid.shape)


def _flat(blocks: FlatBlocks, tensors: Raw) -> Array:
    count = math.prod(blocks.shape)
    codes = np.array(MAPS[blocks.map])[nibbles(tensors[blocks.codes].data, high_first=True)[:count]]
    absmax = tensors[blocks.absmax]
    if blocks.nested is None:
        scales = numbers(absmax).reshape(-1)
    else:
        found = numbers(tensors[blocks.nested.map])[np.frombuffer(absmax.data, "u1")]
        above = numbers(tensors[blocks.nested.absmax])
        scales = found * above[np.arange(len(found)) // blocks.nested.block] + blocks.nested.offset
    made: Array = (codes * scales[np.arange(count) // blocks.block]).reshape(blocks.shape)
    return made
