"""The proof: what the registry hands out for a path, against PEFT's own step-by-step result."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from registry.demo.encoder import load_encoder
from registry.demo.peer import Difference, adapter_snapshot, merge_step_by_step, snapshot

if TYPE_CHECKING:
    from registry.progress import Progress
    from registry.schemas import ArtifactKind, Resolved
    from registry.services.protocol import Registry

T = TypeVar("T")


@dataclass(frozen=True)
class Check:
    """Differences from PEFT's result, and the seconds that each side took to write its files."""

    links: int
    lora: Difference
    lora_seconds: float
    merged: Difference
    merged_seconds: float
    peft_seconds: float

    def table(self) -> list[str]:
        """The figures in columns."""
        return [
            "                           seconds   weights   embeddings",
            _row("registry: one LoRA", self.lora_seconds, self.lora),
            _row("registry: merged model", self.merged_seconds, self.merged),
            f"PEFT: {self.links} merges and save  {self.peft_seconds:8.2f}   compared with this",
        ]


def _row(what: str, seconds: float, difference: Difference) -> str:
    return f"{what:25}{seconds:9.2f}{difference.weights:10.1e}{difference.embeddings:13.1e}"


def check_path(
    registry: Registry, resolved: Resolved, base: Path, texts: Sequence[str], work: Path, progress: Progress
) -> Check:
    """Fetch a path as one LoRA and merged, merge its published links with PEFT, and compare the three."""

    def fetch(reference: str, kind: ArtifactKind) -> Path:
        folder = work / f"{kind}-{reference.replace('/', '.')}"
        return Path(registry.fetch(reference, folder, kind=kind, progress=progress).folder)

    links = [entry.reference for entry in resolved.lineage if entry.number is not None]
    lora, lora_seconds = _timed(lambda: fetch(resolved.reference, "lora"))
    merged, merged_seconds = _timed(lambda: fetch(resolved.reference, "merged"))
    published = [fetch(link, "published") for link in links]
    stepwise, peft_seconds = _timed(lambda: merge_step_by_step(base, published, work / "peft"))
    truth = snapshot(stepwise, texts)
    return Check(
        links=len(links),
        lora=adapter_snapshot(base, lora, texts).difference(truth),
        lora_seconds=lora_seconds,
        merged=snapshot(load_encoder(merged), texts).difference(truth),
        merged_seconds=merged_seconds,
        peft_seconds=peft_seconds,
    )


def _timed(work: Callable[[], T]) -> tuple[T, float]:
    start = time.perf_counter()
    return work(), time.perf_counter() - start
