"""Files that bitsandbytes and transformers write, read and multiplied out, against the library; and what is refused."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import bitsandbytes.functional as bnb
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import (
    AutoModelForCausalLM,
    BitsAndBytesConfig,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
)

from registry.errors import InvalidBaseError
from registry.quantised.reading import MAPS, Decoding, FlatBlocks, Reading, StoredTensor
from registry.quantised.table import read_quantised
from tests.quantised.oracle import decoded_folder, one_thread, read_folder, write_folder

NAME = "model.layers.0.self_attn.q_proj.weight"
CONFIG = {"model_type": "llama", "quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}}
IN_8 = {"model_type": "llama", "quantization_config": {"quant_method": "bitsandbytes", "load_in_8bit": True}}


@pytest.fixture(autouse=True, scope="module")
def _quick() -> Iterator[None]:
    with one_thread():
        yield


@pytest.mark.parametrize("shape", [(33, 100), (40, 128), (7, 9)])
@pytest.mark.parametrize("kind", ["nf4", "fp4"])
@pytest.mark.parametrize("nested", [False, True], ids=["single", "nested"])
@pytest.mark.parametrize("storage", [torch.uint8, torch.bfloat16, torch.float32])
def test_four_bits(shape: tuple[int, int], kind: str, nested: bool, storage: torch.dtype, tmp_path: Path) -> None:
    """Blocks that cross rows, the last one short, codes in bytes of other dtypes.

    No width is a multiple of 32 and not of 64: there the library's kernel for CPUs with AVX-512 takes the scales of
    other blocks (0.50.2: its result is 0.9 of the weight's norm away, the product of what is stored 0.1).
    """
    if (shape[0] * shape[1] + 1) // 2 % storage.itemsize:
        shape = (shape[0] + 1, shape[1] // 4 * 4 + 4)
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(3))
    codes, state = bnb.quantize_4bit(weight, quant_type=kind, compress_statistics=nested, quant_storage=storage)
    tensors = {NAME: codes, **{f"{NAME}.{part}": value for part, value in state.as_dict(packed=True).items()}}
    folder = write_folder(tmp_path, tensors, CONFIG)
    numbers = decoded_folder(folder)[NAME]
    theirs = bnb.dequantize_4bit(codes, state).numpy()
    assert numbers.shape == shape
    np.testing.assert_allclose(numbers, theirs, rtol=1e-6, atol=0)
    emulated = _in_float32(read_folder(folder), load_file(folder / "model.safetensors"))
    assert np.array_equal(emulated, theirs)
    if not nested:
        assert np.array_equal(numbers.astype(np.float32), theirs)


def _in_float32(reading: Reading, tensors: dict[str, torch.Tensor]) -> Any:
    """As the library multiplies: each step rounded to float32."""
    how = reading.decoded[NAME]
    assert isinstance(how, FlatBlocks)
    count = int(np.prod(how.shape))
    data = tensors[NAME].view(torch.uint8).numpy().reshape(-1)
    codes = np.stack([data >> 4, data & 15], axis=-1).reshape(-1)[:count]
    absmax = tensors[how.absmax].numpy()
    if how.nested is not None:
        outer = np.repeat(tensors[how.nested.absmax].numpy(), how.nested.block)[: len(absmax)]
        absmax = tensors[how.nested.map].numpy()[absmax] * outer + np.float32(how.nested.offset)
    return (np.array(MAPS[how.map], np.float32)[codes] * np.repeat(absmax, how.block)[:count]).reshape(how.shape)


def test_eight_bits(tmp_path: Path) -> None:
    weight = torch.randn(33, 100, generator=torch.Generator().manual_seed(3)).half()
    codes, scales, _ = bnb.int8_vectorwise_quant(weight)
    tensors = {"m.weight": codes, "m.SCB": scales, "m.weight_format": torch.zeros((), dtype=torch.uint8)}
    numbers = decoded_folder(write_folder(tmp_path, tensors, IN_8))["m.weight"]
    theirs = bnb.int8_vectorwise_dequant(codes, scales).numpy()
    np.testing.assert_allclose(numbers, theirs, rtol=2e-7, atol=0)
    assert numbers.max() == pytest.approx(float(weight.max()), rel=1e-3)


SAVED: dict[str, dict[str, Any]] = {
    "nested": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True},
    "nf4": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"},
    "fp4": {"load_in_4bit": True},
    "storage": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_quant_storage": "bfloat16"},
    "int8": {"load_in_8bit": True},
}


def model_of(kind: str) -> Any:
    torch.manual_seed(0)
    if kind == "gpt2":
        config = GPT2Config(
            n_embd=64, n_layer=1, n_head=4, vocab_size=64, n_positions=32, bos_token_id=1, eos_token_id=2
        )
        return GPT2LMHeadModel(config).to(torch.bfloat16)
    config = LlamaConfig(
        hidden_size=64, intermediate_size=128, num_hidden_layers=1, num_attention_heads=4, vocab_size=64
    )
    return LlamaForCausalLM(config).to(torch.bfloat16)


@pytest.mark.parametrize(("kind", "how"), [("llama", "nested"), ("gpt2", "nf4"), ("gpt2", "int8")])
def test_models_that_transformers_saves(kind: str, how: str, tmp_path: Path) -> None:
    _compare(kind, how, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("how", list(SAVED))
@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_all_models_that_transformers_saves(kind: str, how: str, tmp_path: Path) -> None:
    _compare(kind, how, tmp_path)


def _compare(kind: str, how: str, tmp_path: Path) -> None:
    """The plain weights that the model was made of are met, in their shape, and what the library dequantises."""
    plain, saved = tmp_path / "plain", tmp_path / "saved"
    model_of(kind).save_pretrained(plain)
    config = BitsAndBytesConfig(**SAVED[how])
    quantised = AutoModelForCausalLM.from_pretrained(
        plain, quantization_config=config, device_map="cpu", dtype=torch.bfloat16
    )
    quantised.save_pretrained(saved)
    reading = read_folder(saved)
    before, made = load_file(plain / "model.safetensors"), decoded_folder(saved)
    theirs = dict(quantised.dequantize(dtype=torch.bfloat16).named_parameters())
    assert len(reading.decoded) == {"llama": 7, "gpt2": 4}[kind]
    for name, decoding in reading.decoded.items():
        numbers = torch.from_numpy(made[name])
        assert numbers.shape == before[name].shape
        assert torch.nn.functional.cosine_similarity(numbers.view(-1), before[name].double().view(-1), dim=0) > 0.98
        dequantised = theirs[name].double()
        turned = dequantised.t() if kind == "gpt2" else dequantised  # a Linear takes the place of a Conv1D
        assert (numbers - turned).abs().max() <= 2**-8 * numbers.abs().max()
        assert decoding.transposed == (kind == "gpt2")


STATE = {"quant_type": "nf4", "blocksize": 64, "dtype": "bfloat16", "shape": [33, 100]}
NESTED = {**STATE, "nested_blocksize": 256, "nested_dtype": "float32", "nested_offset": 0.25}
FOUR = {
    NAME: StoredTensor("U8", (1650, 1)),
    f"{NAME}.absmax": StoredTensor("F32", (52,)),
    f"{NAME}.quant_map": StoredTensor("F32", (16,)),
    f"{NAME}.quant_state.bitsandbytes__nf4": StoredTensor("U8", (100,)),
}
TWICE = {
    **FOUR,
    f"{NAME}.absmax": StoredTensor("U8", (52,)),
    f"{NAME}.nested_absmax": StoredTensor("F32", (1,)),
    f"{NAME}.nested_quant_map": StoredTensor("F32", (256,)),
}
EIGHT = {
    "m.weight": StoredTensor("I8", (33, 100)),
    "m.SCB": StoredTensor("F32", (33,)),
    "m.weight_format": StoredTensor("U8", ()),
}


def reading_of(
    tensors: dict[str, StoredTensor], state: Any = None, config: Any = None, **small: bytes
) -> dict[str, Decoding]:
    data = state if isinstance(state, bytes) else json.dumps(STATE if state is None else state).encode()

    def read(name: str) -> bytes:
        last = name.rpartition(".")[2]
        if last in small:
            return small[last]
        return struct.pack("<16f", *MAPS["nf4"]) if last == "quant_map" else data

    reading = read_quantised(CONFIG if config is None else config, None, tensors, read)
    assert reading is not None
    return dict(reading.decoded)


def refused(tensors: dict[str, Any], state: Any = None, config: Any = None, **small: bytes) -> str:
    made = {name: stored if stored is None else StoredTensor(*stored) if isinstance(stored, tuple) else stored
            for name, stored in tensors.items()}  # fmt: skip
    with pytest.raises(InvalidBaseError) as caught:
        reading_of({name: stored for name, stored in made.items() if stored}, state, config, **small)
    assert caught.value.code == "quantised_base"
    assert len(str(caught.value)) < 1200
    return str(caught.value)


def test_what_is_refused_is_read_when_it_is_right() -> None:
    assert list(reading_of(FOUR)) == [NAME]
    assert list(reading_of(TWICE, NESTED)) == [NAME]
    assert list(reading_of(EIGHT, config=IN_8, weight_format=b"\0")) == ["m.weight"]


@pytest.mark.parametrize(
    ("state", "named"),
    [
        (b'{"quant_type": "nf4"', "is not valid JSON"),
        (b"\xff", "is not UTF-8"),
        (b"[]", "has other fields"),
        (b'{"quant_type": "nf4", "quant_type": "nf4"}', "twice"),
        (b'{"quant_type": "nf4", "blocksize": 64, "dtype": "bfloat16", "shape": [33, 1e999]}', "out of range"),
        (b"[" * 60_000, "lists and objects"),
        ({**STATE, "more": 1}, "has other fields"),
        ({**STATE, "quant_type": "fp4"}, "quant_type 'fp4'"),
        ({**STATE, "blocksize": 0}, "blocksize 0"),
        ({**STATE, "blocksize": 2**60}, "blocksize 1152921504606846976"),
        ({**STATE, "blocksize": 64.0}, "blocksize 64.0"),
        ({**STATE, "blocksize": True}, "blocksize True"),
        ({**STATE, "blocksize": 32}, "absmax' is F32 [52], and F32 [104]"),
        ({**STATE, "dtype": "float64"}, "dtype 'float64'"),
        ({**STATE, "dtype": ["x"]}, "dtype ['x']"),
        ({**STATE, "shape": [33, 99]}, "its state says shape [33, 99]"),
        ({**STATE, "shape": [3300]}, "has shape [3300]"),
        ({**STATE, "shape": [-33, -100]}, "has shape [-33, -100]"),
        ({**STATE, "shape": [2**40, 2**40]}, "its state says shape"),
        ({**STATE, "shape": None}, "has shape None"),
        ({**STATE, "shape": [33, True]}, "has shape [33, True]"),
        ({**STATE, "nested_offset": 0.5}, "says half"),
        (NESTED, "says half"),
    ],
)
def test_states_that_do_not_fit(state: Any, named: str) -> None:
    assert named in refused(FOUR, state)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("nested_offset", None),
        ("nested_offset", "0.1"),
        ("nested_offset", 0.1),
        ("nested_offset", 1e300),
        ("nested_offset", True),
        ("nested_dtype", "float16"),
        ("nested_blocksize", 0),
        ("nested_blocksize", 128.0),
    ],
)
def test_nested_states_that_do_not_fit(key: str, value: Any) -> None:
    assert key in refused(TWICE, {**NESTED, key: value})


def test_nested_without_an_offset() -> None:
    assert "says half" in refused(TWICE, {key: value for key, value in NESTED.items() if key != "nested_offset"})
    assert "says half" in refused(TWICE)


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({NAME: None}, "has a state but no codes"),
        ({NAME: ("F8_E4M3", (1650, 1))}, "is F8_E4M3 [1650, 1]"),
        ({NAME: ("U8", (1649, 1))}, "1650 bytes of codes"),
        ({f"{NAME}.absmax": None}, "absmax' is missing"),
        ({f"{NAME}.absmax": ("U8", (52,))}, "absmax' is U8"),
        ({f"{NAME}.absmax": ("F32", (51,))}, "absmax' is F32 [51]"),
        ({f"{NAME}.quant_map": None}, "quant_map' is missing"),
        ({f"{NAME}.quant_map": ("F32", (15,))}, "quant_map' is F32 [15]"),
        ({f"{NAME}.quant_state.bitsandbytes__nf4": ("F32", (100,))}, "is F32, and JSON in bytes"),
        ({f"{NAME}.quant_state.bitsandbytes__nf4": ("U8", (1 << 17,))}, "has 131072 bytes"),
        ({f"{NAME}.quant_state.bitsandbytes__fp4": ("U8", (100,))}, "has two states"),
        ({f"{NAME}.quant_state.bitsandbytes__int4": ("U8", (100,))}, "has two states"),
        ({f"{NAME}.foo": ("F32", (1,))}, ".foo' stands beside a weight of 4 bits"),
        ({"n.quant_state.other__nf4": ("U8", (100,))}, "is a state of 'other__nf4'"),
        ({"n.weight": ("I8", (4, 4))}, "'n.SCB' is missing"),
        ({"n.weight_packed": ("I32", (4, 4))}, "'n.weight_packed' (I32) belongs to none"),
        ({"n.weight": ("F8_E4M3", (4, 4))}, "'n.weight' (F8_E4M3) belongs to none"),
        ({"n.absmax": ("F32", (4,))}, "'n.absmax' (F32) belongs to none"),
        (EIGHT, "is of 4 bits and 'm.weight' of 8"),
    ],
)
def test_four_bits_that_do_not_fit(changed: dict[str, Any], named: str) -> None:
    assert named in refused({**FOUR, **changed}, weight_format=b"\0")


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"m.SCB": None}, "'m.SCB' is missing"),
        ({"m.SCB": ("F32", (100,))}, "'m.SCB' is F32 [100], and F32 [33]"),
        ({"m.SCB": ("BF16", (33,))}, "'m.SCB' is BF16"),
        ({"m.weight": ("BF16", (33, 100))}, "'m.weight' is BF16"),
        ({"m.weight": ("I8", (33, 100, 1))}, "'m.weight' has shape"),
        ({"m.weight_format": None}, "'m.weight_format' is missing"),
        ({"m.weight_format": ("I64", ())}, "'m.weight_format' is I64"),
    ],
)
def test_eight_bits_that_do_not_fit(changed: dict[str, Any], named: str) -> None:
    assert named in refused({**EIGHT, **changed}, config=IN_8, weight_format=b"\0")


@pytest.mark.parametrize("form", [1, 2, 3, 255])
def test_layouts_of_kernels(form: int) -> None:
    assert f"'m.weight_format' is {form}" in refused(EIGHT, config=IN_8, weight_format=bytes([form]))


def test_another_map() -> None:
    other = struct.pack("<16f", *MAPS["nf4"][:15], 0.99)
    assert "is not the map of nf4" in refused(FOUR, quant_map=other)
    assert "is not the map of nf4" in refused(FOUR, quant_map=struct.pack("<16f", *[float("nan")] * 16))


def test_a_configuration_that_says_the_other_width() -> None:
    assert "is not what load_in_8bit says" in refused(FOUR, config=IN_8)
    assert "is not what load_in_4bit says" in refused(EIGHT, weight_format=b"\0")


@pytest.mark.parametrize(
    ("config", "turned"),
    [
        ({"model_type": "gpt2"}, True),
        ({"model_type": "openai-gpt"}, True),
        ({"model_type": "gpt_bigcode"}, False),
        ({"model_type": "qwen"}, False),
        ({}, None),
        ({"model_type": "vision-encoder-decoder", "decoder": {"model_type": "gpt2"}}, None),
    ],
)
def test_which_weights_plain_files_hold_turned(config: dict[str, Any], turned: bool | None) -> None:
    named = {name.replace(NAME, "h.0.attn.c_attn.weight"): stored for name, stored in FOUR.items()}
    whole = {**config, "quantization_config": CONFIG["quantization_config"]}
    if turned is None:
        assert "may be a weight that plain files hold turned" in refused(named, config=whole)
    else:
        assert [how.transposed for how in reading_of(named, config=whole).values()] == [turned]
    if "decoder" not in config:
        assert not next(iter(reading_of(FOUR, config=whole).values())).transposed
