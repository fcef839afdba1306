"""The tree of the demonstration: what each adapter learns, on which texts, on top of what."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Any, Final

_ATTENTION: Final = ("query", "value")


@dataclass(frozen=True)
class Task:
    """One adapter: its path, its texts, and how it is trained."""

    path: str
    rank: int
    alpha: int
    rslora: bool
    targets: tuple[str, ...]

    @property
    def name(self) -> str:
        """The last segment of the path, which names the texts too."""
        return self.path.rpartition("/")[2]

    @property
    def parent(self) -> str:
        """The path above."""
        return self.path.rpartition("/")[0]

    def lora(self) -> dict[str, Any]:
        """Options of PEFT's LoraConfig."""
        return {
            "r": self.rank,
            "lora_alpha": self.alpha,
            "use_rslora": self.rslora,
            "target_modules": list(self.targets),
        }


BASE: Final = "minilm"
TASKS: Final = (
    Task("minilm/support", 8, 16, rslora=False, targets=_ATTENTION),
    Task("minilm/support/shop", 8, 8, rslora=True, targets=_ATTENTION),
    Task("minilm/support/hotel", 8, 16, rslora=False, targets=(*_ATTENTION, "intermediate.dense")),
    Task("minilm/support/shop/urgency", 4, 8, rslora=True, targets=("query", "intermediate.dense")),
)
"""Parents first: three levels, two siblings."""
DEEPEST: Final = "minilm/support/shop/urgency"


@dataclass(frozen=True)
class Texts:
    """Sentences with their class, the half to learn from and the half that is held out."""

    question: str
    train: tuple[tuple[str, int], ...]
    test: tuple[tuple[str, int], ...]
    classes: Mapping[int, str] = field(default_factory=dict)


def read_texts(name: str) -> Texts:
    """The texts of a task: a line each, every second line of a class held out."""
    halves: tuple[list[tuple[str, int]], list[tuple[str, int]]] = ([], [])
    classes: dict[int, str] = {}
    question, place = "", 0
    for line in (files(__package__) / "texts" / f"{name}.txt").read_text(encoding="utf-8").splitlines():
        if line.startswith("#"):
            question = question or line.removeprefix("#").partition("?")[0].strip() + "?"
        elif line.startswith("["):
            classes[len(classes)] = line.strip("[]")
            place = 0
        elif line:
            halves[place % 2].append((line, len(classes) - 1))
            place += 1
    return Texts(question, tuple(halves[0]), tuple(halves[1]), classes)
