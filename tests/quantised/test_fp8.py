"""FP8 checkpoints: they have the values of the definition, and what is not understood is refused."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from registry.errors import InvalidBaseError
from registry.quantised import fp8
from registry.quantised.reading import Reading
from registry.tensors.quantised.decoding import DecodedTensor
from tests.kit import round_once
from tests.kit.floats import Array
from tests.kit.quantised import Raw, e2m1, exponents, float8, in_memory, nibbles, quantised
from tests.kit.tensor_files import RawTensor, read_tensors, write_tensors

BLOCKS = {"weight_block_size": [128, 128], "activation_scheme": "dynamic"}
RANDOM = np.random.default_rng(29)


def codes(*shape: int) -> RawTensor:
    data = RANDOM.integers(0, 256, math.prod(shape), dtype=np.uint8)
    data[data & 0x7F == 0x7F] = 0x7E
    return RawTensor("F8_E4M3", shape, data.tobytes())


def scales(*shape: int, dtype: str = "F32") -> RawTensor:
    return RawTensor.of(RANDOM.uniform(1e-4, 1e-3, shape), dtype)


def bytes_of(low: int, high: int, *shape: int, dtype: str = "U8") -> RawTensor:
    return RawTensor(dtype, shape, RANDOM.integers(low, high, math.prod(shape), dtype=np.uint8).tobytes())


def other(dtype: str, *shape: int) -> RawTensor:
    sizes = {"F32": 4, "BF16": 2, "F64": 8, "I32": 4}
    return RawTensor(dtype, shape, bytes(math.prod(shape) * sizes.get(dtype, 1)))


def read(tensors: Raw, block: Mapping[str, Any] = BLOCKS, method: str = "fp8") -> Reading:
    return fp8.read(quantised(method, tensors, block))


def values(reading: Reading, tensors: Raw, name: str = "x.weight") -> Array:
    decoding = reading.decoded[name]
    tensor = DecodedTensor(decoding, in_memory(tensors))
    found: Array = tensor.values(0, math.prod(decoding.shape)).to(torch.float64).numpy().reshape(decoding.plain_shape)
    rounded = tensor.rounded(0, found.size, torch.bfloat16).to(torch.float64).numpy().reshape(found.shape)
    np.testing.assert_array_equal(rounded, round_once(found, "BF16"))
    return found


def spread(scale: Array, down: int, across: int, shape: tuple[int, int]) -> Array:
    return np.repeat(np.repeat(scale, down, 0), across, 1)[: shape[0], : shape[1]]


@pytest.mark.parametrize(
    ("rows", "columns", "dtype"),
    [(256, 384, "F32"), (576, 200, "F32"), (192, 128, "F32"), (256, 128, "BF16"), (256, 128, "F16")],
)
def test_blocks_of_128_are_cut_at_the_edges(rows: int, columns: int, dtype: str) -> None:
    scale = scales(-(-rows // 128), -(-columns // 128), dtype=dtype)
    tensors = {"x.weight": codes(rows, columns), "x.weight_scale_inv": scale}
    expected = float8(tensors["x.weight"].data).reshape(rows, columns) * spread(scale.values, 128, 128, (rows, columns))
    np.testing.assert_array_equal(values(read(tensors), tensors), expected)


def test_192_rows_are_128_and_64() -> None:
    ones = RawTensor("F8_E4M3", (192, 8), b"\x38" * 192 * 8)
    tensors = {"x.weight": ones, "x.weight_scale_inv": RawTensor.of(np.array([[1.0], [40.0]]), "F32")}
    found = values(read(tensors), tensors)
    assert found[:128].max() == found[:128].min() == 1
    assert found[128:].max() == found[128:].min() == 40


@pytest.mark.parametrize("name", ["weight_scale_inv", "weight_scale", "scale", "qscale_weight"])
def test_all_names_of_the_scale(name: str) -> None:
    tensors = {"x.weight": codes(4, 6), f"x.{name}": scales(1, 1), "norm.scale": scales(4)}
    reading = read(tensors)
    assert reading.decoded["x.weight"].parts == ("x.weight", f"x.{name}")
    assert "norm.scale" not in reading.dropped


def test_scales_that_are_exponents_are_exact_in_bf16() -> None:
    tensors = {"x.weight": codes(256, 256), "x.weight_scale_inv": bytes_of(100, 140, 2, 2, dtype="F8_E8M0")}
    found = values(read(tensors), tensors)
    scale = exponents(tensors["x.weight_scale_inv"].data).reshape(2, 2)
    np.testing.assert_array_equal(
        found, float8(tensors["x.weight"].data).reshape(256, 256) * spread(scale, 128, 128, (256, 256))
    )
    np.testing.assert_array_equal(found, round_once(found, "BF16"))


@pytest.mark.parametrize(
    "block", [{"weight_block_size": [1, 32]}, {}, {"weight_block_size": [1, 32], "scale_fmt": "ue8m0"}]
)
def test_mxfp8_has_bytes_of_exponents(block: dict[str, Any]) -> None:
    tensors = {"x.weight": codes(6, 96), "x.weight_scale_inv": bytes_of(100, 140, 6, 3)}
    found = values(read(tensors, block, "mxfp8"), tensors)
    scale = exponents(tensors["x.weight_scale_inv"].data).reshape(6, 3)
    np.testing.assert_array_equal(
        found, float8(tensors["x.weight"].data).reshape(6, 96) * spread(scale, 1, 32, (6, 96))
    )
    np.testing.assert_array_equal(found, round_once(found, "BF16"))


@pytest.mark.parametrize("block", [{}, {"weight_block_size": None}])
@pytest.mark.parametrize("shape", [(), (1,)])
def test_a_scale_for_the_whole_tensor(shape: tuple[int, ...], block: dict[str, Any]) -> None:
    tensors = {"x.weight": codes(300, 40), "x.weight_scale": scales(*shape), "x.input_scale": scales()}
    reading = read(tensors, {**block, "activation_scheme": "static"})
    expected = float8(tensors["x.weight"].data).reshape(300, 40) * tensors["x.weight_scale"].values.reshape(())
    np.testing.assert_array_equal(values(reading, tensors), expected)
    assert reading.dropped == {"x.input_scale"}


@pytest.mark.parametrize("shape", [(64, 1), (64,)])
@pytest.mark.parametrize("method", ["fp8", "fbgemm_fp8"])
def test_a_scale_for_each_row_of_a_square(shape: tuple[int, ...], method: str) -> None:
    tensors = {"x.weight": codes(64, 64), "x.weight_scale": scales(*shape)}
    reading = read(tensors, {"weight_block_size": None}, method)
    expected = float8(tensors["x.weight"].data).reshape(64, 64) * tensors["x.weight_scale"].values.reshape(64, 1)
    np.testing.assert_array_equal(values(reading, tensors), expected)


def test_every_code_and_the_sign_of_zero() -> None:
    every = bytes(code for code in range(256) if code & 0x7F != 0x7F)
    tensors = {
        "x.weight": RawTensor("F8_E4M3", (2, 127), every),
        "x.weight_scale_inv": RawTensor.of(np.ones((1, 1)), "F32"),
    }
    found = values(read(tensors), tensors).reshape(-1)
    table = torch.frombuffer(bytearray(every), dtype=torch.float8_e4m3fn).to(torch.float64).numpy()
    assert found.tobytes() == table.tobytes()
    assert np.signbit(found[127])


def test_experts_in_fp4_beside_fp8() -> None:
    block = {**BLOCKS, "scale_fmt": "ue8m0", "expert_dtype": "fp4"}
    tensors = {
        "e.0.w1.weight": bytes_of(0, 256, 8, 32, dtype="I8"),
        "e.0.w1.scale": bytes_of(110, 130, 8, 2, dtype="F8_E8M0"),
        "x.weight": codes(8, 64),
        "x.scale": bytes_of(110, 130, 1, 1, dtype="F8_E8M0"),
    }
    reading = read(tensors, block)
    scale = exponents(tensors["e.0.w1.scale"].data).reshape(8, 2)
    expected = e2m1(nibbles(tensors["e.0.w1.weight"].data)).reshape(8, 64) * spread(scale, 1, 32, (8, 64))
    np.testing.assert_array_equal(values(reading, tensors, "e.0.w1.weight"), expected)
    assert reading.decoded["x.weight"].shape == (8, 64)


def test_experts_in_one_tensor_have_a_grid_each() -> None:
    tensors = {
        "experts.gate_up_proj": codes(2, 512, 130),
        "experts.gate_up_proj_scale_inv": scales(2, 4, 2),
        "experts.down_proj": codes(2, 130, 256),
        "experts.down_proj_scale_inv": scales(2, 2, 2),
        "experts.gate_up_proj_activation_scale": scales(2),
    }
    reading = read(tensors)
    found = values(reading, tensors, "experts.gate_up_proj")
    for expert in range(2):
        part = float8(tensors["experts.gate_up_proj"].data).reshape(2, 512, 130)[expert]
        scale = tensors["experts.gate_up_proj_scale_inv"].values[expert]
        np.testing.assert_array_equal(found[expert], part * spread(scale, 128, 128, (512, 130)))
    assert values(reading, tensors, "experts.down_proj").shape == (2, 130, 256)
    assert reading.dropped == {"experts.gate_up_proj_activation_scale"}


def test_tensors_decide_and_lists_that_differ_are_notices() -> None:
    tensors = {
        "a.q_proj.weight": codes(4, 4),
        "a.q_proj.weight_scale_inv": scales(1, 1),
        "b.q_proj.weight": other("BF16", 4, 4),
        "lm_head.weight": codes(4, 4),
        "lm_head.weight_scale_inv": scales(1, 1),
        "a.gate.weight": other("BF16", 4, 4),
    }
    reading = read(tensors, {**BLOCKS, "modules_to_not_convert": ["lm_head"]})
    assert set(reading.decoded) == {"a.q_proj.weight", "lm_head.weight"}
    skipped, dense = reading.notices
    assert "'lm_head'" in skipped
    assert "'b.q_proj'" in dense
    assert not read(tensors, {**BLOCKS, "ignored_layers": ["b"]}).notices[1:]


@pytest.mark.parametrize("part", ["activation_scale", "input_scale", "k_scale", "v_scale", "q_scale", "kv_scale"])
def test_scales_of_activations_are_dropped(part: str) -> None:
    tensors = {"x.weight": codes(4, 4), "x.weight_scale_inv": scales(1, 1), f"x.{part}": scales()}
    assert read(tensors).dropped == {f"x.{part}"}


@pytest.mark.parametrize("number", [0.0, -0.25])
def test_scales_of_zero_and_below(number: float) -> None:
    tensors = {"x.weight": codes(4, 4), "x.weight_scale_inv": RawTensor.of(np.array([[number]]), "F32")}
    np.testing.assert_array_equal(
        values(read(tensors), tensors), float8(tensors["x.weight"].data).reshape(4, 4) * number
    )


@pytest.mark.parametrize("scale", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_stays_so(scale: float) -> None:
    ones = RawTensor("F8_E4M3", (2, 2), b"\x38\x38\x7f\x38")
    tensors = {"x.weight": ones, "x.weight_scale_inv": RawTensor("F32", (1, 1), np.float32(scale).tobytes())}
    tensor = DecodedTensor(read(tensors).decoded["x.weight"], in_memory(tensors))
    assert not tensor.values(0, 4).isfinite().any()
    assert not tensor.rounded(0, 4, torch.bfloat16).isfinite().any()
    sane = {**tensors, "x.weight_scale_inv": scales(1, 1)}
    tensor = DecodedTensor(read(sane).decoded["x.weight"], in_memory(sane))
    assert tensor.values(0, 4).isfinite().tolist() == [True, True, False, True]
    assert tensor.rounded(0, 4, torch.bfloat16).isfinite().tolist() == [True, True, False, True]


GOOD = {"x.weight": codes(256, 384), "x.weight_scale_inv": scales(2, 3)}
NULL: dict[str, Any] = {"weight_block_size": None}


@pytest.mark.parametrize(
    ("tensors", "block", "said"),
    [
        ({"x.weight": GOOD["x.weight"]}, BLOCKS, "'x.weight_scale_inv' is expected"),
        ({"x.weight_scale_inv": scales(2, 3)}, BLOCKS, "'x.weight' of F8_E4M3 is expected"),
        ({**GOOD, "y.weight_scale": scales(1)}, BLOCKS, "'y.weight' of F8_E4M3 is expected"),
        ({**GOOD, "x.weight_scale_inv": scales(1, 3)}, BLOCKS, "[1, 3] for 'x.weight' of shape [256, 384], and [2, 3]"),
        ({**GOOD, "x.weight_scale_inv": scales(3, 2)}, BLOCKS, "[3, 2] for 'x.weight' of shape [256, 384], and [2, 3]"),
        ({**GOOD, "x.weight_scale_inv": scales(2, 3, 1)}, BLOCKS, "[2, 3, 1] for 'x.weight'"),
        ({**GOOD, "x.weight_scale_inv": scales(1)}, BLOCKS, "[1] for 'x.weight'"),
        ({**GOOD, "x.weight_scale_inv": scales(256, 1)}, BLOCKS, "[256, 1] for 'x.weight'"),
        ({**GOOD, "x.weight_scale_inv": scales(384)}, NULL, "[384] for 'x.weight'"),
        ({**GOOD, "x.weight_scale_inv": scales(2, 3)}, NULL, "[2, 3] for 'x.weight'"),
        ({**GOOD, "x.weight_scale_inv": other("I32", 2, 3)}, BLOCKS, "is I32"),
        ({**GOOD, "x.weight_scale_inv": other("F64", 2, 3)}, BLOCKS, "is F64"),
        ({**GOOD, "x.weight_scale_inv": other("U8", 2, 3)}, BLOCKS, "is U8"),
        ({**GOOD, "x.weight_scale": scales(2, 3)}, BLOCKS, "two scales, 'x.weight_scale_inv' and 'x.weight_scale'"),
        ({**GOOD, "x.foo": scales(2, 3)}, BLOCKS, "'x.foo' lies beside the codes"),
        ({**GOOD, "x.pre_quant_scale": scales(384)}, BLOCKS, "'x.pre_quant_scale' lies beside the codes"),
        ({**GOOD, "x.weight": other("F8_E5M2", 256, 384)}, BLOCKS, "is F8_E5M2, and F8_E4M3"),
        ({**GOOD, "x.weight": other("I8", 256, 384)}, BLOCKS, "is I8, and F8_E4M3"),
        ({**GOOD, "x.weight": other("BF16", 256, 384)}, BLOCKS, "is the scale of no weight"),
        ({"x.weight": other("U8", 4, 8), "x.weight_scale": other("F8_E4M3", 4, 1)}, BLOCKS, "is U8"),
        ({"x.weight": codes(4, 2, 2), "x.weight_scale_inv": scales(1, 1)}, BLOCKS, "[4, 2, 2], and a matrix"),
        ({"e.gate_up_proj": codes(2, 384, 4), "e.gate_up_proj_scale_inv": scales(2, 4, 1)}, BLOCKS, "gate_up_proj"),
        ({"e.gate_up_proj": codes(2, 256, 4)}, BLOCKS, "'e.gate_up_proj_scale_inv' is expected"),
        (GOOD, {"weight_block_size": [128]}, "weight_block_size is [128]"),
        (GOOD, {"weight_block_size": [128, 0]}, "weight_block_size is [128, 0]"),
        (GOOD, {"weight_block_size": [128, True]}, "weight_block_size is"),
        (GOOD, {"weight_block_size": "128"}, "weight_block_size is '128'"),
        (GOOD, {**BLOCKS, "fmt": "e5m2"}, "fmt is 'e5m2'"),
        (GOOD, {**BLOCKS, "scale_fmt": ["float"]}, "scale_fmt is ['float']"),
        (GOOD, {**BLOCKS, "expert_dtype": "int4"}, "expert_dtype is 'int4'"),
        (GOOD, {**BLOCKS, "modules_to_not_convert": "lm_head"}, "modules_to_not_convert is 'lm_head'"),
    ],
)
def test_what_is_not_understood_is_refused(tensors: Raw, block: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidBaseError) as caught:
        read(tensors, block)
    assert caught.value.code == "quantised_base"
    assert "(fp8)" in str(caught.value).replace("'", "")
    assert said in str(caught.value)


@pytest.mark.parametrize(
    "tensors",
    [
        {"x.weight": codes(4, 8), "x.weight_scale": scales(4, 1, dtype="BF16")},
        {"x.weight": codes(4, 8), "x.weight_scale": scales(1)},
        {"e.gate_up_proj": codes(2, 8, 4), "e.gate_up_proj_scale": scales(2, 1, 8)},
    ],
)
def test_fbgemm_has_a_float32_for_each_row(tensors: Raw) -> None:
    with pytest.raises(InvalidBaseError) as caught:
        read(tensors, {"activation_scale_ub": 1200.0}, "fbgemm_fp8")
    assert caught.value.code == "quantised_base"


@pytest.mark.slow
def test_transformers_decodes_the_same() -> None:
    """Its result is R rounded once, where the grid divides the matrix."""
    from transformers.integrations.finegrained_fp8 import Fp8Dequantize

    theirs = Fp8Dequantize(None)
    for scale in (scales(2, 3), scales(2, 3, dtype="BF16"), bytes_of(100, 140, 2, 3, dtype="F8_E8M0")):
        tensors = {"x.weight": codes(256, 384), "x.weight_scale_inv": scale}
        kinds = {"F32": torch.float32, "BF16": torch.bfloat16, "F8_E8M0": torch.float8_e8m0fnu}
        stored = torch.frombuffer(bytearray(scale.data), dtype=kinds[scale.dtype]).view(2, 3)
        weight = torch.frombuffer(bytearray(tensors["x.weight"].data), dtype=torch.float8_e4m3fn).view(256, 384)
        expected = theirs._dequantize_one(weight, stored, torch.bfloat16)
        ours = DecodedTensor(read(tensors).decoded["x.weight"], in_memory(tensors))
        assert torch.equal(ours.rounded(0, 256 * 384, torch.bfloat16).view(256, 384), expected)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["F32", "BF16"])
def test_a_checkpoint_that_transformers_loads(tmp_path: Path, dtype: str) -> None:
    """A whole tiny model: every weight that transformers dequantises is R rounded once into bf16."""
    from transformers import AutoModelForCausalLM, Qwen3Config, Qwen3ForCausalLM

    config = Qwen3Config(
        vocab_size=64, hidden_size=128, intermediate_size=256, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, head_dim=128, tie_word_embeddings=False, dtype="bfloat16",
    )  # fmt: skip
    Qwen3ForCausalLM(config).to(torch.bfloat16).save_pretrained(tmp_path)
    tensors: dict[str, RawTensor] = {}
    for name, tensor in read_tensors(tmp_path / "model.safetensors").items():
        tensors[name] = tensor
        if name.endswith("_proj.weight"):
            rows, columns = tensor.shape
            tensors[name] = codes(rows, columns)
            tensors[f"{name}_scale_inv"] = scales(rows // 128, columns // 128, dtype=dtype)
    write_tensors(tmp_path / "model.safetensors", tensors)
    document = json.loads((tmp_path / "config.json").read_text())
    document["quantization_config"] = {"quant_method": "fp8", **BLOCKS}
    (tmp_path / "config.json").write_text(json.dumps(document))
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.bfloat16).state_dict()
    reading = read(tensors)
    assert len(reading.decoded) == 7
    for name, decoding in reading.decoded.items():
        ours = DecodedTensor(decoding, in_memory(tensors)).rounded(0, math.prod(decoding.shape), torch.bfloat16)
        assert torch.equal(ours.view(decoding.shape), loaded[name]), name
