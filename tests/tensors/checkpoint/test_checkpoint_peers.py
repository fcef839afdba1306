"""PEFT as the judge: rank and scale of every module as its reloaded layers have them, for every way to name targets."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, LlamaModel
from transformers.pytorch_utils import Conv1D

from registry.errors import InvalidAdapterError
from registry.files.header import read_header
from registry.files.source import FileSource
from registry.tensors.arithmetic.streamed import FiniteWatch
from registry.tensors.checkpoint.adapter import Checkpoint
from registry.tensors.checkpoint.reading import parse_config, read_checkpoint
from registry.tensors.table.targets import Target, TargetKind, TargetTable
from tests.kit.peers import between_themselves

KINDS = {torch.nn.Linear: TargetKind.LINEAR, Conv1D: TargetKind.CONV1D, torch.nn.Embedding: TargetKind.EMBEDDING}


def llama(cls: Any = LlamaForCausalLM) -> Any:
    return cls(
        LlamaConfig(
            vocab_size=40, hidden_size=16, intermediate_size=24, num_hidden_layers=3, num_attention_heads=4,
            num_key_value_heads=2, max_position_embeddings=32, tie_word_embeddings=False,
        )
    )  # fmt: skip


def gpt2() -> Any:
    return GPT2LMHeadModel(
        GPT2Config(vocab_size=40, n_embd=16, n_layer=2, n_head=4, n_positions=32, tie_word_embeddings=False)
    )


def table_of(model: Any) -> TargetTable:
    targets = {
        name: Target(name, KINDS[type(module)], f"{name}.weight", tuple(module.weight.shape))
        for name, module in model.named_modules()
        if type(module) in KINDS
    }
    output = next((n for n, m in model.named_modules() if m is model.get_output_embeddings()), None)
    return TargetTable(
        targets,
        "transformers 5",
        architecture=type(model).__name__,
        prefix=model.base_model_prefix,
        output_module=output,
    )


def read_folder(folder: Path, table: TargetTable) -> Checkpoint:
    config = parse_config((folder / "adapter_config.json").read_bytes())
    with FileSource(folder / "adapter_model.safetensors") as source:
        header = read_header(source, what="the adapter", error=InvalidAdapterError)
        finite = FiniteWatch(header.entries)
        finite(0, memoryview((folder / "adapter_model.safetensors").read_bytes()))
    return read_checkpoint(config, header.entries, table)


def layers_of(model: Any) -> dict[str, tuple[int, float]]:
    return {
        name.removeprefix("base_model.model."): (module.r["default"], module.scaling["default"])
        for name, module in model.named_modules()
        if isinstance(module, peft.tuners.lora.LoraLayer)
    }


WAYS: dict[str, dict[str, Any]] = {
    "leaf names": {"target_modules": ["q_proj", "v_proj"]},
    "full names": {"target_modules": ["model.layers.0.self_attn.q_proj", "layers.2.mlp.up_proj"]},
    "regular expression": {"target_modules": r".*layers\.[02]\.(self_attn|mlp)\.(q|up)_proj"},
    "all-linear": {"target_modules": "all-linear"},
    "layers_to_transform": {"target_modules": ["q_proj"], "layers_to_transform": [0, 2]},
    "one layer with a pattern": {"target_modules": ["q_proj"], "layers_to_transform": 1, "layers_pattern": "layers"},
    "exclude_modules": {"target_modules": ["q_proj", "k_proj"], "exclude_modules": ["layers.1.self_attn.q_proj"]},
    "exclude by pattern": {"target_modules": ["q_proj"], "exclude_modules": r".*\.1\..*"},
    "embedding and head": {"target_modules": ["embed_tokens", "lm_head", "q_proj"]},
    "rank and alpha patterns": {
        "target_modules": ["q_proj", "v_proj"],
        "rank_pattern": {"q_proj": 2, r"layers\.[12]\.self_attn\.v_proj": 6},
        "alpha_pattern": {"^model.layers.0.self_attn.v_proj": 3, "v_proj": 7},
    },
    "rsLoRA with patterns": {
        "target_modules": ["q_proj", "up_proj"],
        "use_rslora": True,
        "rank_pattern": {"up_proj": 9},
        "alpha_pattern": {"up_proj": 5},
    },
    "alpha of zero": {"target_modules": ["q_proj"], "lora_alpha": 0},
    "gaussian": {"target_modules": ["q_proj"], "init_lora_weights": "gaussian"},
    "orthogonal": {"target_modules": ["q_proj"], "init_lora_weights": "orthogonal"},
}


@pytest.mark.long_but("CAUSAL_LM", "full names", "rank and alpha patterns")
@pytest.mark.parametrize("fields", WAYS.values(), ids=WAYS.keys())
@pytest.mark.parametrize("task_type", [None, "CAUSAL_LM"])
def test_llama(fields: dict[str, Any], task_type: str | None, tmp_path: Path) -> None:
    agrees(llama, {"task_type": task_type, **fields}, tmp_path)


@pytest.mark.parametrize("targets", [["c_attn"], ["c_proj", "wte"], "all-linear", ["c_fc", "lm_head"]])
def test_gpt2(targets: Any, tmp_path: Path) -> None:
    agrees(gpt2, {"target_modules": targets}, tmp_path)


def agrees(make: Any, fields: dict[str, Any], folder: Path) -> None:
    config = peft.LoraConfig(**{"r": 4, "lora_alpha": 6, **fields})
    with between_themselves(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="fan_in_fan_out is set to (True|False)", category=UserWarning)
        peft.get_peft_model(make(), config).save_pretrained(folder)
        reloaded = peft.PeftModel.from_pretrained(make(), folder)
    found = read_folder(folder, table_of(make()))
    assert {name: (one.rank, one.scaling) for name, one in found.pairs.items()} == layers_of(reloaded)
    assert set(found.copies) <= set(found.pairs)
    assert ("lm_head" in found.copies) is ("lm_head" in found.pairs)
    assert not any("no tensors" in notice or "does not target" in notice for notice in found.notices)


def test_trained_without_the_head(tmp_path: Path) -> None:
    config = peft.LoraConfig(r=4, target_modules=r"layers\.\d\.self_attn\.q_proj", rank_pattern={"^layers.1.*": 2})
    with between_themselves():
        peft.get_peft_model(llama(LlamaModel), config).save_pretrained(tmp_path)
    found = read_folder(tmp_path, table_of(llama()))
    assert {name: one.rank for name, one in found.pairs.items()} == {
        f"model.layers.{layer}.self_attn.q_proj": 2 if layer == 1 else 4 for layer in range(3)
    }
    assert found.notices == ()


def test_trained_with_a_head_on_a_headless_base(tmp_path: Path) -> None:
    with between_themselves():
        peft.get_peft_model(llama(), peft.LoraConfig(r=4, target_modules="all-linear")).save_pretrained(tmp_path)
    found = read_folder(tmp_path, table_of(llama(LlamaModel)))
    assert len(found.pairs) == 21
    assert found.notices == ()


def test_a_converted_pissa_is_a_plain_lora(tmp_path: Path) -> None:
    config = peft.LoraConfig(r=2, lora_alpha=3, target_modules=["q_proj"], init_lora_weights="pissa", use_rslora=True)
    with between_themselves(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="PiSSA changes the base weights", category=UserWarning)
        model = peft.get_peft_model(llama(), config)
        model.peft_config["default"].init_lora_weights = True
        model.save_pretrained(tmp_path / "initial")
        model.peft_config["default"].init_lora_weights = "pissa"
        model.save_pretrained(tmp_path / "as_trained")
        model.save_pretrained(tmp_path / "converted", path_initial_model_for_weight_conversion=tmp_path / "initial")
    found = read_folder(tmp_path / "converted", table_of(llama()))
    assert found.rank == 4
    assert found.pairs["model.layers.0.self_attn.q_proj"].scaling == pytest.approx(3 / 2**0.5)
    with pytest.raises(InvalidAdapterError) as caught:
        read_folder(tmp_path / "as_trained", table_of(llama()))
    assert caught.value.code == "base_shifting_init"
