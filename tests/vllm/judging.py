"""Runs in a Python that has vLLM, on a CPU: what its validation and its loader say to folders of adapters, as JSON.

The loader is told which modules the model has; here these are read from vLLM's model class, without making a model.
"""

from __future__ import annotations

import importlib
import json
import sys
from types import SimpleNamespace
from typing import Any

import torch
from vllm.lora import lora_model
from vllm.lora.layers import FusedMoEWithLoRA
from vllm.lora.model_manager import LoRAModelManager
from vllm.lora.peft_helper import PEFTHelper
from vllm.model_executor.models.adapters import as_seq_cls_model
from vllm.model_executor.models.interfaces import supports_lora

CLASSES = {
    "llama": ("llama", "LlamaForCausalLM", ("qkv_proj", "o_proj", "gate_up_proj", "down_proj")),
    "mistral": ("mistral", "MistralForCausalLM", ("qkv_proj", "o_proj", "gate_up_proj", "down_proj")),
    "opt": ("opt", "OPTForCausalLM", ("qkv_proj", "out_proj", "fc1", "fc2")),
    "gpt2": ("gpt2", "GPT2LMHeadModel", ()),
    "mixtral": ("mixtral", "MixtralForCausalLM", ("qkv_proj", "o_proj", "gate", "experts")),
    "gpt_oss": ("gpt_oss", "GptOssForCausalLM", ("qkv_proj", "o_proj", "router", "experts")),
    "llama_score": ("llama", "LlamaForCausalLM", ("qkv_proj", "o_proj", "gate_up_proj", "down_proj", "score")),
    "bert_head": ("bert", "BertForSequenceClassification", ("qkv_proj", "dense", "classifier")),
    "roberta_head": ("roberta", "RobertaForSequenceClassification", ("qkv_proj", "dense", "out_proj")),
}
"""Module, class, and the names of its layers that are a ``LinearBase`` or the experts, by model type."""
HEADS = {"llama_score": "score", "bert_head": "classifier", "roberta_head": None}
"""The head that ``LoRAModelManager`` wraps: that of Roberta consists of two modules, and is none."""


def expected(model: Any, layers: tuple[str, ...]) -> set[str]:
    """As ``WorkerLoRAManager._load_adapter`` finds them."""
    found: set[str] = set(getattr(model, "embedding_modules", ()))
    for layer in layers:
        found.update(getattr(model, "packed_modules_mapping", {}).get(layer, [layer]))
    return found


def judged(folder: str, kind: str, limit: int) -> str:
    """What vLLM says; empty: it loads."""
    module, name, layers = CLASSES[kind]
    model = getattr(importlib.import_module(f"vllm.model_executor.models.{module}"), name)
    if kind == "llama_score":
        model = as_seq_cls_model(model)
    if not supports_lora(model):
        return f"LoRA is not supported for {name}"
    try:
        helper = PEFTHelper.from_local_dir(folder, 64)
        helper.validate_legal(SimpleNamespace(max_lora_rank=limit))
        mapper = getattr(model, "hf_to_vllm_mapper", None)
        lora = lora_model.LoRAModel.from_local_checkpoint(
            folder,
            expected(model, layers),
            helper,
            lora_model_id=1,
            device="cpu",
            dtype=torch.float32,
            weights_mapper=mapper.get_rename_mapper() if mapper is not None else None,
        )
        check_experts(model, lora)
        check_head(HEADS.get(kind), lora)
    except (ValueError, AssertionError) as problem:
        return str(problem) or type(problem).__name__
    return ""


def check_experts(model: Any, lora: Any) -> None:
    """The checks of ``LoRAModelManager`` on experts, with its own code where that needs no model."""
    names = [name for name in lora.loras if name.endswith(".experts")]
    if not getattr(model, "is_3d_moe_weight", False):
        experts = object.__new__(FusedMoEWithLoRA)
        manager = SimpleNamespace(
            _enable_mixed_moe_lora_format=False,
            modules=dict.fromkeys(names, experts),
            _get_lora_layer_weights=lambda one, name: one.loras.get(name),
        )
        LoRAModelManager._validate_moe_lora_format(manager, lora)
    for name in names:  # of _stack_moe_lora_weights
        assert f"{name}.base_layer" in lora.loras, "gate_up_proj_lora is None"


def check_head(name: str | None, lora: Any) -> None:
    """The checks of ``LoRAModelManager`` on a classifier's head, of three labels over 16 features."""
    manager = SimpleNamespace(
        _classification_head=name and (name, SimpleNamespace(max_lora_cls_labels=3, input_size=16)),
        _pooling_task="classify",
        _get_module_to_save_weights=lambda one, module: one.get_module_to_save(module),
        _get_lora_layer_weights=lambda one, module: one.loras.get(module),
    )
    LoRAModelManager._validate_classification_head_lora(manager, lora)


def main(cases: list[tuple[str, str, str, int]]) -> None:
    lora_model.PIN_MEMORY = False  # there is no accelerator
    print(json.dumps({name: judged(folder, kind, limit) for name, folder, kind, limit in cases}))


if __name__ == "__main__":
    main(json.loads(sys.stdin.read()))
