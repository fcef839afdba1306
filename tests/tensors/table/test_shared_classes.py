"""Model types that share the classes of another type: the class that the config names is the one that is built."""

from __future__ import annotations

from typing import Any

import pytest

from registry.tensors.table.architecture_child import answer

LLAMA: dict[str, Any] = {
    "vocab_size": 16, "hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 1, "num_attention_heads": 2,
    "num_key_value_heads": 2, "head_dim": 4,
}  # fmt: skip
EMBEDDING = {"model.embed_tokens.weight": [16, 8]}


def facts(**config: Any) -> dict[str, Any]:
    tensors = config.pop("tensors", EMBEDDING)
    return answer({"config": {**LLAMA, **config}, "tensors": tensors})


@pytest.mark.parametrize("model_type", ["exaone", "internlm3", "iquestcoder"])
def test_a_tied_head_is_there_although_the_files_lack_it(model_type: str) -> None:
    """A class without a head explains as many tensors."""
    found = facts(model_type=model_type, architectures=["LlamaForCausalLM"], tie_word_embeddings=True)
    assert found["architecture"] == "LlamaForCausalLM"
    assert found["output_module"] == "lm_head"
    assert ["model.embed_tokens.weight", "lm_head.weight"] in found["ties"]


def test_a_class_that_no_loader_builds_for_the_type_is_not_taken() -> None:
    found = facts(model_type="exaone", architectures=["MistralForCausalLM"], tie_word_embeddings=True)
    assert found["architecture"].startswith("Llama")


def test_what_a_config_without_a_class_gives_stays() -> None:
    found = facts(model_type="exaone", tie_word_embeddings=True)
    assert (found["architecture"], found["named"]) == ("LlamaModel", False)


def test_a_type_whose_class_only_the_config_names() -> None:
    """transformers has neither a base model nor a causal one for it."""
    config = {
        "model_type": "pp_chart2table",
        "architectures": ["GotOcr2ForConditionalGeneration"],
        "text_config": {**LLAMA, "model_type": "qwen2"},
        "vision_config": {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "mlp_dim": 12},
    }
    found = answer({"config": config, "tensors": {"model.language_model.embed_tokens.weight": [16, 8]}})
    assert (found["status"], found["architecture"]) == ("built", "GotOcr2ForConditionalGeneration")
    config["architectures"] = ["LlamaForCausalLM"]
    assert answer({"config": config, "tensors": {}})["status"] == "unknown"
