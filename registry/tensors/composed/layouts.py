"""A composed LoRA of an image model in the names and files of those who read it, each change with scale 1.

``diffusers``: ``pytorch_lora_weights.safetensors`` with PEFT's names behind those of components, and in its header a
configuration for each component (``lora_adapter_metadata``) whose alphas are the ranks, so that it means the same to
readers that look at it and to those that do not. ``comfyui``: one file, with kohya's names for Stable Diffusion and an
alpha for each module that is its rank, and native names for transformers, which have none. ``vllm-omni``: PEFT's folder
for one component. What one of them can't say is refused by name.

Every factor is in float64 until it is rounded, once, into the file.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Final

from registry.errors import InvalidAdapterError
from registry.images.header_config import METADATA
from registry.images.outgoing import Component, clip_module, components_of_base, is_t5
from registry.schemas.form import Layout
from registry.tensors.arithmetic.dtypes import FLOATS
from registry.tensors.artifacts.artifact import ArtifactFile
from registry.tensors.composed.composition import ComposedParts
from registry.tensors.composed.forms import Forms, as_targets
from registry.tensors.composed.pair import ComposedPair
from registry.tensors.composed.spelling import AdapterTensor, weights_file
from registry.tensors.table.targets import TargetKind, TargetTable

DIFFUSERS: Final = "pytorch_lora_weights.safetensors"
PEFT_ENDS: Final = ("lora_A.weight", "lora_B.weight")

_KINDS: Final = (TargetKind.LINEAR, TargetKind.CONV)
_NAMED: Final = 3
_MERGED: Final = "Fetch it --as merged"
_TITLES: Final[Mapping[Layout, str]] = {
    "diffusers": "diffusers",
    "comfyui": "ComfyUI",
    "vllm-omni": "vLLM-Omni",
    "gguf": "llama.cpp",
    "mlx": "mlx-lm",
}


@dataclass(frozen=True)
class ChangedComponent:
    """The modules of one component that a path changes by products."""

    component: Component
    modules: tuple[str, ...]  # by the component's own names

    def spelled(self, module: str) -> str:
        """A module as the base model calls it."""
        return self.component.lead + module


def changed_components(parts: ComposedParts, table: TargetTable, layout: Layout) -> list[ChangedComponent]:
    """The components with modules that change by products.

    Raises:
        InvalidAdapterError: ``engine_limits`` for modules that are neither linear nor convolutions.
    """
    odd = [module for module in parts.pairs if table.targets[module].kind not in _KINDS]
    if odd:
        raise cannot(layout, f"adapts {few(odd)}, which is neither linear nor a convolution")
    found = []
    for component in components_of_base(table.targets):
        modules = tuple(module for module in sorted(component.modules) if component.lead + module in parts.pairs)
        if modules:
            found.append(ChangedComponent(component, modules))
    return found


def cannot(layout: Layout, what: str, code: str = "engine_limits", remedy: str = _MERGED) -> InvalidAdapterError:
    """The error for a path that a reader can't load, because it does something."""
    return InvalidAdapterError(f"{_TITLES[layout]} can't load the path: it {what}. {remedy}.", code=code)


def few(names: Collection[str]) -> str:
    """A few names, and how many more follow."""
    listed = ", ".join(map(repr, sorted(names)[:_NAMED]))
    return f"{listed} and {len(names) - _NAMED} more" if len(names) > _NAMED else listed


def replaced_names(forms: Forms) -> list[str]:
    """What a path changes otherwise than by products."""
    return [*forms.saved, *forms.saved_experts, *forms.experts, *forms.tokens, *forms.values]


def check_products(forms: Forms, layout: Layout) -> None:
    """Refuse what no product of low rank says; raises `InvalidAdapterError` (``not_low_rank``)."""
    names = replaced_names(forms)
    if names:
        dense = ", or with --dense-as-diff" if layout == "comfyui" else ""
        what = f"changes {few(names)} otherwise than by products of low rank, which are all that it reads"
        raise cannot(layout, what, "not_low_rank", _MERGED + dense)


def full_pairs(parts: ComposedParts) -> list[str]:
    """Modules whose change has the rank of the smaller side: LoHa and LoKr that are kept whole, and sums of many links.

    Their pairs hold more numbers than the change itself.
    """
    return [
        module
        for module, pair in parts.pairs.items()
        if isinstance(pair, ComposedPair) and pair.own_rank == min(pair.in_features, pair.out_features)
    ]


def layout_notices(parts: ComposedParts, table: TargetTable, layout: Layout, dtype: str, *, dense: bool) -> list[str]:
    """What a person should know of a file: which option loads it, and what is larger than it has to be.

    Args:
        parts: of the path.
        table: the base model's.
        layout: of the file.
        dtype: of its factors (``F32``).
        dense: whether changes of full rank are written as differences.
    """
    told = []
    if layout == "diffusers" and any(
        one.component.name == "transformer_2" for one in changed_components(parts, table, layout)
    ):
        told.append(
            "The path changes transformer_2, whose modules diffusers reads by the names of the first (transformer.): "
            "load the file with pipe.load_lora_weights(FILE, load_into_transformer_2=True), else it goes on the other."
        )
    full = [] if dense else full_pairs(parts)
    if full:
        sizes = [(table.targets[module].in_features, table.targets[module].out_features) for module in full]
        each = FLOATS[dtype].itemsize
        pairs = sum(min(one) * sum(one) for one in sizes) * each
        whole = sum(columns * rows for columns, rows in sizes) * each
        told.append(
            f"The change of {few(full)} has full rank, and its pair is larger than the change: {_bytes(pairs)} in all "
            f"instead of {_bytes(whole)}. --for comfyui --dense-as-diff writes differences, --max-error lowers ranks."
        )
    return told


def _bytes(count: int) -> str:
    return f"{count / 2**20:.1f} MiB" if count >= 2**20 else f"{count} bytes"


def diffusers_file(parts: ComposedParts, table: TargetTable, dtype: str) -> ArtifactFile:
    """What ``load_lora_weights`` reads.

    Args:
        parts: of the path, with sums in float64.
        table: the base model's.
        dtype: that of all tensors (``F32``).

    Raises:
        InvalidAdapterError: ``not_low_rank``; ``t5_not_loadable``; ``engine_limits`` for what else it can't load.
    """
    check_products(parts.forms, "diffusers")
    found = changed_components(parts, table, "diffusers")
    if {"transformer", "transformer_2"} <= {one.component.name for one in found}:
        raise cannot("diffusers", "changes transformer and transformer_2, and it loads a file for each")
    tensors: list[AdapterTensor] = []
    told: dict[str, object] = {}
    for one in found:
        # what is for the second transformer of Wan has the names of the first, and is loaded by an option
        lead = "transformer" if one.component.name == "transformer_2" else one.component.name
        names = {module: _for_diffusers(one, module) for module in one.modules}
        text = "" if one.component.is_denoiser else "text_model."
        ranks, dora = {}, False
        for module in one.modules:
            held = parts.pairs[one.spelled(module)].tensors()
            ranks[names[module]], dora = held[0].shape[0], len(held) > len(PEFT_ENDS)
            for tensor in held:
                tail = ".".join(tensor.name.rsplit(".", 2)[1:])
                tensors.append(replace(tensor, name=f"{lead}.{text}{names[module]}.{tail}"))
        told |= {f"{lead}.{key}": value for key, value in _told(one, ranks, dora=dora).items()}
    metadata = {"format": "pt", METADATA: json.dumps(told, sort_keys=True)}
    return weights_file(tensors, dtype, DIFFUSERS, metadata)


def _for_diffusers(one: ChangedComponent, module: str) -> str:
    """A module as diffusers' configuration names it, in text encoders without the ``text_model.`` that some have."""
    if one.component.is_denoiser:
        return module
    clip = clip_module(module)
    if clip is not None:
        return clip
    named = repr(one.spelled(module))
    if is_t5(module):
        raise cannot("diffusers", f"changes {named}, a module of T5, of which it loads no LoRA", "t5_not_loadable")
    raise cannot("diffusers", f"changes {named}, and it loads LoRAs of no such component")


def _told(one: ChangedComponent, ranks: Mapping[str, int], *, dora: bool) -> dict[str, object]:
    """The fields of PEFT's configuration for one component; alpha is the rank everywhere."""
    rank = max(ranks.values())
    optional = "" if one.component.is_denoiser else r"(text_model\.)?"
    pattern = {f"^{optional}{re.escape(name)}": own for name, own in sorted(ranks.items()) if own != rank}
    others = one.component.modules - set(one.modules)
    return {
        "r": rank,
        "lora_alpha": rank,
        "rank_pattern": pattern,
        "alpha_pattern": pattern,
        "target_modules": as_targets(sorted(ranks), others),
        "use_dora": dora,
        "use_rslora": False,
        "lora_bias": False,
        "lora_dropout": 0.0,
        "bias": "none",
    }


def only_component(parts: ComposedParts, table: TargetTable) -> Component:
    """The component that a folder of PEFT's without components is about.

    Raises:
        InvalidAdapterError: ``engine_limits``, the path changes several, or a text encoder; ``not_low_rank``.
    """
    check_products(parts.forms, "vllm-omni")
    found = changed_components(parts, table, "vllm-omni")
    others = [one.component.name for one in found if not one.component.is_denoiser]
    if others:
        raise cannot("vllm-omni", f"changes the {others[0]}, and it loads LoRAs of the denoiser alone")
    if len(found) > 1:
        raise cannot("vllm-omni", f"changes the {' and the '.join(one.component.name for one in found)}: give one")
    return found[0].component
