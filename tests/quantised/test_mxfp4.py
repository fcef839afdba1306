"""MXFP4 checkpoints as gpt-oss has them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from registry.errors import InvalidBaseError
from registry.quantised import mxfp4
from registry.tensors.quantised.decoding import DecodedTensor
from tests.kit import round_once
from tests.kit.quantised import Raw, e2m1, exponents, in_memory, nibbles, quantised
from tests.kit.tensor_files import RawTensor

RANDOM = np.random.default_rng(4)
EXPERTS = "m.mlp.experts."


def byte(*shape: int, low: int = 0, high: int = 256, dtype: str = "U8") -> RawTensor:
    return RawTensor(dtype, shape, RANDOM.integers(low, high, math.prod(shape), dtype=np.uint8).tobytes())


def experts(blocks: RawTensor, scales: RawTensor, projection: str = "gate_up_proj") -> dict[str, RawTensor]:
    return {f"{EXPERTS}{projection}_blocks": blocks, f"{EXPERTS}{projection}_scales": scales}


def decoded(tensors: Raw, projection: str = "gate_up_proj") -> torch.Tensor:
    decoding = mxfp4.read(quantised("mxfp4", tensors)).decoded[EXPERTS + projection]
    tensor = DecodedTensor(decoding, in_memory(tensors))
    return tensor.values(0, math.prod(decoding.shape)).view(decoding.plain_shape)


def test_the_plain_tensor_is_the_transpose_and_gate_and_up_stay_interleaved() -> None:
    tensors = {
        **experts(byte(3, 10, 4, 16), byte(3, 10, 4, low=100, high=130)),
        **experts(byte(3, 5, 2, 16), byte(3, 5, 2, low=100, high=130), "down_proj"),
        f"{EXPERTS}gate_up_proj_bias": RawTensor.of(np.ones((3, 10)), "BF16"),
        "m.self_attn.q_proj.weight": RawTensor.of(np.ones((4, 4)), "BF16"),
    }
    for projection, rows, runs in (("gate_up_proj", 10, 4), ("down_proj", 5, 2)):
        codes = e2m1(nibbles(tensors[f"{EXPERTS}{projection}_blocks"].data)).reshape(3, rows, runs, 32)
        scale = exponents(tensors[f"{EXPERTS}{projection}_scales"].data).reshape(3, rows, runs, 1)
        expected = (codes * scale).reshape(3, rows, runs * 32).swapaxes(1, 2)
        found = decoded(tensors, projection)
        assert found.shape == (3, runs * 32, rows)
        np.testing.assert_array_equal(found.to(torch.float64).numpy(), expected)
        np.testing.assert_array_equal(round_once(expected, "BF16"), expected)  # bf16 holds them
    reading = mxfp4.read(quantised("mxfp4", tensors))
    assert set(reading.decoded) == {f"{EXPERTS}gate_up_proj", f"{EXPERTS}down_proj"}
    assert reading.kind == "mxfp4"
    assert not reading.notices


@pytest.mark.parametrize(
    ("code", "exponent", "value"),
    [(0x11, 0, 2.0**-128), (0x88, 254, -0.0), (0x00, 254, 0.0), (0x22, 254, 2.0**127)],
)
def test_the_ends_of_the_scale(code: int, exponent: int, value: float) -> None:
    tensors = experts(RawTensor("U8", (1, 1, 1, 16), bytes([code] * 16)), RawTensor("U8", (1, 1, 1), bytes([exponent])))
    decoding = mxfp4.read(quantised("mxfp4", tensors)).decoded[f"{EXPERTS}gate_up_proj"]
    found = DecodedTensor(decoding, in_memory(tensors)).rounded(0, 32, torch.bfloat16)  # 2^-128 is a subnormal of bf16
    expected = torch.full((32,), value, dtype=torch.bfloat16)
    assert torch.equal(found.view(torch.int16), expected.view(torch.int16))


def test_exponent_255_is_no_number() -> None:
    tensors = experts(byte(1, 1, 1, 16), RawTensor("U8", (1, 1, 1), b"\xff"))
    assert decoded(tensors).isnan().all()  # transformers makes it 2^128


def test_a_list_that_names_quantised_experts_is_a_notice() -> None:
    tensors = experts(byte(1, 2, 1, 16), byte(1, 2, 1, high=120))
    said = {"modules_to_not_convert": ["m.mlp"]}
    assert "decoded, as their tensors say" in mxfp4.read(quantised("mxfp4", tensors, said)).notices[0]


@pytest.mark.parametrize(
    ("tensors", "said"),
    [
        ({f"{EXPERTS}down_proj_blocks": byte(1, 2, 1, 16)}, "has no 'm.mlp.experts.down_proj_scales' beside it"),
        ({f"{EXPERTS}down_proj_scales": byte(1, 2, 1)}, "has no 'm.mlp.experts.down_proj_blocks' beside it"),
        (
            experts(byte(1, 2, 1, 16), byte(1, 2, 2)),
            "[1, 2, 1, 16] and 'm.mlp.experts.gate_up_proj_scales' has [1, 2, 2]",
        ),
        (experts(byte(1, 2, 1, 32), byte(1, 2, 1)), "16 bytes of codes for each scale is expected"),
        (experts(byte(1, 2, 16), byte(1, 2, 1)), "is U8 [1, 2, 16], and U8 (experts, out, in / 32, 16)"),
        (experts(byte(1, 2, 1, 16), byte(1, 2, 1, dtype="F8_E8M0")), "is F8_E8M0 [1, 2, 1]"),
        (
            {"block.0.mlp.mlp1_weight.blocks": byte(1, 2, 1, 16), "block.0.mlp.mlp1_weight.scales": byte(1, 2, 1)},
            "original/",
        ),
    ],
)
def test_what_is_not_understood_is_refused(tensors: Raw, said: str) -> None:
    with pytest.raises(InvalidBaseError) as caught:
        mxfp4.read(quantised("mxfp4", tensors))
    assert caught.value.code == "quantised_base"
    assert said in str(caught.value)


@pytest.mark.slow
def test_transformers_decodes_the_same() -> None:
    from transformers.integrations.mxfp4 import convert_moe_packed_tensors

    tensors = experts(byte(2, 12, 3, 16), byte(2, 12, 3, low=90, high=150))
    blocks, scales = (torch.frombuffer(bytearray(tensor.data), dtype=torch.uint8) for tensor in tensors.values())
    theirs = convert_moe_packed_tensors(blocks.view(2, 12, 3, 16), scales.view(2, 12, 3), dtype=torch.bfloat16)
    assert torch.equal(decoded(tensors).to(torch.bfloat16), theirs)
