"""The UNet of Stable Diffusion 1 and 2, and of SDXL: ``UNet2DConditionModel``.

As diffusers 0.42 builds it; tests hold it to the class. Its other kinds of blocks (DeepFloyd, Kandinsky, upscalers) are
not known here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
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
)

_DOWN: Final = ("DownBlock2D", "CrossAttnDownBlock2D")
_UP: Final = ("UpBlock2D", "CrossAttnUpBlock2D")


@dataclass(frozen=True)
class _Sizes:
    """What blocks are made with."""

    channels: tuple[int, ...]
    resnets: tuple[int, ...]
    depths: tuple[int, ...]  # transformer blocks behind each resnet
    heads: tuple[int, ...]
    text: tuple[int, ...]
    times: int
    is_linear: bool  # what is around the transformer blocks; else convolutions of one pixel


def unet(settings: Settings) -> Iterator[Module]:
    """The modules of a UNet.

    Raises:
        NotCoveredError: a setting is not known here.
    """
    channels = settings.numbers("block_out_channels", (320, 640, 1280, 1280))
    count = len(channels)
    down = settings.words("down_block_types", (_DOWN[1], _DOWN[1], _DOWN[1], _DOWN[0]), _DOWN)
    up = settings.words("up_block_types", (_UP[0], _UP[1], _UP[1], _UP[1]), _UP)
    sizes = _Sizes(
        channels,
        settings.each("layers_per_block", 2, count),
        settings.each("transformer_layers_per_block", 1, count),
        # by a mistake of names that stayed: it is the number of heads
        settings.each("attention_head_dim", 8, count),
        settings.each("cross_attention_dim", 1280, count),
        4 * channels[0],
        settings.flag("use_linear_projection"),
    )
    inputs, outputs = settings.number("in_channels", 4), settings.number("out_channels", 4)
    first, last = settings.number("conv_in_kernel", 3), settings.number("conv_out_kernel", 3)
    condition = settings.optional("time_cond_proj_dim")
    added = settings.one_of("addition_embed_type", None, "text_time")
    projected = settings.optional("projection_class_embeddings_input_dim")
    groups = settings.number("norm_num_groups", 32)
    _read_rest(settings)
    if not len(down) == len(up) == count or any(size % groups for size in channels):
        raise NotCoveredError("block types or groups")
    yield conv("conv_in", channels[0], inputs, (first, first))
    yield from embedder("time_embedding", sizes.times, channels[0])
    if condition is not None:
        yield linear("time_embedding.cond_proj", channels[0], condition, bias=False)
    if added is not None:
        if projected is None:
            raise NotCoveredError("projection_class_embeddings_input_dim")
        yield from embedder("add_embedding", sizes.times, projected)
    yield from _down(sizes, down)
    yield from _middle(sizes)
    yield from _up(sizes, up)
    yield norm("conv_norm_out", channels[0], bias=True)
    yield conv("conv_out", outputs, channels[0], (last, last))


def _read_rest(settings: Settings) -> None:
    """Settings that change no module, and those that would: they have to be as they are in Stable Diffusion."""
    settings.any_of(
        "sample_size", "center_input_sample", "flip_sin_to_cos", "freq_shift", "downsample_padding", "dropout",
        "mid_block_scale_factor", "norm_eps", "upcast_attention", "addition_time_embed_dim",
        "addition_embed_type_num_heads", "resnet_out_scale_factor",
    )  # fmt: skip
    for key in ("only_cross_attention", "dual_cross_attention", "resnet_skip_time_act", "class_embeddings_concat"):
        settings.one_of(key, False)
    for key in (
        "num_attention_heads", "encoder_hid_dim", "encoder_hid_dim_type", "class_embed_type", "num_class_embeds",
        "time_embedding_dim", "time_embedding_act_fn", "timestep_post_act", "cross_attention_norm",
        "reverse_transformer_layers_per_block",
    ):  # fmt: skip
        settings.one_of(key, None)
    settings.one_of("mid_block_type", "UNetMidBlock2DCrossAttn")
    settings.one_of("mid_block_only_cross_attention", None, False)
    settings.one_of("act_fn", "silu", "swish", "mish", "gelu", "relu")
    settings.one_of("resnet_time_scale_shift", "default")
    settings.one_of("time_embedding_type", "positional")
    settings.one_of("attention_type", "default")
    settings.finish()


def _down(sizes: _Sizes, types: tuple[str, ...]) -> Iterator[Module]:
    before = sizes.channels[0]
    for at, size in enumerate(sizes.channels):
        block = f"down_blocks.{at}"
        for number in range(sizes.resnets[at]):
            yield from _resnet(f"{block}.resnets.{number}", size, size if number else before, sizes.times)
            if types[at] == _DOWN[1]:
                yield from _transformer(f"{block}.attentions.{number}", sizes, at)
        if at < len(sizes.channels) - 1:
            yield conv(f"{block}.downsamplers.0.conv", size, size, (3, 3))
        before = size


def _middle(sizes: _Sizes) -> Iterator[Module]:
    size = sizes.channels[-1]
    for number in range(2):
        yield from _resnet(f"mid_block.resnets.{number}", size, size, sizes.times)
    yield from _transformer("mid_block.attentions.0", sizes, len(sizes.channels) - 1)


def _up(sizes: _Sizes, types: tuple[str, ...]) -> Iterator[Module]:
    """Each resnet takes what the one before gave, beside what a resnet on the way down gave."""
    count = len(sizes.channels)
    before = sizes.channels[-1]
    for block_at, at in enumerate(reversed(range(count))):
        block, size = f"up_blocks.{block_at}", sizes.channels[at]
        for number in range(sizes.resnets[at] + 1):
            beside = sizes.channels[max(at - 1, 0)] if number == sizes.resnets[at] else size
            yield from _resnet(f"{block}.resnets.{number}", size, (size if number else before) + beside, sizes.times)
            if types[block_at] == _UP[1]:
                yield from _transformer(f"{block}.attentions.{number}", sizes, at)
        if at:
            yield conv(f"{block}.upsamplers.0.conv", size, size, (3, 3))
        before = size


def _resnet(name: str, size: int, inputs: int, times: int) -> Iterator[Module]:
    yield norm(f"{name}.norm1", inputs, bias=True)
    yield conv(f"{name}.conv1", size, inputs, (3, 3))
    yield linear(f"{name}.time_emb_proj", size, times)
    yield norm(f"{name}.norm2", size, bias=True)
    yield conv(f"{name}.conv2", size, size, (3, 3))
    if inputs != size:
        yield conv(f"{name}.conv_shortcut", size, inputs, (1, 1))


def _transformer(name: str, sizes: _Sizes, at: int) -> Iterator[Module]:
    size = sizes.channels[at]
    inner = size // sizes.heads[at] * sizes.heads[at]
    if not inner:
        raise NotCoveredError("attention_head_dim")
    yield norm(f"{name}.norm", size, bias=True)
    for leaf, rows, columns in (("proj_in", inner, size), ("proj_out", size, inner)):
        yield (
            linear(f"{name}.{leaf}", rows, columns)
            if sizes.is_linear
            else conv(f"{name}.{leaf}", rows, columns, (1, 1))
        )
    for number in range(sizes.depths[at]):
        block = f"{name}.transformer_blocks.{number}"
        for leaf in ("norm1", "norm2", "norm3"):
            yield norm(f"{block}.{leaf}", inner, bias=True)
        for leaf, columns in (("attn1", inner), ("attn2", sizes.text[at])):
            yield linear(f"{block}.{leaf}.to_q", inner, inner, bias=False)
            yield linear(f"{block}.{leaf}.to_k", inner, columns, bias=False)
            yield linear(f"{block}.{leaf}.to_v", inner, columns, bias=False)
            yield linear(f"{block}.{leaf}.to_out.0", inner, inner)
        yield from feed_forward(f"{block}.ff", inner, 4 * inner, gated=True)
