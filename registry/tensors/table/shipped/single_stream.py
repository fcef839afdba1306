"""Denoisers whose blocks have one stream: Wan, and Z-Image.

As diffusers 0.42 builds them; tests hold every function to its class.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Final

from registry.tensors.table.shipped.modules import (
    Module,
    NotCoveredError,
    Settings,
    conv,
    embedder,
    feed_forward,
    linear,
    norm,
    own,
)

_MODULATED: Final = 256
"""The most numbers that Z-Image's modulation takes."""
_MIDDLE: Final = 1024
"""Between the two modules of Z-Image's embedding of a step."""


def wan(settings: Settings) -> Iterator[Module]:
    """``WanTransformer3DModel``.

    Raises:
        NotCoveredError: a setting is not known here.
    """
    patch = settings.numbers("patch_size", (1, 2, 2))
    heads, head = settings.number("num_attention_heads", 40), settings.number("attention_head_dim", 128)
    channels = settings.number("in_channels", 16)
    out = settings.optional("out_channels", 16) or channels
    text, times = settings.number("text_dim", 4096), settings.number("freq_dim", 256)
    inner, layers = settings.number("ffn_dim", 13824), settings.number("num_layers", 40)
    normed = settings.flag("cross_attn_norm", default=True)
    settings.one_of("qk_norm", "rms_norm_across_heads")
    image, added = settings.optional("image_dim"), settings.optional("added_kv_proj_dim")
    positions = settings.optional("pos_embed_seq_len")
    settings.any_of("eps", "rope_max_seq_len")
    settings.finish()
    if len(patch) != 3:
        raise NotCoveredError("patch_size")
    size = heads * head
    yield own("", "scale_shift_table", (1, 2, size))
    yield conv("patch_embedding", size, channels, patch)
    yield from embedder("condition_embedder.time_embedder", size, times)
    yield linear("condition_embedder.time_proj", 6 * size, size)
    yield from embedder("condition_embedder.text_embedder", size, text)
    if image is not None:
        yield from _image(image, size, positions)
    for number in range(layers):
        block = f"blocks.{number}"
        yield own(block, "scale_shift_table", (1, 6, size))
        for name in ("attn1", "attn2"):
            for leaf in ("to_q", "to_k", "to_v", "to_out.0"):
                yield linear(f"{block}.{name}.{leaf}", size, size)
            for leaf in ("norm_q", "norm_k"):
                yield norm(f"{block}.{name}.{leaf}", size)
        if added is not None:
            yield linear(f"{block}.attn2.add_k_proj", size, added)
            yield linear(f"{block}.attn2.add_v_proj", size, added)
            yield norm(f"{block}.attn2.norm_added_k", size)
        if normed:
            yield norm(f"{block}.norm2", size, bias=True)
        yield from feed_forward(f"{block}.ffn", size, inner)
    yield linear("proj_out", out * math.prod(patch), size)


def _image(columns: int, size: int, positions: int | None) -> Iterator[Module]:
    """The embedding of an image that a video begins with."""
    name = "condition_embedder.image_embedder"
    if positions is not None:
        yield own(name, "pos_embed", (1, positions, columns))
    yield norm(f"{name}.norm1", columns, bias=True)
    yield from feed_forward(f"{name}.ff", columns, columns, out=size)
    yield norm(f"{name}.norm2", size, bias=True)


def z_image(settings: Settings) -> Iterator[Module]:
    """``ZImageTransformer2DModel``.

    Raises:
        NotCoveredError: a setting is not known here.
    """
    patches, frames = settings.numbers("all_patch_size", (2,)), settings.numbers("all_f_patch_size", (1,))
    channels, size = settings.number("in_channels", 16), settings.number("dim", 3840)
    layers, refiners = settings.number("n_layers", 30), settings.number("n_refiner_layers", 2)
    heads = settings.number("n_heads", 30)
    normed = settings.flag("qk_norm", default=True)
    text = settings.number("cap_feat_dim", 2560)
    settings.one_of("siglip_feat_dim", None)
    axes = settings.numbers("axes_dims", (32, 48, 48))
    settings.any_of("n_kv_heads", "norm_eps", "rope_theta", "t_scale", "axes_lens")
    settings.finish()
    if (
        len(patches) != len(frames)
        or sum(axes) != size // heads
        or len({*zip(patches, frames, strict=True)}) < len(frames)
    ):
        raise NotCoveredError("patch sizes or axes")
    modulated = min(size, _MODULATED)
    for patch, frame in zip(patches, frames, strict=True):
        numbers = frame * patch * patch * channels
        yield linear(f"all_x_embedder.{patch}-{frame}", size, numbers)
        yield linear(f"all_final_layer.{patch}-{frame}.linear", numbers, size)
        yield linear(f"all_final_layer.{patch}-{frame}.adaLN_modulation.1", size, modulated)
    for stack, count in (("noise_refiner", refiners), ("context_refiner", refiners), ("layers", layers)):
        for number in range(count):
            block = f"{stack}.{number}"
            yield from _block(block, size, heads, normed=normed)
            if stack != "context_refiner":
                yield linear(f"{block}.adaLN_modulation.0", 4 * size, modulated)
    yield linear("t_embedder.mlp.0", _MIDDLE, 256)
    yield linear("t_embedder.mlp.2", modulated, _MIDDLE)
    yield norm("cap_embedder.0", text)
    yield linear("cap_embedder.1", size, text)
    yield Module(
        "", own("", "x_pad_token", (1, size)).kind, tuple((key, (1, size)) for key in ("x_pad_token", "cap_pad_token"))
    )


def _block(name: str, size: int, heads: int, *, normed: bool) -> Iterator[Module]:
    head = size // heads
    for leaf in ("to_q", "to_k", "to_v"):
        yield linear(f"{name}.attention.{leaf}", heads * head, size, bias=False)
    yield linear(f"{name}.attention.to_out.0", size, heads * head, bias=False)
    if normed:
        yield norm(f"{name}.attention.norm_q", head)
        yield norm(f"{name}.attention.norm_k", head)
    inner = int(size / 3 * 8)
    yield linear(f"{name}.feed_forward.w1", inner, size, bias=False)
    yield linear(f"{name}.feed_forward.w2", size, inner, bias=False)
    yield linear(f"{name}.feed_forward.w3", inner, size, bias=False)
    for leaf in ("attention_norm1", "ffn_norm1", "attention_norm2", "ffn_norm2"):
        yield norm(f"{name}.{leaf}", size)
