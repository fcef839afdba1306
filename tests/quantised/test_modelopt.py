"""Checkpoints of ModelOpt, written by hand: its own exporter needs a GPU."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from registry.errors import InvalidBaseError
from registry.quantised import modelopt
from registry.quantised.reading import Factor, Grid
from registry.tensors.quantised.decoding import DecodedTensor
from tests.kit.floats import Array
from tests.kit.quantised import Raw, e2m1, exponents, float8, in_memory, nibbles, quantised
from tests.kit.tensor_files import RawTensor

RANDOM = np.random.default_rng(47)


def byte(dtype: str, *shape: int, low: int = 0, high: int = 0x7F) -> RawTensor:
    return RawTensor(dtype, shape, RANDOM.integers(low, high, math.prod(shape), dtype=np.uint8).tobytes())


def scales(*shape: int) -> RawTensor:
    return RawTensor.of(RANDOM.uniform(1e-4, 1e-3, shape), "F32")


def values(tensors: Raw, algorithm: str, **block: Any) -> Array:
    reading = modelopt.read(quantised("modelopt", tensors, {"quant_algo": algorithm, **block}))
    decoding = reading.decoded["x.weight"]
    found: Array = (
        DecodedTensor(decoding, in_memory(tensors)).values(0, math.prod(decoding.shape)).to(torch.float64).numpy()
    )
    return found.reshape(decoding.shape)


@pytest.mark.parametrize(
    ("algorithm", "shape", "down", "across"),
    [
        ("FP8", (), 200, 130),
        ("FP8", (1,), 200, 130),
        ("FP8_PER_CHANNEL_PER_TOKEN", (200,), 1, 130),
        ("FP8_PER_CHANNEL_PER_TOKEN", (200, 1), 1, 130),
        ("FP8_PB_WO", (2, 2), 128, 128),
        ("fp8_pb_wo", (1, 2, 2), 128, 128),
        ("FP8_PB_WO", (2, 1, 2, 1), 128, 128),
    ],
)
def test_fp8(algorithm: str, shape: tuple[int, ...], down: int, across: int) -> None:
    tensors = {"x.weight": byte("F8_E4M3", 200, 130), "x.weight_scale": scales(*shape), "x.input_scale": scales()}
    scale = tensors["x.weight_scale"].values.reshape(-(-200 // down), -(-130 // across))
    spread = np.repeat(np.repeat(scale, down, 0), across, 1)[:200, :130]
    np.testing.assert_array_equal(
        values(tensors, algorithm), float8(tensors["x.weight"].data).reshape(200, 130) * spread
    )


def nvfp4(rows: int = 6, columns: int = 48) -> dict[str, RawTensor]:
    return {
        "x.weight": byte("U8", rows, columns // 2, high=256),
        "x.weight_scale": byte("F8_E4M3", rows, columns // 16),
        "x.weight_scale_2": scales(),
        "x.input_scale": scales(),
    }


@pytest.mark.parametrize("algorithm", ["NVFP4", "W4A16_NVFP4"])
def test_nvfp4_multiplies_by_its_second_scale(algorithm: str) -> None:
    tensors = nvfp4()
    scale = np.repeat(float8(tensors["x.weight_scale"].data).reshape(6, 3), 16, 1)
    expected = e2m1(nibbles(tensors["x.weight"].data)).reshape(6, 48) * scale * tensors["x.weight_scale_2"].values
    np.testing.assert_array_equal(values(tensors, algorithm, group_size=16), expected)
    reading = modelopt.read(quantised("modelopt", tensors, {"quant_algo": algorithm}))
    grid = reading.decoded["x.weight"]
    assert isinstance(grid, Grid)
    assert grid.factor == Factor("multiply", "x.weight_scale_2")
    assert reading.kind == "modelopt nvfp4"
    assert reading.dropped == {"x.input_scale"}


def test_mxfp8_and_int8() -> None:
    tensors = {"x.weight": byte("F8_E4M3", 4, 64), "x.weight_scale": byte("U8", 4, 2, low=100, high=140)}
    scale = np.repeat(exponents(tensors["x.weight_scale"].data).reshape(4, 2), 32, 1)
    np.testing.assert_array_equal(values(tensors, "MXFP8"), float8(tensors["x.weight"].data).reshape(4, 64) * scale)
    tensors = {"x.weight": byte("I8", 4, 6, high=256), "x.weight_scale": scales(4)}
    codes = np.frombuffer(tensors["x.weight"].data, "i1").reshape(4, 6)
    np.testing.assert_array_equal(values(tensors, "INT8"), codes * tensors["x.weight_scale"].values[:, None])


def test_mixed_where_all_layers_are_read() -> None:
    tensors = {
        **nvfp4(),
        "y.weight": byte("F8_E4M3", 4, 4),
        "y.weight_scale": scales(),
        "y.k_scale": scales(),
    }
    layers = {"x": {"quant_algo": "NVFP4", "group_size": 16}, "y": {"quant_algo": "FP8"}}
    block = {"quant_algo": "MIXED_PRECISION", "quantized_layers": layers}
    reading = modelopt.read(quantised("modelopt", tensors, block))
    assert reading.kind == "modelopt fp8 nvfp4"
    assert reading.dropped == {"x.input_scale", "y.k_scale"}


def test_an_excluded_head_that_is_quantised_is_decoded_with_a_notice() -> None:
    tensors = {name.replace("x.", "lm_head."): tensor for name, tensor in nvfp4().items()}
    block = {"quant_algo": "NVFP4", "exclude_modules": ["lm_head*", "*.router"]}
    reading = modelopt.read(quantised("modelopt", tensors, block))
    assert set(reading.decoded) == {"lm_head.weight"}
    assert "'lm_head'" in reading.notices[0]


FP8 = {"x.weight": byte("F8_E4M3", 4, 6), "x.weight_scale": scales()}


@pytest.mark.parametrize(
    ("tensors", "block", "said"),
    [
        (FP8, {"quant_algo": "NVFP4_AWQ"}, "quant_algo is 'NVFP4_AWQ'"),
        (FP8, {"quant_algo": "W4A8_MXFP4_FP8"}, "quant_algo is 'W4A8_MXFP4_FP8'"),
        (FP8, {"quant_algo": "foo" * 200_000}, "quant_algo is 'foofoo"),
        (FP8, {"quant_algo": ["FP8"]}, "quant_algo is ['FP8']"),
        (FP8, {}, "quant_algo is None"),
        (FP8, {"quant_algo": "MIXED_PRECISION"}, "quantized_layers is None"),
        (FP8, {"quant_algo": "MIXED_PRECISION", "quantized_layers": {"x": {"quant_algo": "W4A8_AWQ"}}}, "'W4A8_AWQ'"),
        (FP8, {"quant_algo": "NVFP4"}, "'x.weight' is fp8 by its scales, and nvfp4 by quant_algo is expected"),
        (
            {**nvfp4(), "x.pre_quant_scale": scales(48)},
            {"quant_algo": "NVFP4"},
            "'x.pre_quant_scale' lies beside its codes",
        ),
        ({**FP8, "x.foo": scales()}, {"quant_algo": "FP8"}, "'x.foo' lies beside its codes"),
        ({**FP8, "x.weight_scale_2": scales()}, {"quant_algo": "FP8"}, "'x.weight_scale_2' lies beside fp8"),
        ({"x.weight": FP8["x.weight"]}, {"quant_algo": "FP8"}, "'x.weight_scale' is expected"),
        ({"x.weight_scale": scales()}, {"quant_algo": "FP8"}, "'x.weight' is expected"),
        ({**FP8, "x.weight_scale": scales(3, 1)}, {"quant_algo": "FP8_PB_WO"}, "[3, 1] for 'x.weight' of shape [4, 6]"),
        ({**FP8, "x.weight_scale": RawTensor("F64", (), bytes(8))}, {"quant_algo": "FP8"}, "its weight_scale F64"),
        ({**nvfp4(), "x.weight_scale": byte("F8_E4M3", 18)}, {"quant_algo": "NVFP4"}, "shape [18] for"),
        ({**nvfp4(), "x.weight_scale": byte("U8", 18)}, {"quant_algo": "NVFP4"}, "its weight_scale U8"),
        ({**nvfp4(), "x.weight_scale_2": scales(2)}, {"quant_algo": "NVFP4"}, "'x.weight_scale_2' is F32 [2]"),
        ({k: v for k, v in nvfp4().items() if k != "x.weight_scale_2"}, {"quant_algo": "NVFP4"}, "is missing"),
        (nvfp4(6, 40), {"quant_algo": "NVFP4"}, "for 'x.weight' of shape [6, 20]"),
        ({**FP8, "x.weight": byte("F8_E4M3", 4, 6, 1)}, {"quant_algo": "FP8"}, "[4, 6, 1], and a matrix"),
        (FP8, {"quant_algo": "FP8", "exclude_modules": {"a": 1}}, "exclude_modules is"),
    ],
)
def test_what_is_not_understood_is_refused(tensors: Raw, block: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidBaseError) as caught:
        modelopt.read(quantised("modelopt", tensors, block))
    assert caught.value.code == "quantised_base"
    assert said in str(caught.value)
    assert len(str(caught.value)) < 1000
