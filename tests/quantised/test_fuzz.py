"""Checkpoints with faults: refused in a sentence, or read as something that numpy and the registry compute alike."""

from __future__ import annotations

import json
import math
import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.errors import InvalidBaseError
from registry.files.header import SIZES
from registry.quantised.reading import MAPS
from registry.quantised.table import READERS
from tests.fuzz.config_texts import ODD_TEXTS, VALUES, dumped
from tests.fuzz.effort import LONG, QUICK, said_well
from tests.kit.tensor_files import RawTensor
from tests.quantised.oracle import decoded, read

Checkpoint = tuple[dict[str, Any], dict[str, RawTensor]]
LARGEST = 1 << 16  # elements that are multiplied out


def raw(dtype: str, *shape: int) -> RawTensor:
    """Numbers without NaN and infinity, whatever the dtype."""
    count = math.prod(shape)
    random = np.random.default_rng(count)
    if dtype in ("F32", "F16", "F64"):
        return RawTensor(dtype, shape, random.standard_normal(count).astype(f"<f{SIZES[dtype]}").tobytes())
    data = random.integers(0, 60, count * SIZES[dtype], dtype=np.uint8)
    return RawTensor(dtype, shape, data.tobytes())


def state(**more: Any) -> RawTensor:
    return text(
        json.dumps({"quant_type": "nf4", "blocksize": 64, "dtype": "float16", "shape": [6, 50], **more}).encode()
    )


def text(data: bytes) -> RawTensor:
    return RawTensor("U8", (len(data),), data)


def group(form: str, **weights: Any) -> dict[str, Any]:
    return {"format": form, "weights": weights, "targets": ["Linear"]}


NF4_MAP = RawTensor("F32", (16,), struct.pack("<16f", *MAPS["nf4"]))
GROUPS = {
    "a": group("pack-quantized", num_bits=4, strategy="group", group_size=32, symmetric=False),
    "b": group("float-quantized", num_bits=8, type="float", strategy="block", block_structure=[4, 32]),
    "c": group("nvfp4-pack-quantized", num_bits=4, type="float", strategy="tensor_group", group_size=16),
    "d": group("int-quantized", num_bits=8, strategy="channel"),
    "e": group("mxfp8-quantized", num_bits=8, type="float", strategy="group", group_size=32),
}
CHECKPOINTS: dict[str, Checkpoint] = {
    "bitsandbytes": (
        {"load_in_4bit": True, "quant_method": "bitsandbytes"},
        {
            "m.weight": raw("U8", 150, 1),
            "m.weight.absmax": raw("U8", 5),
            "m.weight.quant_map": NF4_MAP,
            "m.weight.nested_absmax": raw("F32", 1),
            "m.weight.nested_quant_map": raw("F32", 256),
            "m.weight.quant_state.bitsandbytes__nf4": state(
                nested_blocksize=256, nested_dtype="float32", nested_offset=0.5
            ),
            "n.weight": raw("F16", 75, 1),
            "n.weight.absmax": raw("F32", 5),
            "n.weight.quant_map": NF4_MAP,
            "n.weight.quant_state.bitsandbytes__nf4": state(),
        },
    ),
    "int8": (
        {"load_in_8bit": True, "quant_method": "bitsandbytes"},
        {"m.weight": raw("I8", 6, 50), "m.SCB": raw("F32", 6), "m.weight_format": RawTensor("U8", (), b"\0")},
    ),
    "compressed-tensors": (
        {"quant_method": "compressed-tensors", "format": "mixed-precision", "config_groups": GROUPS},
        {
            "a.weight_packed": raw("I32", 12, 8),
            "a.weight_scale": raw("F16", 12, 2),
            "a.weight_shape": RawTensor("I64", (2,), struct.pack("<2q", 12, 64)),
            "a.weight_zero_point": raw("I32", 2, 2),
            "b.weight": raw("F8_E4M3", 10, 40),
            "b.weight_scale": raw("F32", 3, 2),
            "c.weight_packed": raw("U8", 12, 16),
            "c.weight_scale": raw("F8_E4M3", 12, 2),
            "c.weight_global_scale": raw("F32", 1),
            "d.weight": raw("I8", 12, 10),
            "d.weight_scale": raw("F16", 12, 1),
            "e.weight": raw("F8_E4M3", 12, 64),
            "e.weight_scale": raw("U8", 12, 2),
            "e.input_scale": raw("F32", 1),
        },
    ),
    "fp8": (
        {"quant_method": "fp8", "weight_block_size": [4, 32], "activation_scheme": "dynamic"},
        {"m.weight": raw("F8_E4M3", 10, 40), "m.weight_scale_inv": raw("F32", 3, 2), "m.input_scale": raw("F32")},
    ),
    "mxfp4": (
        {"quant_method": "mxfp4", "modules_to_not_convert": ["lm_head"]},
        {
            "m.experts.gate_up_proj_blocks": raw("U8", 2, 8, 2, 16),
            "m.experts.gate_up_proj_scales": raw("U8", 2, 8, 2),
            "m.experts.gate_up_proj_bias": raw("BF16", 2, 8),
        },
    ),
    "modelopt": (
        {"quant_method": "modelopt", "quant_algo": "NVFP4", "group_size": 16},
        {
            "m.weight": raw("U8", 12, 16),
            "m.weight_scale": raw("F8_E4M3", 12, 2),
            "m.weight_scale_2": raw("F32"),
            "m.input_scale": raw("F32"),
        },
    ),
}
SHAPES = st.lists(st.sampled_from([0, 1, 2, 3, 5, 12, 16, 32, 40, 64]), max_size=4).filter(
    lambda shape: math.prod(shape) <= LARGEST
)
PARTS = [
    "weight",
    "weight_scale",
    "weight_scale_inv",
    "weight_packed",
    "weight_shape",
    "weight_zero_point",
    "weight_g_idx",
    "weight_global_scale",
    "SCB",
    "weight_scale_2",
    "weight_format",
    "weight.absmax",
    "weight.foo",
    "weight.quant_state.bitsandbytes__fp4",
    "qweight",
    "scale",
    "bias",
]


@st.composite
def checkpoints(draw: st.DrawFn) -> Checkpoint:
    """A checkpoint of a method, with up to three faults."""
    block, tensors = CHECKPOINTS[draw(st.sampled_from(list(CHECKPOINTS)))]
    block, tensors = json.loads(json.dumps(block)), dict(tensors)
    for _ in range(draw(st.integers(0, 3))):
        name = draw(st.sampled_from(sorted(tensors)))
        match draw(st.integers(0, 8)):
            case 0:
                tensors[name] = raw(draw(st.sampled_from(sorted(SIZES))), *draw(SHAPES))
            case 1:
                tensors[name] = raw(tensors[name].dtype, *draw(st.permutations(tensors[name].shape)))
            case 2:
                del tensors[name]
            case 3:
                owner = name.partition(".")[0]
                tensors[f"{owner}.{draw(st.sampled_from(PARTS))}"] = tensors[name]
            case 4:
                odd = draw(st.sampled_from(["é", "a\nb", "x" * 1000, "", ".", "a..weight", "\u202e"]))
                tensors[f"{odd}.{name}"] = tensors[name]
            case 5:
                block[draw(st.sampled_from([*block, "format", "quant_algo", "sparsity_config"]))] = draw(VALUES)
            case 6:
                _spoil(draw, draw(st.sampled_from([block, *_objects(block)])))
            case 7:
                _spoil_state(draw, tensors)
            case _:
                data = bytearray(tensors[name].data)
                if data:
                    data[draw(st.integers(0, len(data) - 1))] = draw(st.integers(0, 255))
                tensors[name] = RawTensor(tensors[name].dtype, tensors[name].shape, bytes(data))
        if not tensors:
            break
    where = draw(st.sampled_from(["quantization_config"] * 5 + ["compression_config"]))
    config: dict[str, Any] = {where: block, "model_type": draw(st.sampled_from(["llama", "gpt2"]))}
    if draw(st.integers(0, 9)) == 0:
        config = {"text_config": config, "quantization_config": draw(VALUES)}
    return config, tensors


def _objects(block: dict[str, Any]) -> list[dict[str, Any]]:
    inner = [value for value in block.values() if isinstance(value, dict)]
    return inner + [found for value in inner for found in _objects(value)]


def _spoil(draw: st.DrawFn, where: dict[str, Any]) -> None:
    key = draw(
        st.sampled_from([*where, "num_bits", "group_size", "block_structure", "weights", "strategy", "symmetric"])
    )
    where[key] = draw(VALUES | st.sampled_from([3, 4, 8, 16, 32, "block", "tensor", [4, 4], False]))


def _spoil_state(draw: st.DrawFn, tensors: dict[str, RawTensor]) -> None:
    for name in tensors:
        if "quant_state" in name:
            document = json.loads(state(nested_blocksize=256, nested_dtype="float32", nested_offset=0.5).data)
            document[draw(st.sampled_from([*document, "more"]))] = draw(
                VALUES | st.sampled_from([32, 64, 256, [5, 60], [6, 5, 10], [300, 1], [2**40, 2**40]])
            )
            members = [(dumped(key), dumped(value)) for key, value in document.items()]
            if draw(st.integers(0, 3)) == 0:
                members.append((members[0][0], draw(st.sampled_from(ODD_TEXTS))))
            written = "{" + ",".join(f"{key}:{value}" for key, value in members) + "}"
            tensors[name] = text(written.encode("utf-8", "surrogatepass"))


def check(checkpoint: Checkpoint) -> None:
    config, tensors = checkpoint
    try:
        reading = read(config, tensors)
    except InvalidBaseError as problem:
        said_well(problem, "quantised_base", "bad_index")
        return
    if reading is None:
        return
    assert all(len(notice) < 1200 for notice in reading.notices)
    assert reading.dropped <= tensors.keys()
    for how in reading.decoded.values():
        assert set(how.parts) <= tensors.keys()
        assert 0 < math.prod(how.shape) <= LARGEST * 16
    with np.errstate(all="ignore"):
        decoded(reading, tensors)


def test_every_reader_of_the_table_is_tried() -> None:
    """A new storage format is a file, a row of the table, and a checkpoint here, to which all checks below apply."""
    tried = {READERS[block["quant_method"]] for block, _ in CHECKPOINTS.values()}
    assert tried == set(READERS.values())


@pytest.mark.parametrize("name", list(CHECKPOINTS))
def test_what_is_spoilt_is_right_at_first(name: str) -> None:
    block, tensors = CHECKPOINTS[name]
    reading = read({"quantization_config": block, "model_type": "llama"}, tensors)
    assert reading is not None
    assert reading.decoded
    assert len(decoded(reading, tensors)) == len(reading.decoded)


@QUICK
@given(checkpoints())
def test_faults_are_refused_or_mean_what_is_computed(checkpoint: Checkpoint) -> None:
    check(checkpoint)


@pytest.mark.slow
@pytest.mark.long
@LONG
@given(checkpoints())
def test_faults_at_length(checkpoint: Checkpoint) -> None:
    check(checkpoint)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["bitsandbytes", "compressed-tensors"])
def test_a_header_of_90_000_tensors(name: str) -> None:
    """Also with names of 1,000 characters and as many groups as there may be: two to four seconds of CPU, measured."""
    block, tensors = CHECKPOINTS[name]
    wide = {f"g{i}": group("pack-quantized", num_bits=4, strategy="group", group_size=65 + i) for i in range(59)}
    if name == "compressed-tensors":
        block = {**block, "config_groups": {**wide, **GROUPS}}
    copies = range(90_000 // len(tensors))
    many = {f"{'x' * 900}.{i}.{part}": tensor for i in copies for part, tensor in tensors.items()}
    reading = read({"quantization_config": block, "model_type": "llama"}, many)
    assert reading is not None
    assert len(reading.decoded) == len(copies) * {"bitsandbytes": 2, "compressed-tensors": 5}[name]
