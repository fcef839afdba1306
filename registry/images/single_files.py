"""What diffusers calls the parts of a model that is one file, as A1111, ComfyUI and Black Forest Labs read them.

The tables of `registry.images.native_names` are read backwards: there is no configuration, so which modules a denoiser
has is seen from the names in the file. The names that these modules give forwards have to be the file's again, every
one; a file in which one is left over is of another kind. Text encoders are CLIP as transformers names it, or OpenCLIP,
whose query, key and value are rows of one tensor. Source: ``diffusers.loaders.single_file_utils``.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from registry.images.native_names import (
    FAMILIES,
    FLUX_1,
    FLUX_2,
    QWEN_IMAGE,
    SD_3,
    UNET,
    WAN,
    Z_IMAGE,
    Family,
    Modules,
)

DENOISER_LEADS: Final = ("model.diffusion_model.", "diffusion_model.", "")
"""What the names of a denoiser begin with; of one that is alone in its file, nothing."""

CLIP: Final = "clip"
OPEN_CLIP: Final = "open clip"
TEXT_ENCODERS: Final[Mapping[str, tuple[str, str]]] = {
    "cond_stage_model.transformer.": ("text_encoder", CLIP),
    "conditioner.embedders.0.transformer.": ("text_encoder", CLIP),
    "text_encoders.clip_l.transformer.": ("text_encoder", CLIP),
    "text_encoders.clip_g.transformer.": ("text_encoder_2", CLIP),
    "cond_stage_model.model.": ("text_encoder", OPEN_CLIP),  # Stable Diffusion 2
    "conditioner.embedders.0.model.": ("text_encoder_2", OPEN_CLIP),  # SDXL's refiner, which has no first one
    "conditioner.embedders.1.model.": ("text_encoder_2", OPEN_CLIP),
}
"""Component and naming of the text encoders that LoRA changes, by what their names begin with."""

UNCHANGED: Final = re.compile(
    r"(first_stage_model|vae|model_ema|embedding_manager|text_encoders\.t5xxl|denoiser)\..+"
    r"|(cond_stage_model|conditioner\.embedders\.\d|text_encoders\.clip_[lg])\.(logit_scale|text_projection)"
)
"""Tensors that no adapter changes: the VAE, averages of a training, T5, steps of noise."""

_LAYER: Final = "text_model.encoder.layers.{}"
_BLOCK: Final = "transformer.resblocks.{}"
OPEN_CLIP_MODULES: Final[Mapping[str, str]] = {
    f"{_BLOCK}.ln_1": f"{_LAYER}.layer_norm1",
    f"{_BLOCK}.ln_2": f"{_LAYER}.layer_norm2",
    f"{_BLOCK}.mlp.c_fc": f"{_LAYER}.mlp.fc1",
    f"{_BLOCK}.mlp.c_proj": f"{_LAYER}.mlp.fc2",
    f"{_BLOCK}.attn.out_proj": f"{_LAYER}.self_attn.out_proj",
    "ln_final": "text_model.final_layer_norm",
    "token_embedding": "text_model.embeddings.token_embedding",
}
OPEN_CLIP_JOINED: Final = f"{_BLOCK}.attn.in_proj_"
OPEN_CLIP_PARTS: Final = tuple(f"{_LAYER}.self_attn.{leaf}_proj" for leaf in "qkv")
OPEN_CLIP_POSITIONS: Final = ("positional_embedding", "text_model.embeddings.position_embedding.weight")
OPEN_CLIP_UNCHANGED: Final = frozenset({"text_projection", "logit_scale", "attn_mask"})
"""The projection is stored transposed, so it is no module as transformers has it."""

_PIPELINES: Final[Mapping[str, str]] = {
    SD_3.name: "StableDiffusion3Pipeline",
    FLUX_1.name: "FluxPipeline",
    FLUX_2.name: "Flux2Pipeline",
    WAN.name: "WanPipeline",
    Z_IMAGE.name: "ZImagePipeline",
    QWEN_IMAGE.name: "QwenImagePipeline",
}


def pipeline_of(family: Family, modules: Collection[str]) -> str:
    """The pipeline of diffusers that a denoiser belongs to."""
    if family.name == UNET.name:
        return "StableDiffusionXLPipeline" if "add_embedding.linear_1" in modules else "StableDiffusionPipeline"
    if "condition_embedder.image_embedder.norm1" in modules:
        return "WanImageToVideoPipeline"
    return _PIPELINES[family.name]


_LEAVES: Final = ("weight", "bias")
_DOUBLE: Final = (("img", ""), ("txt", "added_"))
_NORM: Final = {"query_norm.scale": "q.weight", "key_norm.scale": "k.weight"}
_OF_FLUX: Final = {
    f"double_blocks.{{}}.{stream}_attn.norm.{native}": f"transformer_blocks.{{}}.attn.norm_{added}{own}"
    for stream, added in _DOUBLE
    for native, own in _NORM.items()
} | {
    f"single_blocks.{{}}.norm.{native}": f"single_transformer_blocks.{{}}.attn.norm_{own}"
    for native, own in _NORM.items()
}
_OF_SD_3: Final = {"pos_embed": "pos_embed.pos_embed"} | {
    f"joint_blocks.{{}}.{stream}.ln_{leaf}.weight": f"transformer_blocks.{{}}.{own}{leaf}.weight"
    for stream, own in (
        ("x_block.attn", "attn.norm_"),
        ("x_block.attn2", "attn2.norm_"),
        ("context_block.attn", "attn.norm_added_"),
    )
    for leaf in "qk"
}
_OF_WAN: Final = {
    "blocks.{}.modulation": "blocks.{}.scale_shift_table",
    "head.modulation": "scale_shift_table",
    "img_emb.emb_pos": "condition_embedder.image_embedder.pos_embed",
}
_OF_Z_BLOCK: Final = (
    *(f"feed_forward.w{number}.weight" for number in (1, 2, 3)),
    *(f"{norm}_norm{number}.weight" for norm in ("attention", "ffn") for number in (1, 2)),
    *(f"adaLN_modulation.0.{leaf}" for leaf in ("weight", "bias")),
)
_OF_Z_IMAGE: Final = (
    {
        f"{stack}.{{}}.{leaf}": f"{stack}.{{}}.{leaf}"
        for stack in ("layers", "noise_refiner", "context_refiner")
        for leaf in _OF_Z_BLOCK
    }
    | {
        f"{stack}.{{}}.attention.{leaf}_norm.weight": f"{stack}.{{}}.attention.norm_{leaf}.weight"
        for stack in ("layers", "noise_refiner", "context_refiner")
        for leaf in "qk"
    }
    | {f"{name}.{{}}.{leaf}": f"{name}.{{}}.{leaf}" for name in ("cap_embedder", "t_embedder.mlp") for leaf in _LEAVES}
    | {name: name for name in ("x_pad_token", "cap_pad_token")}
    | {"norm_final.weight": ""}  # of a norm that the model does not have any more
)
_BESIDE: Final[Mapping[str, Mapping[str, str]]] = {
    FLUX_1.name: _OF_FLUX,
    FLUX_2.name: _OF_FLUX,
    SD_3.name: _OF_SD_3,
    WAN.name: _OF_WAN,
    Z_IMAGE.name: _OF_Z_IMAGE,
}
"""Native tensors of a family that its rows of names leave out, and the parameters that they are; empty: none."""


@dataclass(frozen=True)
class Denoiser:
    """A denoiser as its native names show it."""

    family: Family
    modules: Mapping[str, Modules]  # native module -> diffusers', one below the other
    beside: Mapping[str, str]  # native tensor -> parameter; empty: none

    @property
    def component(self) -> str:
        """What diffusers calls it in a pipeline."""
        return "unet" if self.family.name == UNET.name else "transformer"


@dataclass(frozen=True)
class NotUnderstood:
    """Why names are those of no denoiser that is known here, with some of them."""

    names: tuple[str, ...]


def denoiser_of(tensors: Collection[str]) -> Denoiser | NotUnderstood:
    """What a denoiser with tensors of these native names is; else the names that belong to none."""
    nearest: NotUnderstood | None = None
    for family in FAMILIES:
        if family.name != UNET.name and family.name not in _PIPELINES:
            continue
        found = _as_family(family, tensors)
        if isinstance(found, Denoiser):
            return found
        if found is not None and (nearest is None or len(found.names) < len(nearest.names)):
            nearest = found
    return nearest or NotUnderstood(tuple(sorted(tensors)))


def _as_family(family: Family, tensors: Collection[str]) -> Denoiser | NotUnderstood | None:
    """A denoiser of one family; None: nothing of its names is that family's."""
    beside = {
        tensor: parameter.format(number)
        for tensor in tensors
        for pattern, number in [numbered(tensor)]
        if (parameter := _BESIDE.get(family.name, {}).get(pattern)) is not None
    }
    native = {tensor.rpartition(".")[0] for tensor in tensors if tensor not in beside}
    layers = _layers(native)
    read = {name: parts for name in native if (parts := _backwards(family, name, layers)) is not None}
    modules = {module for rows in read.values() for module in rows}
    if not family.fits(modules):
        return None
    bound = family.bound(modules)
    forwards = {name: found for name, found in bound.names(modules) if ".processor." not in name}
    wrong = {name for name in read.keys() | forwards.keys() if read.get(name) != forwards.get(name)}
    stray = {
        tensor
        for tensor in tensors
        if tensor not in beside
        and (
            (name := tensor.rpartition(".")[0]) not in read or name in wrong or tensor.rpartition(".")[2] not in _LEAVES
        )
    }
    if stray or wrong:
        return NotUnderstood(tuple(sorted(stray) or sorted(wrong)))
    return Denoiser(bound, read, beside)


def numbered(name: str) -> tuple[str, str]:
    """A name with ``{}`` for the first number inside of it, and that number."""
    found = re.search(r"\.(\d+)(?=\.)", name)
    return (name, "") if found is None else (f"{name[: found.start()]}.{{}}{name[found.end() :]}", found[1])


def _backwards(family: Family, name: str, layers: int) -> Modules | None:
    if family.name == UNET.name:
        module = _of_unet(name, layers)
        return None if module is None else (module,)
    if family.name == QWEN_IMAGE.name:  # its native names are diffusers' own; what has none is seen forwards
        return (name,)
    if name in family.rows:
        return family.rows[name]
    pattern, number = numbered(name)
    if pattern not in family.rows or ".processor." in pattern:
        return None
    return tuple(module.format(number) for module in family.rows[pattern])


_OF_UNET: Final = {
    "input_blocks.0.0": "conv_in",
    "out.0": "conv_norm_out",
    "out.2": "conv_out",
    "time_embed.0": "time_embedding.linear_1",
    "time_embed.2": "time_embedding.linear_2",
    "label_emb.0.0": "add_embedding.linear_1",
    "label_emb.0.2": "add_embedding.linear_2",
}
_RESNET: Final = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "emb_layers.1": "time_emb_proj",
    "skip_connection": "conv_shortcut",
}
_ATTENTION: Final = re.compile(
    r"norm|proj_in|proj_out|transformer_blocks\.\d+\.(norm[123]|attn[12]\.(to_[qkv]|to_out\.0)|ff\.net\.(0\.proj|2))"
)
_UNET_BLOCK: Final = re.compile(r"(input_blocks|output_blocks)\.(\d{1,4})\.(\d)\.(.+)")
_UNET_MIDDLE: Final = re.compile(r"middle_block\.([012])\.(.+)")


def _layers(native: Collection[str]) -> int:
    """Blocks of the way down until its first downsampler, which counts as one: resnets of a block, and one."""
    downs = [int(match[1]) for name in native if (match := re.fullmatch(r"input_blocks\.(\d{1,4})\.0\.op", name))]
    return min(downs, default=0)


def _of_unet(name: str, layers: int) -> str | None:
    """diffusers' name of a module of CompVis' UNet; that it is right, the names forwards show."""
    if name in _OF_UNET:
        return _OF_UNET[name]
    if (middle := _UNET_MIDDLE.fullmatch(name)) is not None:
        inner = middle[1] == "1"
        return _in_block(f"mid_block.{{}}.{int(middle[1]) // 2}", middle[2], attention=inner)
    block = _UNET_BLOCK.fullmatch(name)
    return None if block is None or not layers else _on_a_side(block, layers)


def _on_a_side(block: re.Match[str], layers: int) -> str | None:
    side, at, inner, leaf = block[1], int(block[2]), block[3], block[4]
    down = side == "input_blocks"
    number, within = divmod(at - 1 if down else at, layers)
    place = f"{'down' if down else 'up'}_blocks.{number}"
    if leaf == ("op" if down else "conv"):
        return f"{place}.{'downsamplers' if down else 'upsamplers'}.0.conv"
    return _in_block(f"{place}.{{}}.{within}", leaf, attention=inner == "1") if inner in "01" else None


def _in_block(place: str, leaf: str, *, attention: bool) -> str | None:
    """A module of a resnet or of the transformer behind it; ``place`` has ``{}`` where their kind stands."""
    if attention:
        return f"{place.format('attentions')}.{leaf}" if _ATTENTION.fullmatch(leaf) else None
    return f"{place.format('resnets')}.{_RESNET[leaf]}" if leaf in _RESNET else None


def open_clip(tensors: Collection[str]) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Every tensor of an OpenCLIP text encoder, and the parameters of transformers' that it is, by rows; () if none."""
    for tensor in tensors:
        pattern, number = numbered(tensor)
        module, _, leaf = pattern.rpartition(".")
        if tensor in OPEN_CLIP_UNCHANGED:
            yield tensor, ()
        elif tensor == OPEN_CLIP_POSITIONS[0]:
            yield tensor, (OPEN_CLIP_POSITIONS[1],)
        elif pattern in (f"{OPEN_CLIP_JOINED}weight", f"{OPEN_CLIP_JOINED}bias"):
            kind = pattern.removeprefix(OPEN_CLIP_JOINED)
            yield tensor, tuple(f"{part.format(number)}.{kind}" for part in OPEN_CLIP_PARTS)
        elif module in OPEN_CLIP_MODULES and leaf in ("weight", "bias"):
            yield tensor, (f"{OPEN_CLIP_MODULES[module].format(number)}.{leaf}",)
