"""What readers of LoRA files call the modules of a base model: the tables of names, read the other way round.

A base model is one component of a pipeline, whose modules have their own names, or a whole pipeline, whose modules
begin with the component (``unet.``, ``text_encoder.``). diffusers finds modules by component and its own names;
ComfyUI and Forge find those of Stable Diffusion by kohya's names with underlines, those of transformers by the names
of the code that the model was published with, where several of diffusers' modules are one. Sources: ComfyUI's
``comfy/lora.py`` (``model_lora_keys_unet``, ``model_lora_keys_clip``), diffusers' ``loaders/lora_pipeline``.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Final

from registry.images.native_names import (
    FLUX_1,
    FLUX_2,
    QWEN_IMAGE,
    SD_3,
    UNET,
    WAN,
    Z_IMAGE,
    Family,
    Modules,
    family_of,
)

_DENOISERS: Final = ("unet", "transformer", "transformer_2")
_CLIP: Final = re.compile(r"(?:text_model\.)?(encoder\.layers\.\d+\.(?:self_attn|mlp)\.\w+)")
_T5: Final = re.compile(r"(?:encoder\.)?(?:block\.\d+\.layer\.\d+\.\w+\.\w+)")
_TEXT: Final = "text_model."
_PROCESSOR: Final = ".processor."  # of XLabs: no module of the model
_SDXL: Final = "add_embedding.linear_1"
_GUIDED: Final = "time_text_embed.guidance_embedder.linear_1"


@dataclass(frozen=True)
class Component:
    """One component of a pipeline, as far as LoRAs change it."""

    name: str  # as the pipeline calls it
    lead: str  # before the names of its modules in the base model; empty: it is all of it
    modules: frozenset[str]  # by their own names

    @property
    def is_denoiser(self) -> bool:
        """Whether it is what LoRAs change first, and no text encoder."""
        return self.name in _DENOISERS

    @cached_property
    def family(self) -> Family | None:
        """Of a denoiser: whose native names it has."""
        return family_of(self.modules) if self.is_denoiser else None

    @cached_property
    def architecture(self) -> str | None:
        """Of a denoiser, what ``modelspec.architecture`` calls its models (sd-scripts' ``sai_model_spec``)."""
        if self.family is UNET:
            return "stable-diffusion-xl-v1-base" if _SDXL in self.modules else "stable-diffusion-v1"
        if self.family is FLUX_1:
            return "flux-1-dev" if _GUIDED in self.modules else "flux-1-schnell"
        return None if self.family is None else _ARCHITECTURES[self.family.name]


_ARCHITECTURES: Final = {
    SD_3.name: "stable-diffusion-3",
    FLUX_2.name: "flux-2-dev",
    QWEN_IMAGE.name: "qwen-image",
    WAN.name: "wan",
    Z_IMAGE.name: "z-image",
}
"""Of families beside those. That of SD 3 is sd-scripts'; no tool was seen to read the others."""


def components_of_base(modules: Collection[str]) -> list[Component]:
    """The components whose modules a base model has, by the names of its modules."""
    roots: dict[str, set[str]] = {}
    for module in modules:
        root, _, rest = module.partition(".")
        roots.setdefault(root, set()).add(rest)
    if not any(root in roots for root in _DENOISERS):
        own = frozenset(modules)
        return [Component("unet" if UNET.fits(own) else "transformer", "", own)]
    return [Component(root, f"{root}.", frozenset(found)) for root, found in sorted(roots.items())]


def clip_module(module: str) -> str | None:
    """The name of a module of CLIP's text model, without the ``text_model.`` that newer libraries leave out."""
    found = _CLIP.fullmatch(module)
    return None if found is None else found[1]


def is_t5(module: str) -> bool:
    """Whether a text encoder's module is one of T5."""
    return _T5.fullmatch(module) is not None


@dataclass(frozen=True)
class Joined:
    """A module as a file names it, and which of the component's modules are its rows, one below the other."""

    name: str  # as the file spells it, with what stands before it
    modules: Modules
    flat: bool  # kohya's: with ``lora_down`` and an alpha; else ``lora_A`` without one
    swapped: bool = False  # the file keeps the halves of its rows in the other order


def comfy_names(component: Component, *, numbered: bool, norms: Collection[str] = ()) -> Mapping[str, Joined]:
    """How ComfyUI and Forge find the modules of a component: module -> the one of the file that has its rows.

    A module that is missing has no name there.

    Args:
        component: the component.
        numbered: text encoders are numbered, as everywhere but in Stable Diffusion 1 and 2, which have one.
        norms: modules of a denoiser that have vectors alone, and are wanted too.
    """
    if component.is_denoiser:
        return {} if component.family is None else _of_denoiser(component, frozenset(norms))
    found = {}
    for module in component.modules:
        clip = clip_module(module)
        number = _NUMBERS.get(component.name)
        if clip is not None and number is not None:
            lead = f"lora_te{number}_" if numbered else "lora_te_"
            found[module] = Joined(lead + _flat(_TEXT + clip), (module,), flat=True)
        elif is_t5(module):
            found[module] = Joined(f"lora_te3_{_flat(module)}", (module,), flat=True)
    return found


_NUMBERS: Final = {"text_encoder": 1, "text_encoder_2": 2}


def _of_denoiser(component: Component, norms: frozenset[str]) -> dict[str, Joined]:
    family, modules = component.family, component.modules | norms
    assert family is not None
    if family is UNET and _SDXL not in modules:  # SD 1.x and 2.x: diffusers' own names are the usual ones
        return {module: Joined(f"lora_unet_{_flat(module)}", (module,), flat=True) for module in modules}
    found: dict[str, Joined] = {}
    for native, joined in family.names(modules):
        if _PROCESSOR in native:
            continue
        name = f"lora_unet_{_flat(native)}" if family is UNET else f"diffusion_model.{native}"
        one = Joined(name, joined, flat=family is UNET, swapped=native in family.swapped)
        found |= dict.fromkeys(joined, one)
    if family is Z_IMAGE:  # what it does not rename is called the same
        found |= {
            module: Joined(f"diffusion_model.{module}", (module,), flat=False)
            for module in component.modules - found.keys()
        }
    return found


def _flat(module: str) -> str:
    return module.replace(".", "_")
