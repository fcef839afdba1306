"""Where a checkpoint says that it is quantised, and what is refused before any format's reader looks at a tensor."""

from __future__ import annotations

from typing import Any

import pytest

from registry.errors import InvalidBaseError
from registry.quantised.reading import Reading, StoredTensor
from registry.quantised.table import _UNREAD, read_quantised

PLAIN = {"model.norm.weight": StoredTensor("BF16", (8,)), "transformer.h.0.attn.bias": StoredTensor("U8", (1, 8))}
CODES = {**PLAIN, "model.q_proj.weight": StoredTensor("F8_E4M3", (8, 8))}
REFUSED = sorted(_UNREAD)


def read(config: Any = None, hf_quant: Any = None, tensors: dict[str, StoredTensor] | None = None) -> Reading | None:
    return read_quantised(config, hf_quant, CODES if tensors is None else tensors, lambda _: b"")


def refused(config: Any = None, hf_quant: Any = None, tensors: dict[str, StoredTensor] | None = None) -> str:
    with pytest.raises(InvalidBaseError) as caught:
        read(config, hf_quant, tensors)
    assert caught.value.code == "quantised_base"
    assert len(str(caught.value)) < 1500
    return str(caught.value)


@pytest.mark.parametrize(
    "config", [None, {}, {"quantization_config": None, "text_config": {"quantization_config": {}}}]
)
def test_a_plain_model_has_no_reading(config: Any) -> None:
    assert read(config, tensors=PLAIN) is None


def test_a_quantised_tensor_needs_a_block() -> None:
    assert "'model.q_proj.weight' (F8_E4M3)" in refused({})
    assert "'a.weight_packed' (I32)" in refused(None, tensors={"a.weight_packed": StoredTensor("I32", (2, 2))})


@pytest.mark.parametrize("method", [*REFUSED, "foo", pytest.param("x" * 900_000, id="long")])
@pytest.mark.parametrize("tensors", [PLAIN, CODES], ids=["plain", "codes"])
def test_methods_are_refused_by_their_names(method: str, tensors: dict[str, StoredTensor]) -> None:
    message = refused({"quantization_config": {"quant_method": method}}, tensors=tensors)
    assert f"config.json: quantization_config: quant_method '{method[:100]}" in message
    assert "Add the model that it was made from" in message
    assert ("does not know" in message) == (method not in REFUSED)


@pytest.mark.parametrize(
    ("block", "said"),
    [
        ("fp8", "'fp8'"),
        (["fp8"], "['fp8']"),
        (True, "True"),
        (0, "is 0"),
        ({"bits": 4}, "names no quant_method"),
        ({"quant_method": None}, "quant_method None"),
        ({"quant_method": ["fp8"]}, "quant_method ['fp8']"),
        ({"quant_method": "fp8", "load_in_4bit": "yes"}, "load_in_4bit 'yes'"),
        pytest.param(["deep"] * 50_000, "['deep', ", id="long"),
    ],
)
def test_blocks_that_say_nothing_are_shown(block: Any, said: str) -> None:
    assert said in refused({"quantization_config": block})


def test_blocks_of_models_in_a_model() -> None:
    gptq = {"quant_method": "gptq", "bits": 4}
    assert "config.json: text_config.quantization_config" in refused({"text_config": {"quantization_config": gptq}})
    assert "'gptq'" in refused({"quantization_config": gptq, "text_config": {"quantization_config": dict(gptq)}})
    for other in ({"quant_method": "awq"}, {**gptq, "bits": 8}):
        message = refused({"quantization_config": gptq, "a_config": {"b_config": {"quantization_config": other}}})
        assert "config.json: quantization_config and config.json: a_config.b_config.quantization_config" in message


def test_mlx_is_known_by_its_block() -> None:
    block = {"group_size": 64, "bits": 4}
    assert "quant_method 'mlx'" in refused({"quantization": block, "quantization_config": block})


def test_modelopt_may_say_it_in_a_file_of_its_own() -> None:
    own = {"producer": {"name": "modelopt"}, "quantization": {"quant_algo": "NVFP4", "group_size": 16}}
    assert "hf_quant_config.json has quantization None" in refused({}, {"quantization": None})
    for block in ({"quant_method": "gptq"}, {"quant_method": "modelopt", "quant_algo": "FP8"}):
        message = refused({"quantization_config": block}, own)
        assert "config.json: quantization_config and hf_quant_config.json contradict each other" in message


def test_many_tensors_and_many_blocks_take_seconds_at_most() -> None:
    names = {
        f"model.layers.{i}.mlp.experts.{i % 256}.up_proj.weight": StoredTensor("BF16", (8, 8)) for i in range(90_000)
    }
    config = {f"m{i}_config": {"quantization_config": {"quant_method": "gptq"}} for i in range(2000)}
    assert read({}, tensors=names) is None
    assert "'gptq'" in refused(config, tensors=names)
