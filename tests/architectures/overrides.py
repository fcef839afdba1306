"""What some model types need to be built small, beyond what the names of their fields tell."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

_RESNET: Final[Mapping[str, Any]] = {  # in the place of a backbone of timm
    "use_timm_backbone": False,
    "use_pretrained_backbone": False,
    "backbone": None,
    "backbone_config": {
        "model_type": "resnet",
        "depths": [1, 1, 1, 1],
        "hidden_sizes": [16, 24, 32, 40],
        "embedding_size": 16,
        "layer_type": "basic",
        "out_features": ["stage2", "stage3", "stage4"],
    },
}

_ROPES: Final[Mapping[str, Any]] = {
    "rope_parameters": {
        "full_attention": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 1, 1]},
    },
}

FIELDS: Final[Mapping[str, Mapping[str, Any]]] = {
    "autoformer": {"prediction_length": 4, "context_length": 8},
    "informer": {"prediction_length": 4, "context_length": 8},
    "time_series_transformer": {"prediction_length": 4, "context_length": 8},
    "mamba2": {"num_heads": 4, "head_dim": 16},
    "reformer": {"is_decoder": True, "axial_pos_embds_dim": [16, 16], "axial_pos_shape": [8, 8]},
    "gptj": {"rotary_dim": 8},  # of a head
    "esm": {"vocab_size": 64, "pad_token_id": 1, "mask_token_id": 2},
    "hunyuan_v1_dense": {"head_dim": 8},
    "hunyuan_v1_moe": {"head_dim": 8},
    "hunyuan_vl_text": {"head_dim": 8},
    "hunyuan_vl": {"text_config": {"head_dim": 8}},
    "ministral": {"head_dim": 8},
    "falcon_h1": {"mamba_d_ssm": 64, "mamba_n_heads": 4, "mamba_d_head": 16},
    "dory": {  # its files count attention and MLP as a layer each
        "n_input_layers": 2,
        "n_recurrent_layers": 2,
        "n_output_layers": 2,
        "num_hidden_layers": 6,
        "layer_types": ["full_attention", "mlp", "sliding_attention", "mlp", "full_attention", "mlp"],
    },
    "nemotron": {"num_key_value_heads": 2},
    "lfm2_moe": {"num_hidden_layers": 2, "num_dense_layers": 1, "layer_types": ["conv", "full_attention"]},
    "dots1": {"n_shared_experts": 1, "n_routed_experts": 4, "num_experts_per_tok": 2, "first_k_dense_replace": 1},
    "dbrx": {"attn_config": {"rope_theta": 10000.0}},
    "chameleon": {"vocabulary_map": {"<image>": 3}},
    "emu3": {"vocabulary_map": {"<image>": 3}},
    "glm5_next": {"text_config": {"index_kpool": 2}},
    "glm5_next_text": {"index_kpool": 2},
    "cohere_compass": {"text_config": _ROPES},
    "cohere_compass_text": _ROPES,
    "ernie4_5_vl_moe": {"text_config": {"rope_parameters": {"mrope_section": [1, 1, 2]}}},
    "molmo2": {"adapter_config": {"vision_feature_layer": [1, 0]}},
    "csm": {"codec_config": {"upsample_groups": 32}},
    "diffusion_gemma": {"text_config": {"num_experts": 4, "top_k_experts": 2, "moe_intermediate_size": 48}},
    "granite4_vision": {
        "vision_config": {"hidden_size": 64},  # of which a head of the projector's takes 64
        "downsample_rate": "1/2",
        "deepstack_layer_map": [[0, 0]],
        "spatial_target_layers": [0, 1, 0, 1],
    },
    "apertus1p5": {"text_config": {"vocab_size": 256}, "image_token_offset": 64, "audio_token_offset": 128},
    "gemma4_assistant": {"text_config": {"hidden_size_per_layer_input": 0, "vocab_size_per_layer_input": 0}},
    "deepseek_ocr2": {"text_config": {"mlp_layer_types": ["dense", "sparse"], "num_experts_per_tok": 2}},
    "bridgetower": {"hidden_size": 64, "text_config": {"hidden_size": 64}, "vision_config": {"hidden_size": 64}},
    "moonshine_streaming": {"num_key_value_heads": 4},
    "detr": _RESNET,
    "conditional_detr": _RESNET,
    "dab-detr": _RESNET,
    "deformable_detr": _RESNET,
    "table-transformer": _RESNET,
}
"""Model type -> fields of its configuration, laid over the small one."""
