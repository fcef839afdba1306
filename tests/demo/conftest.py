"""The whole demo on a tiny BERT, once for all tests of the folder: real training, real registry, a few steps."""

from __future__ import annotations

import shutil
import socket
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from registry.app import connect
from registry.demo.main import bundled_base_model, run
from registry.demo.report import Outcome
from registry.demo.training import Recipe
from registry.operations.registry import Registry
from registry.progress import SILENT, Progress
from registry.schemas import Resolved, Tree

FEW_STEPS = Recipe(steps=3, learning_rate=1e-2, sentences=4)


@dataclass
class Steps:
    """Counts the steps of every training; ``stop_at`` is where the user presses Ctrl-C."""

    done: dict[str, int] = field(default_factory=dict)
    totals: dict[str, int] = field(default_factory=dict)
    stop_at: str = ""

    def begin(self, what: str, total: int) -> None:
        self.done[what] = 0
        self.totals[what] = total

    def advance(self, amount: int) -> None:
        what = list(self.done)[-1]
        self.done[what] += amount
        if self.stop_at and what.endswith(self.stop_at):
            raise KeyboardInterrupt


@dataclass
class Listener:
    """Collects what the demo tells."""

    steps: Steps = field(default_factory=Steps)
    transfers: Progress = SILENT
    told: list[str] = field(default_factory=list)
    trees: list[Tree] = field(default_factory=list)
    lineages: list[Resolved] = field(default_factory=list)

    def heading(self, text: str) -> None:
        self.told.append(text)

    def say(self, text: str) -> None:
        self.told.append(text)

    def lines(self, lines: Iterable[str]) -> None:
        self.told += lines

    def tree(self, tree: Tree) -> None:
        self.trees.append(tree)

    def lineage(self, resolved: Resolved) -> None:
        self.lineages.append(resolved)


@dataclass(frozen=True)
class Run:
    """A finished run."""

    registry: Registry
    base: Path
    outcome: Outcome
    heard: Listener


@pytest.fixture
def listener() -> Listener:
    return Listener()


@pytest.fixture(scope="session")
def tiny_bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random BERT with the bundled model's tokenizer."""
    import torch
    from transformers import BertConfig, BertModel

    folder = tmp_path_factory.mktemp("tiny-bert")
    torch.manual_seed(1)
    size = BertConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64)
    BertModel(size).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt"):
        shutil.copyfile(bundled_base_model() / name, folder / name)
    return folder


@pytest.fixture
def recipe() -> Recipe:
    return FEW_STEPS


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever asks the net for anything fails."""

    to = socket.socket.connect

    def refuse(self: socket.socket, address: Any) -> None:
        if self.family != socket.AF_UNIX:  # the process of this machine that makes tables for tests
            raise AssertionError(f"the demo asked the network: {address!r}")
        to(self, address)

    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.fixture(scope="session")
def finished(tiny_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """A first run; tests look at it and don't change it."""
    registry = connect(tmp_path_factory.mktemp("registry") / "demo registry")
    heard = Listener()
    outcome = run(registry, heard, base=tiny_bert, recipe=FEW_STEPS)
    yield Run(registry, tiny_bert, outcome, heard)
    registry.close()
