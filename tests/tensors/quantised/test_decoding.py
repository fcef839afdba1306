"""Decoded values against the definition in numpy: exact, rounded to the nearest, any range the slice of the whole."""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from registry.files.header import Tensors
from registry.files.source import ByteSource
from registry.quantised.reading import Codes, Decoding, Factor, FlatBlocks, Grid, Nested, Scale, ZeroPoint
from registry.tensors.quantised.decoding import DecodedTensor
from tests.kit import round_once
from tests.kit.floats import Array
from tests.kit.quantised import Raw, e2m1, float8, in_memory, meaning, nibbles
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


def on_middles(odd: int, count: int) -> Array:
    """float32 scales whose product with ``odd`` is not the middle between two bf16, but rounds to it in float32."""
    middles = np.arange(257, 513, 2).astype(np.float64)  # nine bits, the last one set
    scale = (middles / odd).astype(np.float32)
    exact = scale.astype(np.float64) * odd
    found = scale[(exact != middles) & (exact.astype(np.float32) == middles)]
    chosen: Array = found[:count].astype(np.float64)
    return chosen


@pytest.mark.parametrize("odd", [5, 7, 9, 11, 13, 15])
@pytest.mark.parametrize("across", [4, 4096])  # the products are looked at, or the scales
def test_products_that_float32_puts_between_two_numbers(odd: int, across: int) -> None:
    scale = on_middles(odd, 12)
    assert len(scale) > 3
    code = {5: 0x4A, 7: 0x4E, 9: 0x51, 11: 0x53, 13: 0x55, 15: 0x57}[odd]
    tensors = {
        "codes": RawTensor("F8_E4M3", (len(scale), across), bytes([code, code | 0x80] * (len(scale) * across // 2))),
        "scale": RawTensor.of(scale.reshape(-1, 1), "F32"),
    }
    decoding = Grid((len(scale), across), Codes("codes", "float8"), Scale("scale", "float", (1, across)))
    expected = meaning(decoding, tensors).reshape(-1)
    assert abs(expected[0]) == odd * scale[0]
    by_float32 = torch.tensor(expected).to(torch.float32).to(torch.bfloat16).to(torch.float64).numpy()
    assert (by_float32 != round_once(expected, "BF16")).any()  # a short way alone is wrong
    found = DecodedTensor(decoding, in_memory(tensors)).rounded(0, len(expected), torch.bfloat16)
    np.testing.assert_array_equal(found.to(torch.float64).numpy(), round_once(expected, "BF16"))


def test_second_scales_of_few_bits_put_many_products_between_two_numbers() -> None:
    """NVFP4 whose second scale was made of a maximum of nine bits: some percent differ by way of float32."""
    random = np.random.default_rng(5)
    decoding, tensors = grid((64, 256), (1, 16), "e2m1", "F8_E4M3", factor="multiply")(random)
    tensors = {**tensors, "factor": RawTensor.of(np.array([np.float32(297 / 64) / np.float32(2688)]), "F32")}
    expected = meaning(decoding, tensors).reshape(-1)
    scale = (float8(tensors["scale"].data) * tensors["factor"].values).astype(np.float32).repeat(16)
    stepwise = e2m1(nibbles(tensors["codes"].data)).astype(np.float32) * scale
    assert (round_once(stepwise.astype(np.float64), "BF16") != round_once(expected, "BF16")).mean() > 0.01
    found = DecodedTensor(decoding, in_memory(tensors)).rounded(0, len(expected), torch.bfloat16)
    np.testing.assert_array_equal(found.to(torch.float64).numpy(), round_once(expected, "BF16"))


@settings(max_examples=60)
@given(
    scales=st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=8, max_size=8),
    second=st.floats(2.0**-140, 2.0**20, width=32),
    kind=st.sampled_from(["", "multiply", "divide"]),
    dtype=st.sampled_from(sorted(TORCH)),
    seed=st.integers(0, 99),
)
@example(scales=[2.0**90] * 8, second=2.0**-140, kind="divide", dtype="BF16", seed=0)  # 0 is not infinity * 0
def test_scales_of_any_size_round_once(scales: list[float], second: float, kind: str, dtype: str, seed: int) -> None:
    decoding, tensors = grid((8, 32), (1, 32), "e2m1", "F32", factor=kind)(np.random.default_rng(seed))
    tensors = {**tensors, "scale": RawTensor.of(np.array(scales).reshape(8, 1), "F32")}
    if kind:
        tensors["factor"] = RawTensor.of(np.array([second]), "F32")
    expected = meaning(decoding, tensors).reshape(-1)
    found = DecodedTensor(decoding, in_memory(tensors)).rounded(0, 256, TORCH[dtype])
    np.testing.assert_array_equal(found.to(torch.float64).numpy(), round_once(expected, dtype))


class Counting:
    """A file that says which of its bytes were read."""

    def __init__(self, source: ByteSource) -> None:
        self._source = source
        self.size = source.size
        self.read: list[tuple[int, int]] = []

    def read_into(self, offset: int, buffer: memoryview) -> None:
        self.read.append((offset, offset + len(buffer)))
        self._source.read_into(offset, buffer)


def counted(tensors: Raw) -> tuple[Tensors, dict[str, Counting]]:
    stored = in_memory(tensors, before=0)
    sources = {name: Counting(source) for name, (source, _) in stored.items()}
    return {name: (sources[name], entry) for name, (_, entry) in stored.items()}, sources


def test_a_range_reads_the_codes_and_scales_that_it_needs() -> None:
    decoding, tensors = grid((512, 384), (128, 128), "float8", "F32")(np.random.default_rng(1))
    stored, sources = counted(tensors)
    DecodedTensor(decoding, stored).rounded(300 * 384 + 130, 300 * 384 + 140, torch.bfloat16)
    assert sources["codes"].read == [(300 * 384 + 130, 300 * 384 + 140)]
    assert sources["scale"].read == [((2 * 3 + 1) * 4, (2 * 3 + 2) * 4)]
    decoding, tensors = flat((64, 96), 64, nested=16)(np.random.default_rng(1))
    stored, sources = counted(tensors)
    DecodedTensor(decoding, stored).values(640, 700)
    assert sources["codes"].read == [(320, 350)]
    assert sources["absmax"].read == [(10, 11)]
    assert sources["above"].read == [(0, 4)]


def test_of_a_transposed_tensor_one_matrix_is_read_once_and_kept() -> None:
    decoding, tensors = grid((3, 64, 96), (1, 32), "e2m1", "U8", transposed=True)(np.random.default_rng(1))
    stored, sources = counted(tensors)
    tensor = DecodedTensor(decoding, stored)
    for first in range(64 * 96, 2 * 64 * 96, 500):
        tensor.rounded(first, min(first + 500, 2 * 64 * 96), torch.bfloat16)
    assert sources["codes"].read == [(64 * 48, 2 * 64 * 48)]
    assert sources["scale"].read == [(64 * 3, 2 * 64 * 3)]


def test_many_threads_read_one_tensor() -> None:
    decoding, tensors = grid((4, 64, 96), (1, 32), "e2m1", "U8", transposed=True)(np.random.default_rng(1))
    expected = meaning(decoding, tensors).reshape(-1)
    tensor = DecodedTensor(decoding, in_memory(tensors))
    firsts = [*range(0, len(expected), 700)] * 3
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda first: tensor.values(first, min(first + 700, len(expected))), firsts))
    for first, part in zip(firsts, found, strict=True):
        assert part.to(torch.float64).tolist() == expected[first : first + 700].tolist()


def test_what_is_no_range_of_it_is_not_read() -> None:
    decoding, tensors = grid((4, 4), (4, 4), "float8", "F32")(np.random.default_rng(1))
    tensor = DecodedTensor(decoding, in_memory(tensors))
    assert tensor.values(7, 7).tolist() == []
    for first, last in ((0, 17), (-1, 4)):
        with pytest.raises(ValueError, match="of 16"):
            tensor.values(first, last)


class Largest(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """The most bytes that a tensor lies in, of all that are made meanwhile."""

    most = 0

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: object, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        made = func(*args, **(kwargs or {}))
        if isinstance(made, torch.Tensor):
            self.most = max(self.most, made.untyped_storage().nbytes())
        return made


@pytest.mark.parametrize(
    "make",
    [
        grid((8192, 2048), (128, 128), "float8", "F32"),
        grid((8, 1024, 2048), (1, 32), "e2m1", "U8", transposed=True),
        grid((8192, 2048), (1, 16), "e2m1", "F8_E4M3", factor="divide"),
        grid((8192, 2048), (1, 32), "packed", "F32", bits=4, zero="packed"),
        flat((8192, 2048), 64, nested=256),
    ],
    ids=["fp8", "mxfp4", "nvfp4", "4 bits", "nf4"],
)
def test_memory_is_that_of_the_range(make: Callable[[np.random.Generator], Made]) -> None:
    """Neither the codes (8 or 16 MiB) nor the numbers of a tensor are in memory as a whole."""
    decoding, tensors = make(np.random.default_rng(1))
    tensor = DecodedTensor(decoding, in_memory(tensors))
    with Largest() as largest:  # type: ignore[no-untyped-call]
        tensor.rounded(5 << 19, 6 << 19, torch.bfloat16)
    assert 0 < largest.most <= 4 << 20
