"""Tiny models of types whose files hold rows that transformers cuts, joins or reorders on loading."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch

_TEXT: Final[Mapping[str, Any]] = {
    "vocab_size": 40, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 4,
    "max_position_embeddings": 32,
}  # fmt: skip
_SIGHT: Final[Mapping[str, Any]] = {
    "hidden_size": 32, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 4,
}  # fmt: skip
_LATENT: Final[Mapping[str, Any]] = {
    "kv_lora_rank": 8, "q_lora_rank": 8, "qk_rope_head_dim": 4, "qk_nope_head_dim": 4, "v_head_dim": 4,
    "moe_intermediate_size": 12, "n_routed_experts": 4, "num_experts_per_tok": 2, "n_group": 1, "topk_group": 1,
    "n_shared_experts": 1,
}  # fmt: skip


@dataclass(frozen=True)
class LaidModel:
    """A type, what is small about its configuration, and the modules whose weights are runs of rows."""

    auto: str
    config: Mapping[str, Any]
    modules: tuple[str, ...]  # ends of names
    biased: bool = False  # they have biases


LAID_MODELS: Final[Mapping[str, LaidModel]] = {
    # Chunk(dim=0), with biases
    "nomic_bert": LaidModel("AutoModel", {**_TEXT, "type_vocab_size": 2}, ("self_attn.q_proj", "self_attn.v_proj")),
    "jina_embeddings_v3": LaidModel("AutoModel", dict(_TEXT), ("self_attn.q_proj", "self_attn.k_proj"), biased=True),
    # Split(dim=0): heads of keys are fewer than those of queries
    "sarvam_moe": LaidModel(
        "AutoModelForCausalLM",
        {
            **_TEXT, "num_key_value_heads": 2, "head_dim": 4, "moe_intermediate_size": 12, "n_routed_experts": 4,
            "num_experts_per_tok": 2, "n_group": 1, "topk_group": 1, "first_k_dense_replace": 1,
            "num_nextn_predict_layers": 0,
        },
        ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    ),
    # Chunk(dim=0), then PermuteForRope on two of three
    "kimi_k25": LaidModel(
        "AutoModelForImageTextToText",
        {
            "text_config": {**_TEXT, **_LATENT, "first_k_dense_replace": 1, "num_nextn_predict_layers": 0},
            "vision_config": {**_SIGHT, "pos_emb_height": 4, "pos_emb_width": 4, "pos_emb_time": 2},
            "projection_hidden_size": 16,
            "tie_word_embeddings": False,
        },
        ("attn.q_proj", "attn.k_proj", "attn.v_proj"),
        biased=True,
    ),
    # Concatenate(dim=0): one linear of two tensors
    "minimax_m3_vl": LaidModel(
        "AutoModelForImageTextToText",
        {
            "text_config": {
                **_TEXT, "num_key_value_heads": 2, "head_dim": 4, "num_local_experts": 2, "num_experts_per_tok": 1,
                "dense_intermediate_size": 24, "shared_intermediate_size": 24, "rotary_dim": 4, "index_n_heads": 2,
                "index_head_dim": 4, "mlp_layer_types": ["dense"], "layer_types": ["full_attention"],
            },
            "vision_config": {**_SIGHT, "image_size": 28, "patch_size": 14},
            "projector_hidden_size": 16,
        },
        ("mlp.gate_up_proj", "mlp.down_proj"),
    ),
}  # fmt: skip


def laid_base(folder: Path, model_type: str, dtype: torch.dtype = torch.float32) -> Path:
    """A folder with a model of random weights as ``save_pretrained`` writes it: in the layout of the type's files."""
    import transformers
    from transformers import initialization
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    made = LAID_MODELS[model_type]
    with initialization.no_init_weights():
        model = getattr(transformers, made.auto).from_config(CONFIG_MAPPING[model_type](**made.config))
    generator = torch.Generator().manual_seed(11)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
        for buffer in model.buffers():
            buffer.nan_to_num_(0.0, 0.0, 0.0)
    model.to(dtype).save_pretrained(folder)
    return folder


def load_laid(folder: Path, model_type: str, dtype: torch.dtype = torch.float32) -> Any:
    """The model of such a folder; no tensor may be missing, unexpected or of another shape."""
    import transformers

    auto = getattr(transformers, LAID_MODELS[model_type].auto)
    model, info = auto.from_pretrained(folder, dtype=dtype, output_loading_info=True)
    found = {key: info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys") if info[key]}
    if found:
        raise AssertionError(f"{folder} does not hold the model: {found}")
    return model.eval()
