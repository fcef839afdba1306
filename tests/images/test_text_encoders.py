"""Text encoders as pipelines have them: one table whether their files name ``text_model.`` or not, or as before."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import torch

from registry.tensors.table import architecture_child
from registry.tensors.table.built import table_from_facts
from registry.tensors.table.targets import TargetKind, TargetTable

Renamed = Callable[[str], str]

TEXT: dict[str, Any] = {
    "vocab_size": 64, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 1, "head_dim": 8, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
CLIP = {key: TEXT[key] for key in list(TEXT)[:5]} | {"projection_dim": 16, "bos_token_id": 1, "eos_token_id": 2}
T5 = {"vocab_size": 64, "d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 2,
      "feed_forward_proj": "gated-gelu"}  # fmt: skip
QWEN_VL = {
    "text_config": TEXT | {"rope_scaling": {"type": "mrope", "mrope_section": [1, 1, 2]}},
    "vision_config": {"depth": 2, "hidden_size": 16, "intermediate_size": 32, "num_heads": 2, "out_hidden_size": 16,
                      "patch_size": 4, "fullatt_block_indexes": [1]},
}  # fmt: skip
MISTRAL = {
    "text_config": TEXT | {"model_type": "mistral"},
    "vision_config": {"model_type": "pixtral", "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1,
                      "num_attention_heads": 2, "image_size": 16, "patch_size": 4},
}  # fmt: skip


def flat(name: str) -> str:
    return name.removeprefix("text_model.")


def nested(name: str) -> str:
    return name if name.startswith("text_projection") else f"text_model.{flat(name)}"


def of_qwen_before(name: str) -> str:
    return name.replace("model.language_model.", "model.").replace("model.visual.", "visual.")


def of_mistral_before(name: str) -> str:
    for now, before in (
        ("model.language_model.", "language_model.model."),
        ("model.vision_tower.", "vision_tower."),
        ("model.multi_modal_projector.", "multi_modal_projector."),
        ("lm_head.", "language_model.lm_head."),
    ):
        if name.startswith(now):
            return before + name.removeprefix(now)
    return name


def table_of(architecture: str, given: dict[str, Any], renamed: Renamed) -> tuple[TargetTable, dict[str, str]]:
    """The table of a model whose files have other names, and file tensor -> parameter."""
    import transformers

    cls = getattr(transformers, architecture)
    with torch.device("meta"):
        model = cls(cls.config_class(**given))
    names = {name: renamed(name) for name in model.state_dict() if name not in model.all_tied_weights_keys}
    shapes = {file: list(model.state_dict()[name].shape) for name, file in names.items()}
    config = json.loads(model.config.to_json_string(use_diff=False)) | {"architectures": [architecture]}
    facts = architecture_child.answer({"library": "transformers", "config": config, "tensors": shapes})
    assert facts["status"] == "built", facts
    return table_from_facts(facts, {name: ("F32", tuple(shape)) for name, shape in shapes.items()}), names


@pytest.mark.slow
@pytest.mark.parametrize(
    ("architecture", "config", "spellings", "query"),
    [
        ("CLIPTextModel", CLIP, (str, flat, nested), "encoder.layers.1.self_attn.q_proj"),
        ("CLIPTextModelWithProjection", CLIP, (str, flat, nested), "text_model.encoder.layers.1.self_attn.q_proj"),
        ("T5EncoderModel", T5, (str,), "encoder.block.1.layer.0.SelfAttention.q"),
        ("UMT5EncoderModel", T5, (str,), "encoder.block.1.layer.0.SelfAttention.q"),
        ("Qwen3ForCausalLM", TEXT, (str,), "model.layers.1.self_attn.q_proj"),
        ("Qwen3Model", TEXT, (str,), "layers.1.self_attn.q_proj"),
        ("Qwen2_5_VLForConditionalGeneration", QWEN_VL, (str, of_qwen_before),
         "model.language_model.layers.1.self_attn.q_proj"),
        ("Mistral3ForConditionalGeneration", MISTRAL, (str, of_mistral_before),
         "model.language_model.layers.1.self_attn.q_proj"),
    ],
)  # fmt: skip
def test_a_text_encoder_has_one_table_however_its_files_name_it(
    architecture: str, config: dict[str, Any], spellings: tuple[Renamed, ...], query: str
) -> None:
    found = [table_of(architecture, config, renamed) for renamed in spellings]
    for table, names in found:
        assert (table.architecture, table.notices, table.knows_kinds) == (architecture, (), True)
        assert table.targets[query].kind is TargetKind.LINEAR
        assert table.targets[query].tensor == names[f"{query}.weight"]
        assert table.targets.keys() == found[0][0].targets.keys()
        assert {held.tensor for held in table.parameters.values()} == set(names.values())
