"""What the modules of a denoiser are called outside diffusers: rows of its linear modules by their native names.

LoRAs of image models name modules as diffusers does, or as the code that a model was published with (``native``:
CompVis' UNet, Black Forest Labs' FLUX, ...), where several of diffusers' modules are rows of one: ``img_attn.qkv`` is
``to_q``, ``to_k`` and ``to_v``, one below the other. One table for each family of models says so, for any size and
depth. diffusers' converters of checkpoints are the source (``diffusers.loaders.single_file_utils``): they are what
every ``from_single_file`` goes through, and tests hold these tables to them on every row.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Final

Modules = tuple[str, ...]
"""diffusers' modules whose rows, one below the other, are those of a native one."""


@dataclass(frozen=True)
class Family:
    """Models whose native names are made in one way."""

    name: str  # as people call it
    signs: tuple[str, ...]  # modules of diffusers that a denoiser of this family has, and none of another
    rows: Mapping[str, Modules]
    """Native module -> diffusers' modules; ``{}`` stands for the number of a block."""
    swapped: frozenset[str] = frozenset()
    """Native modules whose two halves of rows diffusers keeps in the other order: (shift, scale), (scale, shift)."""
    swapped_last: frozenset[str] = frozenset()
    """Those of which only the one in the last block is; of a family from `family_of` it is in `swapped`, too."""
    other: Callable[[Collection[str]], Iterator[tuple[str, Modules]]] | None = None
    """Names that are computed from the modules of a denoiser."""

    def fits(self, modules: Collection[str]) -> bool:
        """Whether a denoiser with these modules is of this family."""
        return all(sign in modules for sign in self.signs)

    def bound(self, modules: Collection[str]) -> Family:
        """The family as a denoiser has it, with what is swapped in its last block."""
        if not self.swapped_last:
            return self
        last = {native.format(self._blocks(native, modules) - 1) for native in self.swapped_last}
        return replace(self, swapped=self.swapped | last)

    def _blocks(self, native: str, modules: Collection[str]) -> int:
        """How many blocks have a native module."""
        return next(
            number
            for number in range(_MOST_BLOCKS + 1)
            if number == _MOST_BLOCKS or not all(one.format(number) in modules for one in self.rows[native])
        )

    def names(self, modules: Collection[str]) -> Iterator[tuple[str, Modules]]:
        """Every native module of a denoiser, with what it is of diffusers' modules."""
        if self.other is not None:
            yield from self.other(modules)
        for native, patterns in self.rows.items():
            if "{}" not in native:
                if all(pattern in modules for pattern in patterns):
                    yield native, patterns
                continue
            for number in range(self._blocks(native, modules)):
                yield native.format(number), tuple(pattern.format(number) for pattern in patterns)


_MOST_BLOCKS: Final = 4096


def _joined(native: str, block: str, *leaves: str) -> dict[str, Modules]:
    return {native: tuple(f"{block}.{leaf}" for leaf in leaves)}


_DOUBLE: Final = "transformer_blocks.{}"
_SINGLE: Final = "single_transformer_blocks.{}"
_OF_DOUBLE: Final = {
    **_joined("double_blocks.{}.img_attn.qkv", _DOUBLE, "attn.to_q", "attn.to_k", "attn.to_v"),
    **_joined("double_blocks.{}.txt_attn.qkv", _DOUBLE, "attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"),
    "double_blocks.{}.img_attn.proj": (f"{_DOUBLE}.attn.to_out.0",),
    "double_blocks.{}.txt_attn.proj": (f"{_DOUBLE}.attn.to_add_out",),
}

FLUX_1: Final = Family(
    "FLUX.1",
    ("single_transformer_blocks.0.proj_mlp", "time_text_embed.timestep_embedder.linear_1", "x_embedder"),
    {
        **_OF_DOUBLE,
        "double_blocks.{}.img_mod.lin": (f"{_DOUBLE}.norm1.linear",),
        "double_blocks.{}.txt_mod.lin": (f"{_DOUBLE}.norm1_context.linear",),
        "double_blocks.{}.img_mlp.0": (f"{_DOUBLE}.ff.net.0.proj",),
        "double_blocks.{}.img_mlp.2": (f"{_DOUBLE}.ff.net.2",),
        "double_blocks.{}.txt_mlp.0": (f"{_DOUBLE}.ff_context.net.0.proj",),
        "double_blocks.{}.txt_mlp.2": (f"{_DOUBLE}.ff_context.net.2",),
        **_joined("single_blocks.{}.linear1", _SINGLE, "attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp"),
        "single_blocks.{}.linear2": (f"{_SINGLE}.proj_out",),
        "single_blocks.{}.modulation.lin": (f"{_SINGLE}.norm.linear",),
        # XLabs trains beside the attention: 1 is of the image, 2 of the text, and of linear1 only the rows of q, k, v
        **_joined("double_blocks.{}.processor.qkv_lora1", _DOUBLE, "attn.to_q", "attn.to_k", "attn.to_v"),
        **_joined(
            "double_blocks.{}.processor.qkv_lora2", _DOUBLE, "attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"
        ),
        "double_blocks.{}.processor.proj_lora1": (f"{_DOUBLE}.attn.to_out.0",),
        "double_blocks.{}.processor.proj_lora2": (f"{_DOUBLE}.attn.to_add_out",),
        **_joined("single_blocks.{}.processor.qkv_lora", _SINGLE, "attn.to_q", "attn.to_k", "attn.to_v"),
        "single_blocks.{}.processor.proj_lora": (f"{_SINGLE}.proj_out",),
        "img_in": ("x_embedder",),
        "txt_in": ("context_embedder",),
        "time_in.in_layer": ("time_text_embed.timestep_embedder.linear_1",),
        "time_in.out_layer": ("time_text_embed.timestep_embedder.linear_2",),
        "vector_in.in_layer": ("time_text_embed.text_embedder.linear_1",),
        "vector_in.out_layer": ("time_text_embed.text_embedder.linear_2",),
        "guidance_in.in_layer": ("time_text_embed.guidance_embedder.linear_1",),
        "guidance_in.out_layer": ("time_text_embed.guidance_embedder.linear_2",),
        "final_layer.linear": ("proj_out",),
        "final_layer.adaLN_modulation.1": ("norm_out.linear",),
    },
    frozenset({"final_layer.adaLN_modulation.1"}),
)

FLUX_2: Final = Family(
    "FLUX.2",
    ("double_stream_modulation_img.linear", "single_transformer_blocks.0.attn.to_qkv_mlp_proj"),
    {
        **_OF_DOUBLE,
        "double_blocks.{}.img_mlp.0": (f"{_DOUBLE}.ff.linear_in",),
        "double_blocks.{}.img_mlp.2": (f"{_DOUBLE}.ff.linear_out",),
        "double_blocks.{}.txt_mlp.0": (f"{_DOUBLE}.ff_context.linear_in",),
        "double_blocks.{}.txt_mlp.2": (f"{_DOUBLE}.ff_context.linear_out",),
        "single_blocks.{}.linear1": (f"{_SINGLE}.attn.to_qkv_mlp_proj",),
        "single_blocks.{}.linear2": (f"{_SINGLE}.attn.to_out",),
        "img_in": ("x_embedder",),
        "txt_in": ("context_embedder",),
        "time_in.in_layer": ("time_guidance_embed.timestep_embedder.linear_1",),
        "time_in.out_layer": ("time_guidance_embed.timestep_embedder.linear_2",),
        "guidance_in.in_layer": ("time_guidance_embed.guidance_embedder.linear_1",),
        "guidance_in.out_layer": ("time_guidance_embed.guidance_embedder.linear_2",),
        "double_stream_modulation_img.lin": ("double_stream_modulation_img.linear",),
        "double_stream_modulation_txt.lin": ("double_stream_modulation_txt.linear",),
        "single_stream_modulation.lin": ("single_stream_modulation.linear",),
        "final_layer.linear": ("proj_out",),
        "final_layer.adaLN_modulation.1": ("norm_out.linear",),
    },
    frozenset({"final_layer.adaLN_modulation.1"}),
)

_CONTEXT: Final = "joint_blocks.{}.context_block"
_SAMPLE: Final = "joint_blocks.{}.x_block"
SD_3: Final = Family(
    "Stable Diffusion 3",
    (
        "pos_embed.proj",
        "context_embedder",
        "transformer_blocks.0.attn.add_q_proj",
        "time_text_embed.text_embedder.linear_1",
    ),
    {
        **_joined(f"{_SAMPLE}.attn.qkv", _DOUBLE, "attn.to_q", "attn.to_k", "attn.to_v"),
        **_joined(f"{_CONTEXT}.attn.qkv", _DOUBLE, "attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"),
        **_joined(f"{_SAMPLE}.attn2.qkv", _DOUBLE, "attn2.to_q", "attn2.to_k", "attn2.to_v"),
        f"{_SAMPLE}.attn.proj": (f"{_DOUBLE}.attn.to_out.0",),
        f"{_SAMPLE}.attn2.proj": (f"{_DOUBLE}.attn2.to_out.0",),
        f"{_CONTEXT}.attn.proj": (f"{_DOUBLE}.attn.to_add_out",),
        f"{_SAMPLE}.adaLN_modulation.1": (f"{_DOUBLE}.norm1.linear",),
        f"{_CONTEXT}.adaLN_modulation.1": (f"{_DOUBLE}.norm1_context.linear",),
        f"{_SAMPLE}.mlp.fc1": (f"{_DOUBLE}.ff.net.0.proj",),
        f"{_SAMPLE}.mlp.fc2": (f"{_DOUBLE}.ff.net.2",),
        f"{_CONTEXT}.mlp.fc1": (f"{_DOUBLE}.ff_context.net.0.proj",),
        f"{_CONTEXT}.mlp.fc2": (f"{_DOUBLE}.ff_context.net.2",),
        "x_embedder.proj": ("pos_embed.proj",),
        "t_embedder.mlp.0": ("time_text_embed.timestep_embedder.linear_1",),
        "t_embedder.mlp.2": ("time_text_embed.timestep_embedder.linear_2",),
        "y_embedder.mlp.0": ("time_text_embed.text_embedder.linear_1",),
        "y_embedder.mlp.2": ("time_text_embed.text_embedder.linear_2",),
        "context_embedder": ("context_embedder",),
        "final_layer.linear": ("proj_out",),
        "final_layer.adaLN_modulation.1": ("norm_out.linear",),
    },
    frozenset({"final_layer.adaLN_modulation.1"}),
    # the last block gives no text any more: its modulation is shift and scale alone
    frozenset({f"{_CONTEXT}.adaLN_modulation.1"}),
)

_WAN: Final = "blocks.{}"
WAN: Final = Family(
    "Wan",
    ("condition_embedder.time_proj", "blocks.0.attn1.to_q", "blocks.0.ffn.net.0.proj"),
    {
        **{
            f"{_WAN}.{native}.{leaf}": (f"{_WAN}.{module}.{name}",)
            for native, module in (("self_attn", "attn1"), ("cross_attn", "attn2"))
            for leaf, name in (("q", "to_q"), ("k", "to_k"), ("v", "to_v"), ("o", "to_out.0"))
        },
        **{
            f"{_WAN}.{native}.norm_{leaf}": (f"{_WAN}.{module}.norm_{leaf}",)
            for native, module in (("self_attn", "attn1"), ("cross_attn", "attn2"))
            for leaf in ("q", "k")
        },
        f"{_WAN}.cross_attn.norm_k_img": (f"{_WAN}.attn2.norm_added_k",),
        f"{_WAN}.norm3": (f"{_WAN}.norm2",),  # diffusers counts the norms in the order of the forward
        f"{_WAN}.cross_attn.k_img": (f"{_WAN}.attn2.add_k_proj",),
        f"{_WAN}.cross_attn.v_img": (f"{_WAN}.attn2.add_v_proj",),
        f"{_WAN}.ffn.0": (f"{_WAN}.ffn.net.0.proj",),
        f"{_WAN}.ffn.2": (f"{_WAN}.ffn.net.2",),
        "time_embedding.0": ("condition_embedder.time_embedder.linear_1",),
        "time_embedding.2": ("condition_embedder.time_embedder.linear_2",),
        "text_embedding.0": ("condition_embedder.text_embedder.linear_1",),
        "text_embedding.2": ("condition_embedder.text_embedder.linear_2",),
        "time_projection.1": ("condition_embedder.time_proj",),
        "img_emb.proj.0": ("condition_embedder.image_embedder.norm1",),
        "img_emb.proj.4": ("condition_embedder.image_embedder.norm2",),
        "img_emb.proj.1": ("condition_embedder.image_embedder.ff.net.0.proj",),
        "img_emb.proj.3": ("condition_embedder.image_embedder.ff.net.2",),
        "patch_embedding": ("patch_embedding",),
        "head.head": ("proj_out",),
    },
)

_Z: Final = ("layers", "noise_refiner", "context_refiner")
Z_IMAGE: Final = Family(
    "Z-Image",
    ("all_x_embedder.2-1", "layers.0.attention.to_q", "noise_refiner.0.attention.to_q"),
    {
        **{
            f"{stack}.{{}}.attention.qkv": tuple(f"{stack}.{{}}.attention.{leaf}" for leaf in ("to_q", "to_k", "to_v"))
            for stack in _Z
        },
        **{f"{stack}.{{}}.attention.out": (f"{stack}.{{}}.attention.to_out.0",) for stack in _Z},
        "x_embedder": ("all_x_embedder.2-1",),
        "final_layer.linear": ("all_final_layer.2-1.linear",),
        "final_layer.adaLN_modulation.1": ("all_final_layer.2-1.adaLN_modulation.1",),
    },
)

_RESNET: Final = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "time_emb_proj": "emb_layers.1",
    "conv_shortcut": "skip_connection",
}
_OF_UNET: Final = {
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
}


def _unet(modules: Collection[str]) -> Iterator[tuple[str, Modules]]:
    """The names of CompVis' UNet: blocks are counted through, each resnet with what comes behind it in one."""
    down = sum(f"down_blocks.0.resnets.{at}.conv1" in modules for at in range(_MOST_LAYERS)) + 1
    attended = {module.partition(".attentions.")[0] for module in modules if ".attentions." in module}
    for module in modules:
        stack, _, rest = module.partition(".")
        if module in _OF_UNET:
            yield _OF_UNET[module], (module,)
        elif stack == "mid_block":
            kind, number, leaf = rest.split(".", 2)
            at = 1 if kind == "attentions" else 2 * int(number)
            yield f"middle_block.{at}.{leaf if kind == 'attentions' else _RESNET[leaf]}", (module,)
        elif stack in ("down_blocks", "up_blocks"):
            block, kind, number, leaf = rest.split(".", 3)
            first, name = (1, "input_blocks") if stack == "down_blocks" else (0, "output_blocks")
            if kind in ("resnets", "attentions"):
                at, inner = first + int(block) * down + int(number), "1" if kind == "attentions" else "0"
                yield f"{name}.{at}.{inner}.{leaf if kind == 'attentions' else _RESNET[leaf]}", (module,)
            elif kind == "downsamplers":
                yield f"{name}.{(int(block) + 1) * down}.0.op", (module,)
            else:
                inner = "2" if f"up_blocks.{block}" in attended else "1"
                yield f"{name}.{(int(block) + 1) * down - 1}.{inner}.conv", (module,)


_MOST_LAYERS: Final = 64
UNET: Final = Family(
    "Stable Diffusion (UNet)", ("conv_in", "down_blocks.0.resnets.0.conv1", "conv_out"), {}, other=_unet
)

_OF_QWEN: Final = re.compile(
    r"transformer_blocks\.\d+\.(?:(?:img|txt)_(?:mod\.1|mlp\.net\.(?:0\.proj|2))"
    r"|attn\.(?:to_[qkv]|to_out\.0|to_add_out|add_[qkv]_proj|norm_(?:added_)?[qk]))"
    r"|(?:img|txt)_in|txt_norm|norm_out\.linear|proj_out|time_text_embed\.timestep_embedder\.linear_[12]"
)


def _qwen_image(modules: Collection[str]) -> Iterator[tuple[str, Modules]]:
    """diffusers' own names, of the modules that ComfyUI's model has too (``comfy/ldm/qwen_image/model.py``)."""
    return ((module, (module,)) for module in modules if _OF_QWEN.fullmatch(module))


QWEN_IMAGE: Final = Family(
    "Qwen-Image",
    ("img_in", "txt_in", "transformer_blocks.0.img_mod.1", "transformer_blocks.0.attn.add_q_proj"),
    {},
    other=_qwen_image,
)

FAMILIES: Final = (UNET, SD_3, FLUX_1, FLUX_2, WAN, Z_IMAGE, QWEN_IMAGE)
"""All whose native names are known."""


def family_of(modules: Collection[str]) -> Family | None:
    """The family of a denoiser with these modules; None: none is known to have other names than diffusers'."""
    return next((family.bound(modules) for family in FAMILIES if family.fits(modules)), None)
