"""Trains one link with PEFT; independent of the registry."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch.nn.functional import cross_entropy

from registry.demo.encoder import Encoder, prototypes, quiet
from registry.demo.links import Link
from registry.demo.texts import Examples


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
