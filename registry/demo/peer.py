"""The same path by PEFT's own means: load the base, then put each adapter on and merge it, one after another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from registry.demo.encoder import Encoder, load_encoder, quiet


@dataclass(frozen=True)
class Difference:
    """The largest absolute difference between two models, of any weight and of any number of an embedding."""

    weights: float
    embeddings: float


def merge_step_by_step(base: Path, adapters: Sequence[Path]) -> Encoder:
    """The base with every adapter merged into it, root first, in float32."""
    encoder = load_encoder(base)
    for adapter in adapters:
        encoder = merge_into(with_adapter(encoder, adapter))
    return encoder


def with_adapter(encoder: Encoder, adapter: Path) -> Encoder:
    """An encoder with a LoRA put on by PEFT, not merged."""
    from peft import PeftModel

    with quiet():
        return Encoder(PeftModel.from_pretrained(encoder.model, adapter).eval(), encoder.tokenizer)


def merge_into(encoder: Encoder) -> Encoder:
    """The LoRA folded into the weights by PEFT."""
    return Encoder(encoder.model.merge_and_unload(), encoder.tokenizer)


@torch.no_grad()
def embeddings_of(encoder: Encoder, texts: Sequence[str]) -> torch.Tensor:
    """Embeddings to compare."""
    return encoder.embed(texts)


def weights_of(encoder: Encoder) -> dict[str, torch.Tensor]:
    """Copies of all weights by name, since the next merge changes them in place."""
    return {name: weight.clone() for name, weight in encoder.model.state_dict().items()}


def largest_difference(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> float:
    """The largest absolute difference between tensors of the same names.

    Raises:
        ValueError: the names differ, so the models can't be compared.
    """
    if ours.keys() != theirs.keys():
        raise ValueError(f"tensors of only one model: {sorted(ours.keys() ^ theirs.keys())}")
    return max(float((ours[name].double() - theirs[name].double()).abs().max()) for name in ours)
