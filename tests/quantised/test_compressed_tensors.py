"""Files that compressed-tensors writes, read and multiplied out, against its own decompressors; and what is refused."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from compressed_tensors.compressors.base import BaseCompressor
from compressed_tensors.quantization import QuantizationArgs, QuantizationConfig, QuantizationScheme
from compressed_tensors.quantization.utils import calculate_qparams, generate_gparam

from registry.errors import InvalidBaseError
from registry.quantised.reading import StoredTensor
from registry.quantised.table import read_quantised
from tests.quantised.oracle import decoded_folder, one_thread, read_folder, write_folder

NAME = "model.layers.0.mlp.up_proj"
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "fp8 tensor": ("float-quantized", {"type": "float", "strategy": "tensor"}),
    "fp8 channel": ("float-quantized", {"type": "float", "strategy": "channel"}),
    "fp8 block": ("float-quantized", {"type": "float", "strategy": "block", "block_structure": [16, 64]}),
    "fp8 naive": ("naive-quantized", {"type": "float", "strategy": "channel"}),
    "int8": ("int-quantized", {"strategy": "channel"}),
    "int8 tensor": ("int-quantized", {"strategy": "tensor"}),
    "int8 asymmetric": ("int-quantized", {"strategy": "channel", "symmetric": False}),
    "pack 4 g32": ("pack-quantized", {"num_bits": 4, "strategy": "group", "group_size": 32}),
    "pack 4 g32 asymmetric": (
        "pack-quantized",
        {"num_bits": 4, "strategy": "group", "group_size": 32, "symmetric": False},
    ),
    "pack 4 channel asymmetric": ("pack-quantized", {"num_bits": 4, "strategy": "channel", "symmetric": False}),
    "pack 4 tensor asymmetric": ("pack-quantized", {"num_bits": 4, "strategy": "tensor", "symmetric": False}),
    "pack 8": ("pack-quantized", {"strategy": "channel"}),
    "pack 2": ("pack-quantized", {"num_bits": 2, "strategy": "group", "group_size": 32}),
    "pack 1": ("pack-quantized", {"num_bits": 1, "strategy": "group", "group_size": 32}),
    "nvfp4": (
        "nvfp4-pack-quantized",
        {
            "num_bits": 4,
            "type": "float",
            "strategy": "tensor_group",
            "group_size": 16,
            "scale_dtype": "torch.float8_e4m3fn",
        },
    ),
    "mxfp4": (
        "mxfp4-pack-quantized",
        {"num_bits": 4, "type": "float", "strategy": "group", "group_size": 32, "scale_dtype": "torch.uint8"},
    ),
    "mxfp8": (
        "mxfp8-quantized",
        {"type": "float", "strategy": "group", "group_size": 32, "scale_dtype": "torch.uint8"},
    ),
}


@pytest.fixture(autouse=True, scope="module")
def _quick() -> Iterator[None]:
    with one_thread():
        yield


def compressed(
    case: str, shape: tuple[int, int] = (40, 96), dtype: torch.dtype = torch.bfloat16
) -> tuple[dict[str, torch.Tensor], torch.Tensor, dict[str, Any]]:
    """A module's tensors as the library compresses them, what it decompresses, and the group that says so."""
    form, said = CASES[case]
    args = QuantizationArgs(**said)
    scheme = QuantizationScheme(targets=["Linear"], weights=args, format=form)
    weight = (torch.randn(shape, generator=torch.Generator().manual_seed(7)) * 2).to(dtype)
    state = {"weight": weight}
    whole = None
    if args.strategy == "tensor_group":
        whole = state["weight_global_scale"] = generate_gparam(weight.amin().float(), weight.amax().float())
    state["weight_scale"], state["weight_zero_point"] = calculate_qparams(*_extremes(weight, args), args, whole)
    compressor = BaseCompressor.get_value_from_registry(form)
    tensors = compressor.compress(state, scheme)
    return tensors, compressor.decompress(dict(tensors), scheme)["weight"], scheme.model_dump(mode="json")


def _extremes(weight: torch.Tensor, args: QuantizationArgs) -> tuple[torch.Tensor, torch.Tensor]:
    rows, columns = weight.shape
    if args.strategy == "tensor":
        blocks = weight.reshape(1, -1)
    elif args.strategy == "channel":
        return weight.amin(1, keepdim=True), weight.amax(1, keepdim=True)
    elif args.strategy == "block":
        down, across = args.block_structure
        padded = torch.nn.functional.pad(weight, (0, -columns % across, 0, -rows % down))
        blocks = padded.reshape(-(-rows // down), down, -1, across).transpose(1, 2).flatten(2)
    else:
        blocks = weight.reshape(rows, -1, args.group_size)
    return blocks.amin(-1), blocks.amax(-1)


def config_of(*groups: dict[str, Any], **more: Any) -> dict[str, Any]:
    forms = {group["format"] for group in groups}
    block = QuantizationConfig(
        config_groups={f"group_{i}": group for i, group in enumerate(groups)},
        format=forms.pop() if len(forms) == 1 else "mixed-precision",
        quantization_status="compressed",
    ).model_dump(mode="json")
    return {"model_type": "llama", "quantization_config": {**block, **more}}


@pytest.mark.parametrize("case", list(CASES))
def test_what_the_library_decompresses_is_the_product_rounded_once(case: str, tmp_path: Path) -> None:
    tensors, theirs, group = compressed(case)
    folder = write_folder(tmp_path, {f"{NAME}.{part}": value for part, value in tensors.items()}, config_of(group))
    numbers = decoded_folder(folder)[f"{NAME}.weight"]
    ours = torch.from_numpy(numbers).to(theirs.dtype)
    assert ours.shape == theirs.shape
    if case == "nvfp4":  # the library multiplies scale by scale in float32 first, which may end midway
        assert torch.allclose(ours.double(), theirs.double(), rtol=2**-7, atol=0)
    else:
        assert torch.equal(ours, theirs)
    if "pack 4" in case:
        assert (numbers < 0).any()


def test_float32_scales(tmp_path: Path) -> None:
    tensors, theirs, group = compressed("fp8 channel", dtype=torch.float32)
    folder = write_folder(tmp_path, {f"{NAME}.{part}": value for part, value in tensors.items()}, config_of(group))
    ours = torch.from_numpy(decoded_folder(folder)[f"{NAME}.weight"]).float()
    assert tensors["weight_scale"].dtype == torch.float32
    assert torch.equal(ours, theirs)


def test_mixed_groups_are_told_apart_by_their_tensors(tmp_path: Path) -> None:
    """As Kimi has it: FP8 attention, experts of 4 bits; and a second width of groups, told apart by shapes."""
    cases = {"a": "fp8 block", "b": "pack 4 g32", "c": "mxfp4", "d": "pack 8"}
    made = {name: compressed(case) for name, case in cases.items()}
    wide = {**made["b"][2], "weights": {**made["b"][2]["weights"], "group_size": 48}}
    tensors = {f"m.{name}.{part}": value for name, (parts, _, _) in made.items() for part, value in parts.items()}
    tensors |= {"m.norm.weight": torch.ones(4), "m.a.input_scale": torch.ones(1), "m.k_scale": torch.ones(())}
    groups = [*(group for _, _, group in made.values()), wide]
    folder = write_folder(tmp_path, tensors, config_of(*groups, ignore=["m.a", "re:.*lm_head"]))
    numbers = decoded_folder(folder)
    for name, (_, theirs, _) in made.items():
        assert torch.equal(torch.from_numpy(numbers[f"m.{name}.weight"]).to(theirs.dtype), theirs)
    reading = read_folder(folder)
    assert reading.kind == "compressed-tensors float mxfp4 packed"
    assert reading.dropped == {"m.a.input_scale", "m.k_scale"}
    assert reading.notices == ("ignore lists 'm.a', whose weight is quantised: it is decoded as the others are.",)


def test_older_files_have_zero_points_of_symmetric_codes_and_unpacked_ones(tmp_path: Path) -> None:
    tensors, theirs, group = compressed("pack 4 g32")
    tensors = {**tensors, "weight_zero_point": torch.zeros(40, 3, dtype=torch.int8)}
    folder = write_folder(tmp_path, {f"m.{part}": value for part, value in tensors.items()}, config_of(group))
    assert torch.equal(torch.from_numpy(decoded_folder(folder)["m.weight"]).to(theirs.dtype), theirs)
    packed, theirs, group = compressed("pack 4 g32 asymmetric")
    zeros = compressed_zeros(packed["weight_zero_point"])
    packed = {**packed, "weight_zero_point": zeros}
    folder = write_folder(tmp_path, {f"m.{part}": value for part, value in packed.items()}, config_of(group))
    assert torch.equal(torch.from_numpy(decoded_folder(folder)["m.weight"]).to(theirs.dtype), theirs)


def compressed_zeros(words: torch.Tensor) -> torch.Tensor:
    """Zero points of 40 rows, of words that hold eight of a column."""
    bytes_ = words.t().contiguous().numpy().view(np.uint8)
    return torch.from_numpy(np.stack([bytes_ & 15, bytes_ >> 4], -1).reshape(3, 40).astype(np.int8) - 8).t()


GROUP = {"format": "pack-quantized", "weights": {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 32}}
PACKED = {
    "m.weight_packed": StoredTensor("I32", (40, 12)),
    "m.weight_scale": StoredTensor("BF16", (40, 3)),
    "m.weight_shape": StoredTensor("I64", (2,)),
}
FLOATS = {"m.weight": StoredTensor("F8_E4M3", (40, 96)), "m.weight_scale": StoredTensor("F32", (40, 1))}
CHANNEL = {"format": "float-quantized", "weights": {"num_bits": 8, "type": "float", "strategy": "channel"}}
FP4 = {
    "m.weight_packed": StoredTensor("U8", (40, 48)),
    "m.weight_scale": StoredTensor("F8_E4M3", (40, 6)),
    "m.weight_global_scale": StoredTensor("F32", (1,)),
}
NVFP4 = {
    "format": "nvfp4-pack-quantized",
    "weights": {"num_bits": 4, "type": "float", "strategy": "tensor_group", "group_size": 16},
}


def refused(
    tensors: dict[str, StoredTensor],
    group: Any,
    said: bytes = struct.pack("<2q", 40, 96),
    **block: Any,
) -> str:
    def small(name: str) -> bytes:
        return said

    with pytest.raises(InvalidBaseError) as caught:
        read_quantised(
            {"quantization_config": {"quant_method": "compressed-tensors", "config_groups": {"g": group}, **block}},
            None,
            tensors,
            small,
        )
    assert caught.value.code == "quantised_base"
    assert "('compressed-tensors')" in str(caught.value)
    assert len(str(caught.value)) < 1200
    return str(caught.value)


def having(group: dict[str, Any], **weights: Any) -> dict[str, Any]:
    return {**group, "weights": {**group["weights"], **weights}}


@pytest.mark.parametrize(
    ("block", "named"),
    [
        ({"sparsity_config": {"format": "sparse-24-bitmask"}}, "sparse-24-bitmask"),
        ({"sparsity_config": "x"}, "sparsity_config"),
        ({"transform_config": {"config_groups": {"u": {}}}}, "transform_config"),
        ({"transform_config": [1]}, "transform_config"),
        ({"moe_sparsity_config": {"method": "prune"}}, "moe_sparsity_config"),
        ({"format": "marlin-24"}, "'marlin-24'"),
        ({"format": "mxfp6-pack-quantized"}, "'mxfp6-pack-quantized'"),
        ({"format": ["x"]}, "['x']"),
    ],
)
@pytest.mark.parametrize("tensors", [FLOATS, {"m.weight": StoredTensor("BF16", (4, 4))}], ids=["codes", "plain"])
def test_what_changes_the_meaning_of_weights_is_refused_whatever_the_tensors(
    tensors: dict[str, StoredTensor], block: dict[str, Any], named: str
) -> None:
    assert named in refused(tensors, CHANNEL, **block)


@pytest.mark.parametrize(
    ("group", "named"),
    [
        (having(GROUP, num_bits=3), "codes of 3 bits"),
        (having(GROUP, num_bits=True), "num_bits is True"),
        (having(GROUP, num_bits=16), "num_bits is 16"),
        (having(GROUP, type="float", num_bits=6), "type 'float' and num_bits 6"),
        (having(GROUP, type=["int"]), "type ['int']"),
        (having(GROUP, actorder="group"), "actorder is 'group'"),
        (having(GROUP, actorder=True), "actorder is True"),
        (having(GROUP, group_size=0), "group_size is 0"),
        (having(GROUP, group_size=-1), "group_size is -1"),
        (having(GROUP, group_size=40), "of groups of 40, of 96 columns"),
        (having(GROUP, group_size=48), "'m.weight_scale' is BF16 [40, 3]"),
        (having(GROUP, strategy="token"), "strategy is 'token'"),
        (having(GROUP, strategy=3), "strategy is 3"),
        (having(GROUP, strategy="block"), "block_structure is None"),
        (having(GROUP, strategy="block", block_structure=[0, 4]), "block_structure is [0, 4]"),
        (having(GROUP, symmetric="no"), "symmetric is 'no'"),
        (having(GROUP, symmetric=False), "'m.weight_zero_point' is missing"),
        ({**GROUP, "format": "mxfp6-pack-quantized"}, "config_groups.'g'.format is 'mxfp6-pack-quantized'"),
        ({**GROUP, "format": "int-quantized"}, "no group of config_groups describes"),
        ({**GROUP, "weights": "x"}, "config_groups.'g' is"),
        (["Linear"], "config_groups.'g' is ['Linear']"),
        ({**GROUP, "weights": None}, "no group of config_groups describes"),
    ],
)
def test_groups_that_do_not_say_how_to_read(group: Any, named: str) -> None:
    assert named in refused(PACKED, group)


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"m.weight_packed": ("I32", (40, 11))}, "'m.weight_packed' is I32 [40, 11]"),
        ({"m.weight_packed": ("I64", (40, 12))}, "'m.weight_packed' is I64"),
        ({"m.weight_scale": ("BF16", (39, 3))}, "'m.weight_scale' is BF16 [39, 3], and F32 or BF16 or F16 [40, 3]"),
        ({"m.weight_scale": ("BF16", (3, 40))}, "'m.weight_scale' is BF16 [3, 40]"),
        ({"m.weight_scale": ("F64", (40, 3))}, "'m.weight_scale' is F64"),
        ({"m.weight_scale": ("I32", (40, 3))}, "'m.weight_scale' is I32"),
        ({"m.weight_scale": ("U8", (40, 3))}, "'m.weight_scale' is U8"),
        ({"m.weight_scale": None}, "'m.weight_scale' is missing"),
        ({"m.weight_shape": None}, "'m.weight_shape' is missing"),
        ({"m.weight_shape": ("I64", (3,))}, "'m.weight_shape' is I64 [3]"),
        ({"m.weight_packed": None}, "'m.weight' is missing"),
        ({"m.weight": ("BF16", (40, 96))}, "'m.weight' stands beside weight_packed"),
        ({"m.weight_g_idx": ("I32", (96,))}, "'m.weight_g_idx' gives the columns in an order"),
        ({"m.weight_foo": ("F32", (1,))}, "'m.weight_foo' stands beside"),
        ({"m.weight.foo": ("F32", (1,))}, "'m.weight.foo' stands beside"),
        ({"m.weight_scale_inv": ("F32", (1,))}, "'m.weight_scale_inv' stands beside"),
        ({"m.scale_packed": ("I32", (1,))}, "'m.scale_packed' is of a format"),
        ({"m.weight_global_scale": ("F32", (1,))}, "'m.weight_global_scale' stands beside"),
        ({"n.gate_up_proj_blocks": ("U8", (2, 4, 3, 16))}, "'n.gate_up_proj_blocks' (U8) belongs to none"),
        ({"n.qweight": ("I32", (2, 4))}, "'n.qweight' (I32) belongs to none"),
        ({"n.weight": ("U32", (2, 4))}, "'n.weight' (U32) belongs to none"),
        ({"m.weight_zero_point": ("I8", (40, 3))}, "'m.weight_zero_point' is not zero"),
        ({"m.weight_zero_point": ("I8", (1 << 11, 1 << 11))}, "'m.weight_zero_point' is not zero"),
    ],
)
def test_tensors_that_do_not_fit(changed: dict[str, Any], named: str) -> None:
    tensors = {**PACKED, **{name: value and StoredTensor(*value) for name, value in changed.items()}}
    message = refused({name: value for name, value in tensors.items() if value is not None}, GROUP)
    assert named in message
    assert "Add the model that it was made from" in message


@pytest.mark.parametrize("said", [(-40, 96), (40, 0), (2**60, 96), (40, 200), (12, 96)])
def test_shapes_that_codes_do_not_have(said: tuple[int, int]) -> None:
    assert "'m.weight_" in refused(PACKED, GROUP, struct.pack("<2q", *said))


@pytest.mark.parametrize(
    ("tensors", "group", "changed", "named"),
    [
        (FLOATS, CHANNEL, {"m.weight": ("F8_E5M2", (40, 96))}, "'m.weight' is F8_E5M2"),
        (FLOATS, CHANNEL, {"m.weight": ("BF16", (40, 96))}, "'m.weight' is BF16"),
        (FLOATS, CHANNEL, {"m.weight": ("F8_E4M3", (2, 40, 96))}, "'m.weight' has shape [2, 40, 96]"),
        (FLOATS, CHANNEL, {"m.weight": ("F8_E4M3", (0, 96))}, "'m.weight' has shape [0, 96]"),
        (FLOATS, CHANNEL, {"m.weight_scale": None}, "'m.weight_scale' is missing"),
        (FLOATS, CHANNEL, {"m.weight_scale": ("F32", (1, 40))}, "'m.weight_scale' is F32 [1, 40]"),
        (FLOATS, CHANNEL, {"m.weight_scale": ("U8", (40, 3))}, "no group of config_groups describes"),
        (FLOATS, having(CHANNEL, symmetric=False), {}, "not symmetric"),
        (FP4, NVFP4, {"m.weight_global_scale": None}, "no group of config_groups describes"),
        (FP4, NVFP4, {"m.weight_global_scale": ("F32", (2,))}, "'m.weight_global_scale' is F32 [2]"),
        (FP4, NVFP4, {"m.weight_scale": ("F32", (40, 6))}, "'m.weight_scale' is F32"),
        (FP4, NVFP4, {"m.weight_packed": ("U8", (40, 47))}, "of groups of 16, of 94 columns"),
        (FP4, NVFP4, {"m.weight_packed": ("U8", (1920,))}, "'m.weight_packed' has shape [1920]"),
        (FP4, having(NVFP4, group_size=32), {}, "of groups of 32 by config_groups.'g'"),
    ],
)
def test_floats_that_do_not_fit(
    tensors: dict[str, StoredTensor], group: Any, changed: dict[str, Any], named: str
) -> None:
    made = {**tensors, **{name: value and StoredTensor(*value) for name, value in changed.items()}}
    assert named in refused({name: value for name, value in made.items() if value is not None}, group)


def test_two_groups_that_fit_and_too_many() -> None:
    square = {**FLOATS, "m.weight_scale": StoredTensor("F32", (40, 2))}
    groups = {
        "a": having(CHANNEL, strategy="group", group_size=48),
        "b": having(CHANNEL, strategy="block", block_structure=[1, 50]),
    }
    assert "'m.weight' is described by several groups" in refused(square, None, config_groups=groups)
    many = {str(i): having(CHANNEL, strategy="group", group_size=i + 1) for i in range(3000)}
    assert "3000 groups that differ" in refused(FLOATS, None, config_groups=many)
    assert "config_groups is None" in refused(FLOATS, None, config_groups=None)


def test_a_block_without_quantised_tensors_is_a_plain_model() -> None:
    block = {**config_of(CHANNEL | {"targets": ["Linear"]})["quantization_config"], "quantization_status": "frozen"}
    for form in ("dense", "fakequant", "float-quantized"):
        plain = {"m.weight": StoredTensor("BF16", (4, 4)), "m.weight_g": StoredTensor("F32", (4,))}
        reading = read_quantised({"quantization_config": {**block, "format": form}}, None, plain, lambda _: b"")
        assert reading is not None
        assert not reading.decoded
        assert "it is a plain one" in reading.notices[-1]
    assert "no group of config_groups describes" in refused(FLOATS, {"weights": CHANNEL["weights"]}, format="dense")


def test_old_compression_config() -> None:
    config = {"compression_config": json.loads(json.dumps({"config_groups": {"g": CHANNEL}}))}
    reading = read_quantised(config, None, FLOATS, lambda _: b"")
    assert reading is not None
    assert list(reading.decoded) == ["m.weight"]
