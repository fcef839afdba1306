"""Pairs that a configuration does not target, found as PEFT finds them: it wraps no module for them on loading."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest
import torch

from registry.errors import InvalidAdapterError
from registry.files.header import TensorEntry
from registry.tensors.checkpoint.adapter import LoraAdapterConfig, LoraPair
from registry.tensors.checkpoint.patterns import PatternBudget
from registry.tensors.checkpoint.reading import parse_config, refuse_untargeted, untargeted_pairs
from registry.tensors.table.targets import TENSOR_NAMES, Target, TargetKind, TargetTable
from tests.kit.peers import between_themselves

LLAMA: dict[str, Any] = {
    "vocab_size": 32, "hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 3, "num_attention_heads": 2,
    "num_key_value_heads": 2, "tie_word_embeddings": False,
}  # fmt: skip
GPT2: dict[str, Any] = {"vocab_size": 32, "n_embd": 8, "n_layer": 2, "n_head": 2, "n_positions": 16}
Q0, Q1 = "model.layers.0.self_attn.q_proj", "model.layers.1.self_attn.q_proj"


def llama(cls: str = "LlamaForCausalLM") -> Any:
    import transformers

    return getattr(transformers, cls)(transformers.LlamaConfig(**LLAMA))


def gpt2() -> Any:
    import transformers

    return transformers.GPT2LMHeadModel(transformers.GPT2Config(**GPT2))


def table_of(model: Any) -> TargetTable:
    """The modules that PEFT could wrap, by their classes."""
    from transformers.pytorch_utils import Conv1D

    kinds = {
        torch.nn.Linear: TargetKind.LINEAR,
        Conv1D: TargetKind.CONV1D,
        torch.nn.Embedding: TargetKind.EMBEDDING,
    }
    targets = {
        name: Target(name, kinds[type(module)], f"{name}.weight", tuple(module.weight.shape))
        for name, module in model.named_modules()
        if type(module) in kinds
    }
    output = model.get_output_embeddings()
    head = next((name for name, module in model.named_modules() if module is output), None) if output else None
    return TargetTable(targets, "transformers 5", architecture=type(model).__name__, output_module=head)


def config(**fields: Any) -> LoraAdapterConfig:
    return parse_config(json.dumps({"peft_type": "LORA", "r": 2, "lora_alpha": 2, **fields}).encode())


def pairs_of(table: TargetTable) -> Mapping[str, LoraPair]:
    """A pair for every module: what a file could hold."""
    entry = TensorEntry("x", "F32", (1,), 0, 4)
    return {name: LoraPair(name, target, entry, entry, 2, 2.0, 1.0) for name, target in table.targets.items()}


def wrapped(model: Any, **fields: Any) -> set[str]:
    """The modules for which PEFT has a place to load a pair into."""
    import peft
    from peft.tuners.lora import LoraLayer

    with between_themselves():
        made = peft.get_peft_model(model, peft.LoraConfig(r=2, **fields))
    names = {name.removeprefix("base_model.model.") for name, one in made.named_modules() if isinstance(one, LoraLayer)}
    return {name for name in names if not name.endswith(".modules_to_save.default")}


RULES: dict[str, dict[str, Any]] = {
    "ends of names": {"target_modules": ["q_proj", "mlp.up_proj"]},
    "a whole name": {"target_modules": [Q0]},
    "no part of a segment": {"target_modules": ["v_proj", "roj"]},
    "a pattern over the whole name": {"target_modules": r".*\.[02]\.self_attn\.(q|k)_proj"},
    "all linear modules": {"target_modules": "all-linear"},
    "all linear modules but some": {"target_modules": "ALL-linear", "exclude_modules": ["q_proj", "1.mlp.up_proj"]},
    "some layers": {"target_modules": ["q_proj", "v_proj"], "layers_to_transform": [1]},
    "one layer": {"target_modules": ["q_proj"], "layers_to_transform": 0},
    "layers do not bind whole names": {"target_modules": [Q0, "v_proj"], "layers_to_transform": [1]},
    "layers of a list by name": {
        "target_modules": ["q_proj"], "layers_to_transform": [0, 2], "layers_pattern": ["blocks", "layers"],
    },
    "excluded by pattern": {"target_modules": ["q_proj", "k_proj"], "exclude_modules": r".*\.1\..*"},
    "saved whole": {"target_modules": ["q_proj", "lm_head"], "modules_to_save": ["lm_head"]},
    "inside of what is saved whole": {"target_modules": ["q_proj", "up_proj"], "modules_to_save": ["mlp"]},
    "embeddings and head": {"target_modules": ["embed_tokens", "lm_head"]},
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:.*embedding layer.*:UserWarning")
@pytest.mark.parametrize("rule", sorted(RULES))
def test_peft_wraps_what_is_targeted(rule: str) -> None:
    model = llama()
    table = table_of(model)
    found = untargeted_pairs(config(**RULES[rule]), table, pairs_of(table), PatternBudget())
    assert set(found) == set(table.targets) - wrapped(model, **RULES[rule])
    assert set(found) < set(table.targets)


@pytest.mark.filterwarnings("ignore:fan_in_fan_out is set to:UserWarning")
def test_all_linear_of_gpt2_has_its_conv1d_and_not_its_head_or_embeddings() -> None:
    model = gpt2()
    table = table_of(model)
    found = untargeted_pairs(config(target_modules="all-linear"), table, pairs_of(table), PatternBudget())
    assert set(found) == set(table.targets) - wrapped(model, target_modules="all-linear")
    assert sorted(found) == ["lm_head", "transformer.wpe", "transformer.wte"]


def test_all_linear_of_a_classifier_leaves_its_head_out() -> None:
    model = llama("LlamaForSequenceClassification")
    table = table_of(model)
    fields = {"target_modules": "all-linear", "task_type": "SEQ_CLS"}
    found = untargeted_pairs(config(**fields), table, pairs_of(table), PatternBudget())
    assert set(found) == set(table.targets) - wrapped(model, **fields)
    assert "score" in found


def test_a_table_from_names_knows_an_embedding_by_its_pair() -> None:
    target = Target("words", TargetKind.LINEAR, "words.weight", (8, 4))
    table = TargetTable({"words": target}, TENSOR_NAMES)
    entry = TensorEntry("x", "F32", (1,), 0, 4)
    for read, expected in ((target, []), (target.as_embedding(), ["words"])):
        pairs = {"words": LoraPair("words", read, entry, entry, 2, 2.0, 1.0)}
        assert untargeted_pairs(config(target_modules="all-linear"), table, pairs, PatternBudget()) == expected


def test_without_target_modules() -> None:
    """Of null PEFT has a list for each architecture, unless parameters are targeted."""
    table = table_of(llama())
    pairs = pairs_of(table)
    assert untargeted_pairs(config(target_modules=None), table, pairs, PatternBudget()) == []
    fields = {"target_modules": None, "target_parameters": ["experts.up"]}
    assert untargeted_pairs(config(**fields), table, pairs, PatternBudget()) == list(pairs)
    assert untargeted_pairs(config(target_modules=[]), table, pairs, PatternBudget()) == list(pairs)


def test_peft_adapts_no_output_projection_of_a_mamba() -> None:
    """So such a pair is always one that is not targeted; PEFT refuses a configuration that does."""
    import transformers

    def mamba() -> Any:
        shape = transformers.MambaConfig(vocab_size=32, hidden_size=8, num_hidden_layers=1)
        return transformers.MambaForCausalLM(shape)

    model = mamba()
    table = table_of(model)
    fields = {"target_modules": ["in_proj", "x_proj"]}
    found = untargeted_pairs(config(**fields), table, pairs_of(table), PatternBudget())
    assert set(found) == set(table.targets) - wrapped(model, **fields)
    assert "backbone.layers.0.mixer.out_proj" in found
    with pytest.raises(ValueError, match="incompatible with Mamba"):
        wrapped(mamba(), target_modules=["out_proj"])


def test_the_refusal_names_modules_and_fields() -> None:
    said = config(target_modules=["q_proj"], exclude_modules=["v_proj"])
    refuse_untargeted(said, [])
    with pytest.raises(InvalidAdapterError, match=r"'a\.v_proj'.*\(target_modules, exclude_modules\)") as caught:
        refuse_untargeted(said, ["a.v_proj"])
    assert caught.value.code == "untargeted_pair"
