"""Denoisers of the families of image models, as small as their classes allow, and what their modules are."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import torch


def _unet(**config: Any) -> Any:
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        layers_per_block=2, cross_attention_dim=16, attention_head_dim=8, norm_num_groups=8, **config
    )


def _sd() -> Any:
    down, attended = ("DownBlock2D", "CrossAttnDownBlock2D")
    up, attended_up = ("UpBlock2D", "CrossAttnUpBlock2D")
    return _unet(
        block_out_channels=(16, 32, 32, 32),
        down_block_types=(attended, attended, attended, down),
        up_block_types=(up, attended_up, attended_up, attended_up),
    )


def _sdxl() -> Any:
    return _unet(
        block_out_channels=(16, 32, 32),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=[1, 2, 1],
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=64,
    )


def _sd_3() -> Any:
    from diffusers import SD3Transformer2DModel

    return SD3Transformer2DModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        num_layers=3,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=12,
        caption_projection_dim=16,
        pooled_projection_dim=8,
        pos_embed_max_size=4,
        dual_attention_layers=(0, 1),
        qk_norm="rms_norm",
    )


def _flux(inner: int = 16, layers: int = 2) -> Any:
    from diffusers import FluxTransformer2DModel

    return FluxTransformer2DModel(
        patch_size=1,
        in_channels=4,
        num_layers=layers,
        num_single_layers=layers,
        attention_head_dim=inner // 2,
        num_attention_heads=2,
        joint_attention_dim=8,
        pooled_projection_dim=8,
        axes_dims_rope=(inner // 8, inner // 8, inner // 4),
        guidance_embeds=True,
    )


def _flux_2() -> Any:
    from diffusers import Flux2Transformer2DModel

    return Flux2Transformer2DModel(
        num_layers=2,
        num_single_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=16,
        in_channels=8,
        timestep_guidance_channels=16,
        axes_dims_rope=(4, 4, 4, 4),
    )


def _qwen_image() -> Any:
    from diffusers import QwenImageTransformer2DModel

    return QwenImageTransformer2DModel(
        patch_size=2,
        in_channels=16,
        out_channels=4,
        num_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=16,
        axes_dims_rope=(4, 6, 6),
    )


def _wan() -> Any:
    from diffusers import WanTransformer3DModel

    return WanTransformer3DModel(
        num_layers=2,
        num_attention_heads=2,
        attention_head_dim=12,
        ffn_dim=32,
        text_dim=16,
        freq_dim=16,
        image_dim=16,
        added_kv_proj_dim=24,
    )


def _z_image() -> Any:
    from diffusers import ZImageTransformer2DModel

    return ZImageTransformer2DModel(
        dim=32,
        n_layers=2,
        n_refiner_layers=2,
        n_heads=2,
        n_kv_heads=2,
        cap_feat_dim=16,
        axes_dims=[4, 6, 6],
        axes_lens=[8, 8, 8],
        in_channels=4,
    )


_MADE: Final[Mapping[str, Callable[[], Any]]] = {
    "sd": _sd,
    "sdxl": _sdxl,
    "sd-3": _sd_3,
    "flux": _flux,
    "flux-2": _flux_2,
    "qwen-image": _qwen_image,
    "wan": _wan,
    "z-image": _z_image,
}


def made(family: str, **options: Any) -> Any:
    """A model with weights that are the same every time."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return _MADE[family](**options)


def weights_of(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The weights of two or more dimensions, by module."""
    found = {}
    for name, module in model.named_modules():
        weight = getattr(module, "weight", None)
        if isinstance(weight, torch.Tensor) and weight.ndim >= 2:
            found[name] = weight.detach()
    return found
