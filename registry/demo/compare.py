"""Compares the registry's weights for a path with PEFT's own step-by-step result."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from registry.demo.encoder import load_encoder
from registry.demo.outcome import Check
from registry.demo.peer import lora_snapshot, merge_step_by_step, snapshot

if TYPE_CHECKING:
    from registry.operations.registry import Registry
    from registry.progress import Progress
    from registry.schemas import ArtifactKind, Resolved

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
