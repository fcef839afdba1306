"""The tree that the demo trains, and the sentences that each of its adapters is trained on.

A domain, two customers in it, and a task of one customer. The sentences are short, grouped by label and written for the
demo; every second one of a label is held out.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import files
from typing import Final

BASE: Final = "minilm"
ATTENTION: Final = ("query", "value")


@dataclass(frozen=True)
class Link:
    """One adapter of the tree; its task is the last part of its path."""

    path: str
    message: str
    rank: int
    alpha: int
    rslora: bool = False
    targets: tuple[str, ...] = ATTENTION

    @property
    def parent(self) -> str:
        """The path that it is trained on top of."""
        return self.path.rpartition("/")[0]

    @property
    def task(self) -> str:
        """The name of its task."""
        return self.path.rpartition("/")[2]


# Parents come before their children.
LINKS: Final = (
    Link(f"{BASE}/support", "Mail to any firm: what does the writer want?", rank=8, alpha=16),
    Link(f"{BASE}/support/shop", "A shop's mail: what to do next?", rank=8, alpha=8, rslora=True),
    Link(
        f"{BASE}/support/hotel",
        "A hotel's mail: before, during or after the stay?",
        rank=8,
        alpha=16,
        targets=(*ATTENTION, "intermediate.dense"),
    ),
    Link(
        f"{BASE}/support/shop/urgency",
        "The shop's mail: how soon to act?",
        rank=4,
        alpha=8,
        rslora=True,
        targets=("query", "intermediate.dense"),
    ),
)
DEEPEST: Final = LINKS[-1]


@dataclass(frozen=True)
class Examples:
    """Sentences of one task, and each one's label as its index in ``labels``."""

    labels: tuple[str, ...]
    texts: tuple[str, ...]
    answers: tuple[int, ...]

    def of(self, label: int) -> list[str]:
        """The sentences of one label."""
        return [text for text, answer in zip(self.texts, self.answers, strict=True) if answer == label]


@dataclass(frozen=True)
class Task:
    """What an adapter is trained on, and what it is evaluated on."""

    name: str
    train: Examples
    held_out: Examples


def load_task(name: str) -> Task:
    """Read ``texts/NAME.txt``: a line ``[label]``, then its sentences, one per line."""
    by_label: dict[str, list[str]] = {}
    label = ""
    for line in (files(__package__) / "texts" / f"{name}.txt").read_text(encoding="utf-8").splitlines():
        if line.startswith("["):
            label = line.strip("[]")
        elif line and not line.startswith("#"):
            by_label.setdefault(label, []).append(line)
    return Task(name, train=_every_second(by_label, first=0), held_out=_every_second(by_label, first=1))


def _every_second(by_label: dict[str, list[str]], *, first: int) -> Examples:
    pairs = [(text, answer) for answer, texts in enumerate(by_label.values()) for text in texts[first::2]]
    return Examples(tuple(by_label), tuple(text for text, _ in pairs), tuple(answer for _, answer in pairs))
