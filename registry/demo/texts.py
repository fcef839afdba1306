"""The tasks of the demo: short sentences by label, written for it; every second one of a label is held out."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import files


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
