"""The result of a demo run; the command prints it with ``--json``."""

from __future__ import annotations

from dataclasses import dataclass

from registry.schemas import RevisionSummary


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
