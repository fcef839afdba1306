"""Which modules a configuration targets: refused where tensors surely lack, told where it can't be known."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest

from registry.errors import InvalidAdapterError
from registry.tensors.checkpoint.adapter import LoraAdapterConfig
from registry.tensors.checkpoint.coverage import check_coverage, targeted_modules
from registry.tensors.checkpoint.patterns import PatternBudget
from registry.tensors.checkpoint.reading import parse_config
from registry.tensors.table.targets import TENSOR_NAMES, Target, TargetKind, TargetTable

LEAVES = [f"model.layers.{layer}.{leaf}" for layer in range(3) for leaf in ("attn.q_proj", "attn.v_proj", "mlp.up")]


def table_of(modules: Iterable[str], **fields: Any) -> TargetTable:
    targets = {
        name: Target(name, TargetKind.EMBEDDING if "embed" in name else TargetKind.LINEAR, f"{name}.weight", (4, 4))
        for name in modules
    }
    known = {"architecture": "LlamaForCausalLM", "prefix": "model", "output_module": "lm_head"}
    return TargetTable(targets, **{"source": "transformers 5", **known, **fields})


TABLE = table_of([*LEAVES, "model.embed_tokens", "lm_head"])


def config(target_modules: Any, **fields: Any) -> LoraAdapterConfig:
    document = {"peft_type": "LORA", "r": 2, "lora_alpha": 2, "target_modules": target_modules, **fields}
    return parse_config(json.dumps(document).encode())


def coverage(found: LoraAdapterConfig, table: TargetTable, names: dict[str, str] | list[str]) -> list[str]:
    pairs = names if isinstance(names, dict) else {name: name for name in names}
    return check_coverage(found, table, pairs, PatternBudget())


Q = [name for name in LEAVES if name.endswith("q_proj")]


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"target_modules": ["q_proj"]}, Q),
        ({"target_modules": ["roj", "attn"]}, []),
        ({"target_modules": ["layers.1.attn.q_proj", "lm_head"]}, [Q[1], "lm_head"]),
        ({"target_modules": r".*\.(0|2)\.attn\.q_proj"}, [Q[0], Q[2]]),
        ({"target_modules": "q_proj"}, []),
        ({"target_modules": "all-linear"}, LEAVES),
        ({"target_modules": "All-Linear", "exclude_modules": ["q_proj", "v_proj"]}, LEAVES[2::3]),
        ({"target_modules": ["q_proj"], "exclude_modules": r".*layers\.1.*"}, [Q[0], Q[2]]),
        ({"target_modules": ["q_proj"], "exclude_modules": [Q[0]]}, Q[1:]),
        ({"target_modules": ["q_proj"], "layers_to_transform": 1}, [Q[1]]),
        ({"target_modules": ["q_proj"], "layers_to_transform": [0, 2], "layers_pattern": "layers"}, [Q[0], Q[2]]),
        ({"target_modules": ["q_proj"], "layers_to_transform": [0], "layers_pattern": ["h", "blocks"]}, []),
        ({"target_modules": [Q[2], "v_proj"], "layers_to_transform": [0]}, [LEAVES[1], Q[2]]),
        ({"target_modules": ["embed_tokens"]}, ["model.embed_tokens"]),
        ({"target_modules": None}, []),
    ],
)
def test_every_way_to_name_targets(fields: dict[str, Any], expected: list[str]) -> None:
    assert sorted(targeted_modules(config(**fields), TABLE)) == sorted(expected)


def test_names_are_those_of_the_model_that_was_trained() -> None:
    found = config(r"layers\.\d\.attn\.q_proj|lm_head")
    assert targeted_modules(found, TABLE) == ["lm_head"]
    assert targeted_modules(found, TABLE, trained=["layers.0.attn.q_proj"]) == Q
    headless = table_of([name.removeprefix("model.") for name in LEAVES], output_module=None)
    full = config(r"model\.layers\.\d\.attn\.q_proj")
    assert targeted_modules(full, headless, trained=Q) == [name.removeprefix("model.") for name in Q]


def test_a_hole_in_the_layers_is_refused_by_name() -> None:
    with pytest.raises(InvalidAdapterError, match=rf"targets '{Q[2]}', for which") as caught:
        coverage(config(["q_proj"]), TABLE, Q[:2])
    assert caught.value.code == "incomplete_adapter"


@pytest.mark.parametrize(
    "fields", [{"task_type": "CAUSAL_LM"}, {"auto_mapping": {"base_model_class": "LlamaForCausalLM"}}]
)
def test_a_missing_head_is_refused_where_the_class_is_known(fields: dict[str, Any]) -> None:
    with pytest.raises(InvalidAdapterError, match="'lm_head'"):
        coverage(config(["q_proj", "lm_head"], **fields), TABLE, Q)


@pytest.mark.parametrize("fields", [{"task_type": "SEQ_CLS"}, {"auto_mapping": {"base_model_class": "LlamaModel"}}, {}])
def test_a_missing_head_of_another_class_is_told(fields: dict[str, Any]) -> None:
    (notice,) = coverage(config(["q_proj", "lm_head"], **fields), TABLE, Q)
    assert "'lm_head'" in notice


def test_a_pooler_or_a_whole_tower_may_be_absent() -> None:
    bert = table_of(["encoder.layer.0.dense", "pooler.dense"], architecture="BertModel", prefix="bert")
    names = {"encoder.layer.0.dense": "bert.encoder.layer.0.dense"}
    assert "pooler.dense" in coverage(config(["dense"], task_type="TOKEN_CLS"), bert, names)[0]
    t5 = table_of(["encoder.block.0.q", "decoder.block.0.q"], prefix="transformer", architecture="T5")
    assert "decoder.block.0.q" in coverage(config(["q"]), t5, ["encoder.block.0.q"])[0]


def test_a_table_from_names_knows_no_other_class() -> None:
    table = replace(table_of(["fc1", "fc2"], prefix="", output_module=None), source=TENSOR_NAMES)
    with pytest.raises(InvalidAdapterError, match="'fc2'"):
        coverage(config(["fc1", "fc2"]), table, ["fc1"])
    assert coverage(config("all-linear"), table, ["fc1"]) == []


@pytest.mark.parametrize("field", ["target_modules", "exclude_modules"])
def test_bombs_are_refused(field: str) -> None:
    with pytest.raises(InvalidAdapterError, match=field) as caught:
        targeted_modules(config(**{"target_modules": ["q_proj"], field: "([a-z.0-9]+)+X"}), TABLE)
    assert caught.value.code == "bad_config"


def test_many_names_for_many_modules() -> None:
    names = [f"model.layers.{layer}.mlp.experts.{expert}.up" for layer in range(40) for expert in range(64)]
    assert targeted_modules(config(names), table_of(names)) == names
