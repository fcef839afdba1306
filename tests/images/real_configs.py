"""The config.json of real denoisers, written by hand, with what they are made of: parameters and tensors."""

from __future__ import annotations

from typing import Any, Final

_DOWN, _UP = ("DownBlock2D", "CrossAttnDownBlock2D"), ("UpBlock2D", "CrossAttnUpBlock2D")

SD_15: Final[dict[str, Any]] = {
    "_class_name": "UNet2DConditionModel", "_diffusers_version": "0.6.0", "act_fn": "silu", "attention_head_dim": 8,
    "block_out_channels": [320, 640, 1280, 1280], "center_input_sample": False, "cross_attention_dim": 768,
    "down_block_types": [_DOWN[1], _DOWN[1], _DOWN[1], _DOWN[0]], "downsample_padding": 1, "flip_sin_to_cos": True,
    "freq_shift": 0, "in_channels": 4, "layers_per_block": 2, "mid_block_scale_factor": 1, "norm_eps": 1e-05,
    "norm_num_groups": 32, "out_channels": 4, "sample_size": 64, "up_block_types": [_UP[0], _UP[1], _UP[1], _UP[1]],
}  # fmt: skip
SD_21: Final[dict[str, Any]] = SD_15 | {
    "_diffusers_version": "0.10.0", "attention_head_dim": [5, 10, 20, 20], "cross_attention_dim": 1024,
    "dual_cross_attention": False, "num_class_embeds": None, "only_cross_attention": False, "sample_size": 96,
    "upcast_attention": True, "use_linear_projection": True,
}  # fmt: skip
SDXL: Final[dict[str, Any]] = {
    "_class_name": "UNet2DConditionModel", "_diffusers_version": "0.19.0.dev0", "act_fn": "silu",
    "addition_embed_type": "text_time", "addition_embed_type_num_heads": 64, "addition_time_embed_dim": 256,
    "attention_head_dim": [5, 10, 20], "block_out_channels": [320, 640, 1280], "center_input_sample": False,
    "class_embed_type": None, "class_embeddings_concat": False, "conv_in_kernel": 3, "conv_out_kernel": 3,
    "cross_attention_dim": 2048, "cross_attention_norm": None, "down_block_types": [_DOWN[0], _DOWN[1], _DOWN[1]],
    "downsample_padding": 1, "dual_cross_attention": False, "encoder_hid_dim": None, "encoder_hid_dim_type": None,
    "flip_sin_to_cos": True, "freq_shift": 0, "in_channels": 4, "layers_per_block": 2,
    "mid_block_only_cross_attention": None, "mid_block_scale_factor": 1, "mid_block_type": "UNetMidBlock2DCrossAttn",
    "norm_eps": 1e-05, "norm_num_groups": 32, "num_attention_heads": None, "num_class_embeds": None,
    "only_cross_attention": False, "out_channels": 4, "projection_class_embeddings_input_dim": 2816,
    "resnet_out_scale_factor": 1.0, "resnet_skip_time_act": False, "resnet_time_scale_shift": "default",
    "sample_size": 128, "time_cond_proj_dim": None, "time_embedding_act_fn": None, "time_embedding_dim": None,
    "time_embedding_type": "positional", "timestep_post_act": None, "transformer_layers_per_block": [1, 2, 10],
    "up_block_types": [_UP[1], _UP[1], _UP[0]], "upcast_attention": None, "use_linear_projection": True,
}  # fmt: skip
SD_35: Final[dict[str, Any]] = {
    "_class_name": "SD3Transformer2DModel", "_diffusers_version": "0.31.0.dev0", "attention_head_dim": 64,
    "caption_projection_dim": 2432, "in_channels": 16, "joint_attention_dim": 4096, "num_attention_heads": 38,
    "num_layers": 38, "out_channels": 16, "patch_size": 2, "pooled_projection_dim": 2048, "pos_embed_max_size": 192,
    "qk_norm": "rms_norm", "sample_size": 128,
}  # fmt: skip
FLUX_1: Final[dict[str, Any]] = {
    "_class_name": "FluxTransformer2DModel", "_diffusers_version": "0.30.0.dev0", "_name_or_path": "../checkpoints",
    "attention_head_dim": 128, "guidance_embeds": True, "in_channels": 64, "joint_attention_dim": 4096,
    "num_attention_heads": 24, "num_layers": 19, "num_single_layers": 38, "patch_size": 1,
    "pooled_projection_dim": 768,
}  # fmt: skip
FLUX_2: Final[dict[str, Any]] = {
    "_class_name": "Flux2Transformer2DModel", "_diffusers_version": "0.36.0.dev0", "attention_head_dim": 128,
    "axes_dims_rope": [32, 32, 32, 32], "eps": 1e-06, "in_channels": 128, "joint_attention_dim": 15360,
    "mlp_ratio": 3.0, "num_attention_heads": 48, "num_layers": 8, "num_single_layers": 48, "out_channels": None,
    "patch_size": 1, "rope_theta": 2000, "timestep_guidance_channels": 256,
}  # fmt: skip
QWEN_IMAGE: Final[dict[str, Any]] = {
    "_class_name": "QwenImageTransformer2DModel", "_diffusers_version": "0.34.0.dev0", "attention_head_dim": 128,
    "axes_dims_rope": [16, 56, 56], "guidance_embeds": False, "in_channels": 64, "joint_attention_dim": 3584,
    "num_attention_heads": 24, "num_layers": 60, "out_channels": 16, "patch_size": 2, "pooled_projection_dim": 768,
}  # fmt: skip
WAN: Final[dict[str, Any]] = {
    "_class_name": "WanTransformer3DModel", "_diffusers_version": "0.35.0.dev0", "added_kv_proj_dim": None,
    "attention_head_dim": 128, "cross_attn_norm": True, "eps": 1e-06, "ffn_dim": 13824, "freq_dim": 256,
    "image_dim": None, "in_channels": 16, "num_attention_heads": 40, "num_layers": 40, "out_channels": 16,
    "patch_size": [1, 2, 2], "pos_embed_seq_len": None, "qk_norm": "rms_norm_across_heads", "rope_max_seq_len": 1024,
    "text_dim": 4096,
}  # fmt: skip
WAN_OF_IMAGES: Final[dict[str, Any]] = WAN | {"added_kv_proj_dim": 5120, "image_dim": 1280, "in_channels": 36}
Z_IMAGE: Final[dict[str, Any]] = {
    "_class_name": "ZImageTransformer2DModel", "_diffusers_version": "0.36.0.dev0", "all_f_patch_size": [1],
    "all_patch_size": [2], "axes_dims": [32, 48, 48], "axes_lens": [1536, 512, 512], "cap_feat_dim": 2560,
    "dim": 3840, "in_channels": 16, "n_heads": 30, "n_kv_heads": 30, "n_layers": 30, "n_refiner_layers": 2,
    "norm_eps": 1e-05, "qk_norm": True, "rope_theta": 256.0, "t_scale": 1000.0,
}  # fmt: skip

REAL: Final[dict[str, tuple[dict[str, Any], int, int]]] = {
    "sd-1.5": (SD_15, 859_520_964, 686),
    "sd-2.1": (SD_21, 865_910_724, 686),
    "sdxl": (SDXL, 2_567_463_684, 1680),
    "sd-3.5": (SD_35, 8_056_627_520, 1226),
    "flux.1": (FLUX_1, 11_901_408_320, 1160),
    "flux.2": (FLUX_2, 32_223_281_152, 331),
    "qwen-image": (QWEN_IMAGE, 20_430_401_088, 1933),
    "wan": (WAN, 14_288_491_584, 1095),
    "wan-of-images": (WAN_OF_IMAGES, 16_394_878_784, 1303),
    "z-image": (Z_IMAGE, 6_154_908_736, 521),
}
"""Config, parameters and their number, without buffers (SD 3 keeps its table of positions, too)."""
