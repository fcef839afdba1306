"""Embeds sentences with a BERT model, and measures how well the embeddings separate the labels of a task.

There is no classifier to train: a label's *prototype* is the mean embedding of its training sentences, and a sentence
belongs to the label whose prototype is nearest (Snell et al. 2017, Prototypical Networks).
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from registry.demo.texts import Task


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
