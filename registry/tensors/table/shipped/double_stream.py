"""Denoisers whose blocks have a stream of the image and one of the text: SD 3, FLUX.1, FLUX.2 and Qwen-Image.

As diffusers 0.42 builds them; tests hold every function to its class.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from registry.tensors.table.shipped.modules import (
    Module,
    Settings,
    conv,
    embedder,
    embedding,
    feed_forward,
    linear,
    norm,
)
from registry.tensors.table.targets import TargetKind

_TIMES: Final = 256
"""Of the sinusoidal embedding of a step, before its linear modules."""

_OF_IMAGE: Final = ("to_q", "to_k", "to_v", "to_out.0")
_OF_BOTH: Final = (*_OF_IMAGE, "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out")
_NORMS: Final = ("norm_q", "norm_k", "norm_added_q", "norm_added_k")


def sd_3(settings: Settings) -> Iterator[Module]:
    """``SD3Transformer2DModel``, of Stable Diffusion 3 and 3.5. The last block gives no text any more.

    Raises:
        NotCoveredError: a setting is not known here.
    """
    patch, channels = settings.number("patch_size", 2), settings.number("in_channels", 16)
    out, layers = settings.optional("out_channels", 16) or channels, settings.number("num_layers", 18)
    head, heads = settings.number("attention_head_dim", 64), settings.number("num_attention_heads", 18)
    text, projected = settings.number("joint_attention_dim", 4096), settings.number("caption_projection_dim", 1152)
    pooled, dual = settings.number("pooled_projection_dim", 2048), settings.places("dual_attention_layers")
    normed = settings.one_of("qk_norm", None, "rms_norm") is not None
    positions = settings.optional("pos_embed_max_size", 96)
    settings.any_of("sample_size")
    settings.finish()
    size = head * heads
    if positions is not None:
        yield Module("pos_embed", TargetKind.UNKNOWN, (), buffers=("pos_embed",))
    yield conv("pos_embed.proj", size, channels, (patch, patch))
    yield from embedder("time_text_embed.timestep_embedder", size, _TIMES)
    yield from embedder("time_text_embed.text_embedder", size, pooled)
    yield linear("context_embedder", projected, text)
    for number in range(layers):
        block, last = f"transformer_blocks.{number}", number == layers - 1
        yield linear(f"{block}.norm1.linear", (9 if number in dual else 6) * size, size)
        yield linear(f"{block}.norm1_context.linear", (2 if last else 6) * size, size)
        for leaf in _OF_BOTH[:-1] if last else _OF_BOTH:
            yield linear(f"{block}.attn.{leaf}", size, size)
        if number in dual:
            for leaf in _OF_IMAGE:
                yield linear(f"{block}.attn2.{leaf}", size, size)
        if normed:
            yield from _norms(f"{block}.attn", _NORMS, head)
            yield from _norms(f"{block}.attn2", _NORMS[:2] if number in dual else (), head)
        yield from feed_forward(f"{block}.ff", size, 4 * size)
        if not last:
            yield from feed_forward(f"{block}.ff_context", size, 4 * size)
    yield linear("norm_out.linear", 2 * size, size)
    yield linear("proj_out", patch * patch * out, size)


def flux_1(settings: Settings) -> Iterator[Module]:
    """``FluxTransformer2DModel``.

    Raises:
        NotCoveredError: a setting is not known here.
    """
    patch, channels = settings.number("patch_size", 1), settings.number("in_channels", 64)
    out = settings.optional("out_channels") or channels
    layers, singles = settings.number("num_layers", 19), settings.number("num_single_layers", 38)
    head, heads = settings.number("attention_head_dim", 128), settings.number("num_attention_heads", 24)
    text, pooled = settings.number("joint_attention_dim", 4096), settings.number("pooled_projection_dim", 768)
    guided = settings.flag("guidance_embeds")
    settings.any_of("axes_dims_rope")
    settings.finish()
    size = head * heads
    yield from embedder("time_text_embed.timestep_embedder", size, _TIMES)
    if guided:
        yield from embedder("time_text_embed.guidance_embedder", size, _TIMES)
    yield from embedder("time_text_embed.text_embedder", size, pooled)
    yield linear("context_embedder", size, text)
    yield linear("x_embedder", size, channels)
    for number in range(layers):
        block = f"transformer_blocks.{number}"
        yield linear(f"{block}.norm1.linear", 6 * size, size)
        yield linear(f"{block}.norm1_context.linear", 6 * size, size)
        yield from _attention(f"{block}.attn", size, head)
        yield from feed_forward(f"{block}.ff", size, 4 * size)
        yield from feed_forward(f"{block}.ff_context", size, 4 * size)
    for number in range(singles):
        block = f"single_transformer_blocks.{number}"
        yield linear(f"{block}.norm.linear", 3 * size, size)
        yield linear(f"{block}.proj_mlp", 4 * size, size)
        yield linear(f"{block}.proj_out", size, 5 * size)
        yield from _norms(f"{block}.attn", _NORMS[:2], head)
        for leaf in ("to_q", "to_k", "to_v"):
            yield linear(f"{block}.attn.{leaf}", size, size)
    yield linear("norm_out.linear", 2 * size, size)
    yield linear("proj_out", patch * patch * out, size)


def flux_2(settings: Settings) -> Iterator[Module]:
    """``Flux2Transformer2DModel``: no module has a bias.

    Raises:
        NotCoveredError: a setting is not known here.
    """
    patch, channels = settings.number("patch_size", 1), settings.number("in_channels", 128)
    out = settings.optional("out_channels") or channels
    layers, singles = settings.number("num_layers", 8), settings.number("num_single_layers", 48)
    head, heads = settings.number("attention_head_dim", 128), settings.number("num_attention_heads", 48)
    text, times = settings.number("joint_attention_dim", 15360), settings.number("timestep_guidance_channels", 256)
    ratio, guided = settings.ratio("mlp_ratio", 3.0), settings.flag("guidance_embeds", default=True)
    settings.any_of("axes_dims_rope", "rope_theta", "eps")
    settings.finish()
    size = head * heads
    inner = int(size * ratio)
    yield from embedder("time_guidance_embed.timestep_embedder", size, times, bias=False)
    if guided:
        yield from embedder("time_guidance_embed.guidance_embedder", size, times, bias=False)
    for name, sets in (("double_stream_modulation_img", 2), ("double_stream_modulation_txt", 2)):
        yield linear(f"{name}.linear", 3 * sets * size, size, bias=False)
    yield linear("single_stream_modulation.linear", 3 * size, size, bias=False)
    yield linear("x_embedder", size, channels, bias=False)
    yield linear("context_embedder", size, text, bias=False)
    for number in range(layers):
        block = f"transformer_blocks.{number}"
        yield from _attention(f"{block}.attn", size, head, bias=False)
        for name in ("ff", "ff_context"):
            yield linear(f"{block}.{name}.linear_in", 2 * inner, size, bias=False)
            yield linear(f"{block}.{name}.linear_out", size, inner, bias=False)
    for number in range(singles):
        block = f"single_transformer_blocks.{number}.attn"
        yield linear(f"{block}.to_qkv_mlp_proj", 3 * size + 2 * inner, size, bias=False)
        yield from _norms(block, _NORMS[:2], head)
        yield linear(f"{block}.to_out", size, size + inner, bias=False)
    yield linear("norm_out.linear", 2 * size, size, bias=False)
    yield linear("proj_out", patch * patch * out, size, bias=False)


def qwen_image(settings: Settings) -> Iterator[Module]:
    """``QwenImageTransformer2DModel``.

    Raises:
        NotCoveredError: a setting is not known here.
    """
    patch, channels = settings.number("patch_size", 2), settings.number("in_channels", 64)
    out = settings.optional("out_channels", 16) or channels
    layers = settings.number("num_layers", 60)
    head, heads = settings.number("attention_head_dim", 128), settings.number("num_attention_heads", 24)
    text = settings.number("joint_attention_dim", 3584)
    conditioned = settings.flag("use_additional_t_cond")
    settings.any_of("axes_dims_rope", "guidance_embeds", "zero_cond_t", "use_layer3d_rope", "pooled_projection_dim")
    settings.finish()
    size = head * heads
    yield from embedder("time_text_embed.timestep_embedder", size, _TIMES)
    if conditioned:
        yield embedding("time_text_embed.addition_t_embedding", 2, size)
    yield norm("txt_norm", text)
    yield linear("img_in", size, channels)
    yield linear("txt_in", size, text)
    for number in range(layers):
        block = f"transformer_blocks.{number}"
        yield from _attention(f"{block}.attn", size, head)
        for stream in ("img", "txt"):
            yield linear(f"{block}.{stream}_mod.1", 6 * size, size)
            yield from feed_forward(f"{block}.{stream}_mlp", size, 4 * size)
    yield linear("norm_out.linear", 2 * size, size)
    yield linear("proj_out", patch * patch * out, size)


def _attention(name: str, size: int, head: int, *, bias: bool = True) -> Iterator[Module]:
    """Attention of both streams together; each has its own projections."""
    for leaf in _OF_BOTH:
        yield linear(f"{name}.{leaf}", size, size, bias=bias)
    yield from _norms(name, _NORMS, head)


def _norms(name: str, leaves: tuple[str, ...], head: int) -> Iterator[Module]:
    for leaf in leaves:
        yield norm(f"{name}.{leaf}", head)
