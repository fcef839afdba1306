"""What the demo reports: progress while it runs, and its result. The command prints both, tests collect them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from registry.progress import Progress
from registry.schemas import Resolved, RevisionSummary, Tree


class Report(Protocol):
    """Receives the reports of the demo."""

    @property
    def steps(self) -> Progress:
        """Progress of a training, in steps."""

    @property
    def transfers(self) -> Progress:
        """Progress of the registry's own work, in bytes."""

    def heading(self, text: str) -> None:
        """Begin the next section."""

    def say(self, text: str) -> None:
        """One sentence."""

    def lines(self, lines: Iterable[str]) -> None:
        """Lines to print verbatim: numbers in columns, commands to copy."""

    def tree(self, tree: Tree) -> None:
        """Draw the tree."""

    def lineage(self, resolved: Resolved) -> None:
        """Draw a lineage."""


@dataclass(frozen=True)
class Difference:
    """The largest absolute differences between two models: of any weight, and of any component of an embedding."""

    weights: float
    embeddings: float


@dataclass(frozen=True)
class Check:
    """The registry's results for a path against PEFT's step-by-step result, and the seconds to write the files."""

    reference: str
    links: int
    texts: int  # number of texts whose embeddings were compared
    lora: Difference
    lora_seconds: float
    merged: Difference
    merged_seconds: float
    peft_seconds: float

    def table(self) -> tuple[str, ...]:
        """The figures in columns."""
        peft = f"PEFT, {self.links} merges"
        return (
            f"{'':24}{'seconds':>9}{'weights':>12}{'embeddings':>12}",
            _row("registry, one LoRA", self.lora_seconds, self.lora),
            _row("registry, merged model", self.merged_seconds, self.merged),
            f"{peft:24}{self.peft_seconds:9.2f}      (the two above are compared with it)",
        )


def _row(what: str, seconds: float, difference: Difference) -> str:
    return f"{what:24}{seconds:9.2f}{difference.weights:12.1e}{difference.embeddings:12.1e}"


@dataclass(frozen=True)
class Outcome:
    """The result of a whole run."""

    revisions: tuple[RevisionSummary, ...]  # parents first
    trained: tuple[str, ...]  # paths that this run trained; the others were published before it
    check: Check
    commands: tuple[str, ...]  # to try next
