"""Trains a link of the demo with PEFT, measures it, and compares fetched weights with PEFT's own step-by-step result.

No classifier is trained: a label's *prototype* is the mean embedding of its training sentences, and a sentence belongs
to the label whose prototype is nearest (Snell et al. 2017, Prototypical Networks).
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from registry.demo.report import Check, Difference
from registry.demo.tasks import Examples, Link, Task

if TYPE_CHECKING:
    from registry.operations.registry import Registry
    from registry.progress import Progress
    from registry.schemas import ArtifactKind, Resolved


@dataclass(frozen=True)
class Encoder:
    """A model and its tokenizer."""

    model: Any
    tokenizer: Any

    def embed(self, texts: Sequence[str]) -> Tensor:
        """Mean-pooled embeddings of length 1: (texts, hidden)."""
        batch = self.tokenizer(list(texts), padding=True, truncation=True, return_tensors="pt")
        hidden = self.model(**batch).last_hidden_state
        mask = batch["attention_mask"].unsqueeze(-1).to(hidden.dtype)
        return normalize((hidden * mask).sum(1) / mask.sum(1), dim=1)


def load_encoder(folder: Path) -> Encoder:
    """The model in a folder, in float32."""
    from transformers import AutoModel, AutoTokenizer

    with quiet():
        model = AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
        return Encoder(model, AutoTokenizer.from_pretrained(folder))


def prototypes(embeddings: Tensor, answers: Tensor, labels: int) -> Tensor:
    """The normalised mean embedding of each label: (labels, hidden)."""
    means = [embeddings[answers == label].mean(0) for label in range(labels)]
    return normalize(torch.stack(means), dim=1)


@torch.no_grad()
def accuracy(encoder: Encoder, task: Task) -> float:
    """The share of held-out sentences whose nearest prototype is that of their label."""
    encoder.model.eval()
    train, held_out = task.train, task.held_out
    centres = prototypes(encoder.embed(train.texts), torch.tensor(train.answers), len(train.labels))
    nearest = (encoder.embed(held_out.texts) @ centres.T).argmax(1)
    return float((nearest == torch.tensor(held_out.answers)).double().mean())


@contextmanager
def quiet() -> Iterator[None]:
    """Silence known noise only: the loading bar, and the warning about a deprecated property that PEFT reads."""
    from transformers.utils import logging

    bars = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings(
                "ignore", message="`is_gradient_checkpointing` is deprecated", category=FutureWarning
            )
            yield
    finally:
        if bars:
            logging.enable_progress_bar()


@dataclass(frozen=True)
class Recipe:
    """Hyperparameters, the same for every link."""

    steps: int = 36
    learning_rate: float = 3e-3  # decays linearly to 0
    sentences: int = 8  # drawn per label and step: half make its prototype, half are classified
    temperature: float = 0.1
    seed: int = 0


def train_link(
    parent: Encoder, link: Link, examples: Examples, recipe: Recipe, step_done: Callable[[], None]
) -> Encoder:
    """Add a new LoRA to the parent's model and train it to separate the labels.

    In each step, sentences are drawn for each label; the loss is the cross entropy of cosine / temperature between one
    half and the prototypes computed from the other.
    """
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=link.rank, lora_alpha=link.alpha, use_rslora=link.rslora, target_modules=list(link.targets), lora_dropout=0.0
    )
    with _repeatable(recipe.seed), quiet():
        encoder = Encoder(get_peft_model(parent.model, config), parent.tokenizer)
        weights = [weight for weight in encoder.model.parameters() if weight.requires_grad]
        optimizer = torch.optim.AdamW(weights, lr=recipe.learning_rate)
        schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=recipe.steps)
        encoder.model.train()
        for _ in range(recipe.steps):
            optimizer.zero_grad()
            torch.autograd.backward(_loss(encoder, examples, recipe))
            optimizer.step()
            schedule.step()
            step_done()
    encoder.model.eval()
    return encoder


def _loss(encoder: Encoder, examples: Examples, recipe: Recipe) -> torch.Tensor:
    known: list[str] = []
    asked: list[str] = []
    labels, half = len(examples.labels), recipe.sentences // 2
    for label in range(labels):
        texts = examples.of(label)
        drawn = [texts[place] for place in torch.randperm(len(texts))[: 2 * half]]
        known += drawn[:half]
        asked += drawn[half:]
    answers = torch.arange(labels).repeat_interleave(half)
    embeddings = encoder.embed(known + asked)
    centres = prototypes(embeddings[: len(known)], answers, labels)
    return cross_entropy(embeddings[len(known) :] @ centres.T / recipe.temperature, answers)


@contextmanager
def _repeatable(seed: int) -> Iterator[None]:
    """Fixed random numbers and order of summation; restores the caller's state afterwards.

    One thread: on two cores a second one gains little on short sentences, and loses much if other processes compute.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            yield
    finally:
        torch.set_num_threads(threads)


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
