"""PEFT as the writer: what it saves for each variant is read as what it means, and nothing of it is left over."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from peft.tuners.lora.config import BdLoraConfig, MontecloraConfig, VeloraConfig
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
    GptOssConfig,
    GptOssForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
)

from registry.errors import InvalidAdapterError
from registry.files.header import read_header
from registry.files.source import FileSource
from registry.tensors.checkpoint.adapter import Checkpoint
from registry.tensors.checkpoint.reading import parse_config, read_checkpoint
from registry.tensors.table.architecture import make_table
from registry.tensors.table.targets import TargetTable
from tests.kit.peers import between_themselves

SMALL = {
    "vocab_size": 40, "hidden_size": 16, "intermediate_size": 12, "num_hidden_layers": 1, "num_attention_heads": 4,
    "max_position_embeddings": 32,
}  # fmt: skip


def llama() -> Any:
    return LlamaForCausalLM(LlamaConfig(**SMALL, num_key_value_heads=2, tie_word_embeddings=True, attention_bias=True))


def bert() -> Any:
    return BertForSequenceClassification(BertConfig(**SMALL, num_labels=3))


def gpt2() -> Any:
    return GPT2LMHeadModel(GPT2Config(vocab_size=40, n_embd=16, n_layer=1, n_head=4, n_positions=32))


def mixtral() -> Any:
    return MixtralForCausalLM(MixtralConfig(**SMALL, num_key_value_heads=2, num_local_experts=3))


def gpt_oss() -> Any:
    return GptOssForCausalLM(
        GptOssConfig(
            **SMALL, num_key_value_heads=2, head_dim=4, num_local_experts=3, num_experts_per_tok=2,
            layer_types=["full_attention"],
        )
    )  # fmt: skip


class Net(torch.nn.Module):
    """A net that transformers does not know."""

    def __init__(self) -> None:
        super().__init__()
        self.mha = torch.nn.MultiheadAttention(8, 2)
        self.norm = torch.nn.BatchNorm1d(8)
        self.fc = torch.nn.Linear(8, 4)
        self.conv = torch.nn.Conv1d(4, 6, 3)
        self.emb = torch.nn.Embedding(10, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.mha(x, x, x)[0])  # type: ignore[no-any-return] # torch's modules are untyped


@pytest.fixture(scope="module")
def table_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Any], TargetTable]:
    """The target table of a model, made once."""
    made: dict[str, TargetTable] = {}

    def table(model: Any) -> TargetTable:
        name = type(model).__name__
        if name not in made:
            config = None
            tensors = {key: ("F32", tuple(value.shape)) for key, value in model.state_dict().items()}
            if hasattr(model, "save_pretrained"):
                folder = tmp_path_factory.mktemp(name)
                with between_themselves():
                    model.save_pretrained(folder)
                config = json.loads((folder / "config.json").read_text())
                with FileSource(folder / "model.safetensors") as source:
                    held = read_header(source, what="the base", error=InvalidAdapterError).entries
                tensors = {key: (entry.dtype, entry.shape) for key, entry in held.items()}
            made[name] = make_table(config, tensors)
        return made[name]

    return table


@pytest.fixture
def saved(tmp_path: Path, table_of: Callable[[Any], TargetTable]) -> Callable[..., Checkpoint]:
    """Let PEFT save an adapter, and read it."""

    def save(make: Callable[[], Any], *, how: Any = "auto", **fields: Any) -> Checkpoint:
        model = make()
        table = table_of(model)
        with between_themselves(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            adapted = peft.get_peft_model(model, peft.LoraConfig(**{"r": 2, **fields}))
            adapted.save_pretrained(tmp_path, save_embedding_layers=how)
        config = parse_config((tmp_path / "adapter_config.json").read_bytes())
        with FileSource(tmp_path / "adapter_model.safetensors") as source:
            header = read_header(source, what="the adapter", error=InvalidAdapterError)
        return read_checkpoint(config, header.entries, table)

    return save


Q = "model.layers.0.self_attn.q_proj"
BERT = "bert.encoder.layer.0.attention.self.query"


def test_biases_of_a_whole_classifier(saved: Callable[..., Checkpoint]) -> None:
    found = saved(bert, target_modules=["query"], bias="all", task_type="SEQ_CLS")
    assert len(found.values) == 12
    assert {"classifier.weight", "classifier.bias", f"{BERT}.bias"} <= set(found.values)
    assert len(found.twins) == 1


def test_biases_of_adapted_modules_and_added_ones(saved: Callable[..., Checkpoint]) -> None:
    found = saved(bert, target_modules=["query"], bias="lora_only", task_type="SEQ_CLS")
    assert set(found.values) == {"classifier.weight", "classifier.bias", f"{BERT}.bias"}
    found = saved(gpt2, target_modules=["c_attn", "c_proj"], lora_bias=True)
    assert all(one.bias is not None and one.bias.shape == (one.target.out_features,) for one in found.pairs.values())


@pytest.mark.parametrize("targets", [["query", "word_embeddings"], "all-linear"])
def test_magnitudes(saved: Callable[..., Checkpoint], targets: Any) -> None:
    found = saved(bert, target_modules=targets, use_dora=True, task_type="SEQ_CLS")
    assert all(one.magnitude is not None for one in found.pairs.values())
    assert found.notices == ()


@pytest.mark.parametrize("targets", [["embed_tokens", "q_proj"], "lm_head"])
def test_ensured_ties(saved: Callable[..., Checkpoint], targets: Any) -> None:
    found = saved(llama, target_modules=targets, ensure_weight_tying=True)
    assert found.pairs["model.embed_tokens"].tied
    assert "lm_head" not in found.pairs
    assert [twin.transposed for twin in found.twins] == [True, True]
    assert found.notices == ()


def test_ensured_ties_of_saved_modules(saved: Callable[..., Checkpoint]) -> None:
    found = saved(llama, target_modules=["q_proj"], modules_to_save=["lm_head"], ensure_weight_tying=True)
    assert [(name, value.tied) for name, value in found.values.items()] == [("model.embed_tokens.weight", True)]
    assert len(found.twins) == 1


def test_saved_modules_are_no_targets(saved: Callable[..., Checkpoint]) -> None:
    found = saved(llama, target_modules="all-linear", modules_to_save=["mlp"])
    assert len(found.values) == 3
    assert len(found.pairs) == 4
    assert found.notices == ()


@pytest.mark.parametrize(
    ("indices", "rows"),
    [
        ([1, 2], {"model.embed_tokens": ((1, 2), True)}),
        ({"embed_tokens": [1, 2], "lm_head": [1, 2]}, {"model.embed_tokens": ((1, 2), True)}),
        ({"embed_tokens": [1, 2], "lm_head": [3]}, {"lm_head": ((3,), False), "model.embed_tokens": ((1, 2), False)}),
        ({"lm_head": [3]}, {"lm_head": ((3,), False)}),
    ],
)
@pytest.mark.parametrize("targets", [["q_proj"], "dummy-target-modules"])
def test_token_rows(saved: Callable[..., Checkpoint], indices: Any, rows: Any, targets: Any) -> None:
    found = saved(llama, target_modules=targets, trainable_token_indices=indices)
    assert {name: (one.tokens, one.tied) for name, one in found.tokens.items()} == rows


def test_token_rows_with_the_embeddings_saved_along(saved: Callable[..., Checkpoint]) -> None:
    found = saved(llama, how=True, target_modules=["q_proj"], trainable_token_indices=[1, 2])
    assert (list(found.tokens), sorted(found.copies), len(found.twins)) == (
        ["model.embed_tokens"], ["lm_head", "model.embed_tokens"], 1,
    )  # fmt: skip


def test_embeddings_saved_along(saved: Callable[..., Checkpoint]) -> None:
    assert sorted(saved(llama, how=True, target_modules=["q_proj"]).copies) == ["lm_head", "model.embed_tokens"]


def test_blocks(saved: Callable[..., Checkpoint]) -> None:
    blocks = BdLoraConfig(target_modules_bd_a=["o_proj"], target_modules_bd_b=["q_proj"], nblocks=2)
    found = saved(llama, target_modules=["q_proj", "o_proj"], use_bdlora=blocks)
    assert {name: (one.blocks_a, one.blocks_b) for name, one in found.pairs.items()} == {
        Q: (1, 2),
        "model.layers.0.self_attn.o_proj": (2, 1),
    }


@pytest.mark.parametrize(
    "fields", [{"monteclora_config": MontecloraConfig()}, {"velora_config": VeloraConfig(num_groups=2)}]
)
def test_what_only_training_uses(saved: Callable[..., Checkpoint], fields: Any) -> None:
    found = saved(llama, target_modules=["q_proj"], **fields)
    assert list(found.pairs) == [Q]
    assert "only used in training" in found.notices[0]


EXPERTS = "model.layers.0.mlp.experts"


@pytest.mark.parametrize("make", [mixtral, gpt_oss])
def test_parameters_of_experts(saved: Callable[..., Checkpoint], make: Any) -> None:
    targets = ["experts.down_proj", "mlp.experts.gate_up_proj"]
    found = saved(make, target_modules=["q_proj"], target_parameters=targets, alpha_pattern={"down_proj": 3})
    assert {name: one.scaling for name, one in found.pairs.items()} == {
        Q: 4.0,
        f"{EXPERTS}.gate_up_proj": 4.0,
        f"{EXPERTS}.down_proj": 1.5,
    }
    assert found.notices == ()


def test_parameters_of_two_dimensions_among_them(saved: Callable[..., Checkpoint]) -> None:
    targets = ["experts.gate_up_proj", "experts.gate_up_proj_bias", "experts.down_proj", "router.weight"]
    found = saved(gpt_oss, target_modules=["q_proj"], target_parameters=targets)
    assert {one.parameter for one in found.pairs.values()} == {"", "weight", *(one[8:] for one in targets[:3])}


def test_expert_names_of_transformers_4_as_peft_converts_them(saved: Callable[..., Checkpoint]) -> None:
    found = saved(mixtral, target_modules=["w1", "w2", "w3", "gate"])
    assert {one.parameter for one in found.pairs.values()} == {"gate_up_proj", "down_proj", "weight"}
    assert found.pairs[f"{EXPERTS}.gate_up_proj"].rank == 4


def test_a_net_of_ones_own(saved: Callable[..., Checkpoint]) -> None:
    found = saved(Net, target_modules=["mha", "fc", "conv", "emb"], bias="lora_only", modules_to_save=["norm"])
    assert sorted(found.pairs) == ["conv", "emb", "fc", "mha", "mha.out_proj"]
    assert sorted(found.values) == [
        "conv.bias", "fc.bias", "mha.out_proj.bias", "norm.bias", "norm.running_mean", "norm.running_var",
        "norm.weight",
    ]  # fmt: skip


def test_peft_adds_the_change_of_an_output_projection_twice(saved: Callable[..., Checkpoint]) -> None:
    """The function that PEFT trains, against the module with the changes that the checkpoint says."""
    torch.manual_seed(0)
    net, x = Net(), torch.randn(3, 2, 8)
    with between_themselves():
        adapted = peft.get_peft_model(Net(), peft.LoraConfig(r=2, target_modules=["mha"]))
    adapted.base_model.model.mha.get_base_layer().load_state_dict(net.mha.state_dict(), strict=False)
    weights = {}
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_()
        weights[name.removeprefix("base_model.model.mha.")] = parameter.data
    inner = "base_layer.out_proj."
    net.mha.in_proj_weight.data = weights["base_layer.in_proj_weight"].clone()
    net.mha.out_proj.weight.data = weights[f"{inner}base_layer.weight"].clone()
    net.mha.in_proj_weight.data += 4 * weights["lora_B.default.weight"] @ weights["lora_A.default.weight"]
    once = 4 * weights[f"{inner}lora_B.default.weight"] @ weights[f"{inner}lora_A.default.weight"]
    found = saved(Net, target_modules=["mha"])
    net.mha.out_proj.weight.data += once * (found.pairs["mha.out_proj"].scaling / 4)
    with torch.no_grad():
        truth = adapted.base_model.model.mha(x, x, x)[0]
        torch.testing.assert_close(net.mha(x, x, x)[0], truth)
        net.mha.out_proj.weight.data -= once
        assert not torch.allclose(net.mha(x, x, x)[0], truth)
