"""The pairs of a composed LoRA of a dense text model, by layer and module, for readers that know these models alone.

The names of modules are those of transformers' Llama, Mistral, Qwen2 and Qwen3, which differ in nothing that a LoRA
changes. All else is refused by name: a reader that has no name for a tensor leaves it out, or adds it to another one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, cast

from registry.engines.rules import TEXT_MODELS, TEXT_MODULES
from registry.schemas.form import Layout
from registry.tensors.composed.composition import ComposedParts
from registry.tensors.composed.layouts import cannot, check_products, few
from registry.tensors.composed.spelling import AdapterTensor
from registry.tensors.table.targets import TargetKind

_MODULE: Final = re.compile(r"(?:model\.)?layers\.(\d+)\.((?:self_attn|mlp)\.(\w+))")


@dataclass(frozen=True)
class TextModel:
    """What the writers need of a base model's config.json."""

    model_type: str
    layers: int
    heads: int  # of queries
    key_heads: int  # of keys and values


@dataclass(frozen=True)
class TextPair:
    """The pair of one module: A (rank, in), B (out, rank), and a scale of 1."""

    layer: int
    module: str  # inside its layer, such as ``self_attn.q_proj``
    a: AdapterTensor
    b: AdapterTensor

    @property
    def name(self) -> str:
        """The module's name in the model with a head."""
        return f"model.layers.{self.layer}.{self.module}"

    @property
    def rank(self) -> int:
        """Rows of A."""
        return self.a.shape[0]


def text_model(config: Mapping[str, Any], layout: Layout) -> TextModel:
    """What is known of the base model.

    Raises:
        InvalidAdapterError: ``engine_limits``, it is none of the models whose names are known here.
    """
    kind = config.get("model_type")
    if kind not in TEXT_MODELS:
        known = ", ".join(TEXT_MODELS)
        raise cannot(layout, f"goes on a model of the type {kind}, and what is written for it are {known}")
    counts = [config.get(key) for key in ("num_hidden_layers", "num_attention_heads")]
    shared = config.get("num_key_value_heads")
    counts.append(counts[1] if shared is None else shared)
    for value in counts:
        if type(value) is not int or value < 1:
            raise cannot(layout, "goes on a model whose config.json does not say how many layers and heads it has")
    return TextModel(cast("str", kind), *cast("list[int]", counts))


def text_pairs(parts: ComposedParts, model: TextModel, layout: Layout) -> list[TextPair]:
    """The pairs in the order of the layers.

    Args:
        parts: of the path, with one rank for all modules.
        model: the base model.
        layout: what they are written as.

    Raises:
        InvalidAdapterError: ``not_low_rank``, ``engine_limits``: the path changes something else, which is named.
    """
    if parts.scaled:
        raise cannot(layout, f"has DoRA links on {few(parts.scaled)}, whose magnitudes have no place there")
    check_products(parts.forms, layout)
    found, odd = [], []
    for target, _ in parts.forms.pairs:
        named = _MODULE.fullmatch(target.module)
        layer, module = (-1, "") if named is None else (int(named[1]), named[2])
        if not 0 <= layer < model.layers or module not in TEXT_MODULES or target.kind is not TargetKind.LINEAR:
            odd.append(target.module)
            continue
        a, b = parts.pairs[target.module].tensors()
        found.append(TextPair(layer, module, a, b))
    if odd:
        raise cannot(layout, f"adapts {few(odd)}, and what is written for it are {', '.join(TEXT_MODULES)} of layers")
    if not found:
        raise cannot(layout, "changes nothing")
    return sorted(found, key=lambda pair: (pair.layer, pair.module))
