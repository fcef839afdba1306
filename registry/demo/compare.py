"""Compares the registry's weights for a path with PEFT's own step-by-step result.

The same path with PEFT alone: load the base, then apply and merge one adapter after another.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import torch

from registry.demo.encoder import Encoder, load_encoder, quiet
from registry.demo.outcome import Check, Difference

if TYPE_CHECKING:
    from registry.operations.registry import Registry
    from registry.progress import Progress
    from registry.schemas import ArtifactKind, Resolved


@dataclass(frozen=True)
class Snapshot:
    """What models are compared by: all weights by name, and the embeddings of some sentences."""

    weights: dict[str, torch.Tensor]
    embeddings: torch.Tensor

    def difference(self, other: Snapshot) -> Difference:
        """The largest differences between two models with the same weight names."""
        if self.weights.keys() != other.weights.keys():
            raise AssertionError(f"weights of one model only: {sorted(self.weights.keys() ^ other.weights.keys())}")
        of_weights = (_largest(weight, other.weights[name]) for name, weight in self.weights.items())
        return Difference(weights=max(of_weights), embeddings=_largest(self.embeddings, other.embeddings))


def _largest(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    return float((ours.double() - theirs.double()).abs().max())


def with_adapter(encoder: Encoder, adapter: Path) -> Encoder:
    """An encoder with a LoRA applied by PEFT, not merged."""
    from peft import PeftModel

    with quiet():
        return Encoder(PeftModel.from_pretrained(encoder.model, adapter).eval(), encoder.tokenizer)


def merge(encoder: Encoder) -> Encoder:
    """The encoder with its LoRA merged by PEFT."""
    return Encoder(encoder.model.merge_and_unload(), encoder.tokenizer)


def merge_step_by_step(base: Path, adapters: Sequence[Path], out: Path) -> Encoder:
    """The base with every adapter merged into it, root first, in float32; written to ``out``."""
    encoder = load_encoder(base)
    for adapter in adapters:
        encoder = merge(with_adapter(encoder, adapter))
    with quiet():
        encoder.model.save_pretrained(out)
    return encoder


@torch.no_grad()
def snapshot(encoder: Encoder, texts: Sequence[str]) -> Snapshot:
    """The state of a merged or plain model."""
    return Snapshot(dict(encoder.model.state_dict()), encoder.embed(texts))


@torch.no_grad()
def lora_snapshot(base: Path, adapter: Path, texts: Sequence[str]) -> Snapshot:
    """The base with a LoRA: embeddings with it applied unmerged, then the weights with it merged."""
    encoder = with_adapter(load_encoder(base), adapter)
    embeddings = encoder.embed(texts)
    return Snapshot(dict(merge(encoder).model.state_dict()), embeddings)


T = TypeVar("T")


def compare(
    registry: Registry, resolved: Resolved, base: Path, texts: Sequence[str], work: Path, progress: Progress
) -> Check:
    """Fetch a path as one LoRA and merged, merge its published links with PEFT, and compare the three."""

    def fetch(reference: str, kind: ArtifactKind) -> Path:
        folder = work / f"{kind}-{reference.replace('/', '.')}"
        return Path(registry.fetch(reference, folder, kind=kind, progress=progress).folder)

    links = [entry.reference for entry in resolved.lineage if entry.number is not None]
    published = [fetch(link, "published") for link in links]
    # Imports are excluded from both timings, and so is the registry's probe of this machine's arithmetic, done once per
    # process. This fetch does both.
    fetch(links[0], "lora")
    lora, lora_seconds = _timed(lambda: fetch(resolved.reference, "lora"))
    merged, merged_seconds = _timed(lambda: fetch(resolved.reference, "merged"))
    stepwise, peft_seconds = _timed(lambda: merge_step_by_step(base, published, work / "peft"))

    truth = snapshot(stepwise, texts)
    return Check(
        reference=resolved.reference,
        links=len(links),
        texts=len(texts),
        lora=lora_snapshot(base, lora, texts).difference(truth),
        lora_seconds=lora_seconds,
        merged=snapshot(load_encoder(merged), texts).difference(truth),
        merged_seconds=merged_seconds,
        peft_seconds=peft_seconds,
    )


def _timed(work: Callable[[], T]) -> tuple[T, float]:
    start = time.perf_counter()
    return work(), time.perf_counter() - start
