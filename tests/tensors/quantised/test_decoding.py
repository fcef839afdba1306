"""Decoded values against the definition in numpy: exact, rounded to the nearest, any range the slice of the whole."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from registry.quantised.reading import Codes, Decoding, Factor, FlatBlocks, Grid, Nested, Scale, ZeroPoint
from registry.tensors.quantised.decoding import DecodedTensor
from tests.kit import round_once
from tests.kit.quantised import Raw, in_memory, meaning
from tests.kit.tensor_files import RawTensor

TORCH = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
Made = tuple[Decoding, Raw]


def codes(random: np.random.Generator, dtype: str, shape: tuple[int, ...]) -> RawTensor:
    size = math.prod(shape) * (4 if dtype == "I32" else 1)
    data = random.integers(0, 256, size, dtype=np.uint8)
    if dtype == "F8_E4M3":
        data[data & 0x7F == 0x7F] = 0x7E  # no NaN
    if dtype == "F8_E5M2":
        data[data & 0x7C == 0x7C] = 0x78
    return RawTensor(dtype, shape, data.tobytes())


def scales(random: np.random.Generator, dtype: str, shape: tuple[int, ...], *, digits: int = 53) -> RawTensor:
    """About 2^-8 in size, of either sign; ``digits``: no more bits than that, as where bf16 was stored as float32."""
    if dtype in ("U8", "F8_E8M0"):
        return RawTensor(dtype, shape, random.integers(100, 130, math.prod(shape), dtype=np.uint8).tobytes())
    if dtype == "F8_E4M3":
        return codes(random, dtype, shape)
    values = random.standard_normal(shape) * 2.0**-8
    fraction, exponent = np.frexp(values)
    return RawTensor.of(np.ldexp(np.rint(fraction * 2.0**digits) / 2.0**digits, exponent), dtype)


def grid(
    shape: tuple[int, ...],
    block: tuple[int, int],
    coding: str,
    scale: str,
    *,
    bits: int = 8,
    zero: str = "",
    factor: str = "",
    transposed: bool = False,
    codes_dtype: str = "",
    digits: int = 53,
) -> Callable[[np.random.Generator], Made]:
    def make(random: np.random.Generator) -> Made:
        *many, rows, columns = shape
        grid_shape = (*many, -(-rows // block[0]), -(-columns // block[1]))
        dtype = codes_dtype or {"float8": "F8_E4M3", "int8": "I8", "e2m1": "U8", "packed": "I32"}[coding]
        width = {"e2m1": columns // 2, "packed": -(-columns * bits // 32)}.get(coding, columns)
        tensors = {
            "codes": codes(random, dtype, (*many, rows, width)),
            "scale": scales(random, scale, grid_shape, digits=digits),
        }
        if zero == "packed":
            tensors["zero"] = codes(random, "I32", (-(-rows * bits // 32), grid_shape[-1]))
        elif zero:
            tensors["zero"] = codes(random, "I8", grid_shape)
        if factor:
            tensors["factor"] = RawTensor.of(np.array([random.uniform(0.5, 900)]), "F32")
        decoding = Grid(
            shape,
            Codes("codes", coding, bits),  # type: ignore[arg-type]
            Scale("scale", "exponent" if scale in ("U8", "F8_E8M0") else "float", block),
            ZeroPoint("zero", zero, bits) if zero else None,  # type: ignore[arg-type]
            Factor(factor, "factor") if factor else None,  # type: ignore[arg-type]
            transposed,
        )
        return decoding, tensors

    return make


def flat(
    shape: tuple[int, ...], block: int, kind: str = "nf4", *, nested: int = 0, transposed: bool = False
) -> Callable[[np.random.Generator], Made]:
    def make(random: np.random.Generator) -> Made:
        count = math.prod(shape)
        blocks = -(-count // block)
        tensors = {"codes": codes(random, "U8", (-(-count // 2), 1))}
        if nested:
            tensors["absmax"] = codes(random, "U8", (blocks,))
            tensors["map"] = RawTensor.of(np.sort(random.uniform(-1, 1, 256)), "F32")
            tensors["above"] = RawTensor.of(random.uniform(0.01, 0.1, -(-blocks // nested)), "F32")
        else:
            tensors["absmax"] = RawTensor.of(random.uniform(0.01, 0.2, blocks), "F32")
        within = Nested("above", "map", 0.0937, nested) if nested else None
        return FlatBlocks(shape, "codes", kind, "absmax", block, within, transposed), tensors  # type: ignore[arg-type]

    return make


KINDS = {
    "fp8 block": grid((200, 260), (128, 128), "float8", "F32"),
    "fp8 ragged rows": grid((576, 200), (128, 128), "float8", "F32"),
    "fp8 scales of few bits": grid((256, 256), (128, 128), "float8", "F32", digits=8),
    "fp8 bf16": grid((192, 96), (128, 64), "float8", "BF16"),
    "fp8 channel": grid((64, 64), (1, 64), "float8", "F32"),
    "fp8 tensor": grid((31, 17), (31, 17), "float8", "F32"),
    "fp8 e8m0": grid((96, 256), (128, 128), "float8", "F8_E8M0"),
    "fp8 experts": grid((3, 48, 40), (32, 32), "float8", "F32"),
    "e5m2": grid((33, 40), (16, 16), "float8", "F16", codes_dtype="F8_E5M2"),
    "mxfp8": grid((40, 96), (1, 32), "float8", "U8"),
    "mxfp4 experts": grid((3, 10, 128), (1, 32), "e2m1", "U8", transposed=True),
    "mxfp4": grid((10, 128), (1, 32), "e2m1", "U8"),
    "fp4 with float scales": grid((10, 96), (1, 32), "e2m1", "F32"),
    "nvfp4 divided": grid((24, 80), (1, 16), "e2m1", "F8_E4M3", factor="divide"),
    "nvfp4 multiplied": grid((24, 80), (1, 16), "e2m1", "F8_E4M3", factor="multiply"),
    "int8": grid((40, 50), (1, 50), "int8", "F32"),
    "int8 with zero points": grid((40, 50), (1, 50), "int8", "BF16", zero="int8"),
    "int8 experts": grid((2, 20, 30), (1, 30), "int8", "F32"),
    "4 bits": grid((24, 96), (1, 32), "packed", "BF16", bits=4),
    "4 bits, padded rows": grid((24, 36), (1, 12), "packed", "F16", bits=4),
    "4 bits with zero points": grid((40, 96), (1, 32), "packed", "F32", bits=4, zero="packed"),
    "8 bits with zero points": grid((42, 33), (1, 33), "packed", "F32", bits=8, zero="packed"),
    "2 bits": grid((24, 50), (1, 25), "packed", "F32", bits=2),
    "1 bit": grid((8, 70), (1, 35), "packed", "F32", bits=1, zero="packed"),
    "turned": grid((70, 45), (32, 16), "float8", "F32", transposed=True),
    "nf4": flat((33, 100), 64),
    "nf4 nested": flat((33, 101), 64, nested=16),
    "fp4": flat((40, 20), 128, "fp4"),
    "nf4 turned": flat((24, 128), 64, nested=8, transposed=True),
    "nf4 turned, blocks across rows": flat((24, 20), 64, transposed=True),
    "nf4 turned, odd": flat((23, 21), 64, nested=4, transposed=True),
}


@pytest.fixture(params=KINDS)
def made(request: pytest.FixtureRequest) -> Made:
    return KINDS[request.param](np.random.default_rng(7))


def test_values_are_the_exact_products(made: Made) -> None:
    decoding, tensors = made
    tensor, expected = DecodedTensor(decoding, in_memory(tensors)), meaning(decoding, tensors).reshape(-1)
    found = tensor.values(0, len(expected))
    assert found.dtype is tensor.dtype
    assert found.to(torch.float64).numpy().tobytes() == expected.tobytes()  # the sign of zero too


@pytest.mark.parametrize("dtype", TORCH)
def test_each_is_rounded_once(made: Made, dtype: str) -> None:
    decoding, tensors = made
    expected = meaning(decoding, tensors).reshape(-1)
    found = DecodedTensor(decoding, in_memory(tensors)).rounded(0, len(expected), TORCH[dtype])
    assert found.dtype is TORCH[dtype]
    np.testing.assert_array_equal(found.to(torch.float64).numpy(), round_once(expected, dtype))


@given(data=st.data())
def test_any_range_is_the_slice_of_the_whole(data: st.DataObject) -> None:
    decoding, tensors = KINDS[data.draw(st.sampled_from(sorted(KINDS)))](np.random.default_rng(3))
    expected = meaning(decoding, tensors).reshape(-1)
    first = data.draw(st.integers(0, len(expected)))
    last = data.draw(st.integers(first, min(len(expected), first + 500)))
    tensor = DecodedTensor(decoding, in_memory(tensors))
    assert tensor.values(first, last).to(torch.float64).tolist() == expected[first:last].tolist()
    rounded = tensor.rounded(first, last, torch.bfloat16)
    assert rounded.to(torch.float64).tolist() == round_once(expected[first:last], "BF16").tolist()
