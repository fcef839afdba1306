"""What a benchmark hands in: a figure, what it is beside, and the goal that says whether that is met."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

Direction = Literal["at most", "at least"]
Of = Literal["figure", "ratio", "cpu"]
_PARTIAL: Final = frozenset(
    [
        "p99",
        "read",
        "verify",
        "factors",
        "widen",
        "product",
        "round",
        "check",
        "hash",
        "write",
        "edges",
        "send",
        "other",
    ]
)
"""Fields of a part of the work, or of its slowest: CPU seconds of all say nothing about them."""


@dataclass(frozen=True)
class Figure:
    """A median of some runs, in the unit of its row.

    Args:
        value: the median.
        cpu: the median of CPU seconds, user and system, of all processes that did the work; None where not measured.
        low: the smallest of the runs.
        high: the largest.
        runs: how many there were.
    """

    value: float
    cpu: float | None = None
    low: float | None = None
    high: float | None = None
    runs: int = 1

    @classmethod
    def of(cls, samples: Sequence[Mapping[str, float]], field: str = "seconds", *, scale: float = 1.0) -> Figure:
        """The figure of a field of the samples, times ``scale``; CPU seconds are those of their field ``cpu``."""
        values = [scale * sample[field] for sample in samples]
        spent = [sample["cpu"] for sample in samples if "cpu" in sample]
        cpu = statistics.median(spent) if spent and field not in _PARTIAL else None
        return cls(statistics.median(values), cpu, min(values), max(values), len(values))


@dataclass(frozen=True)
class Peer:
    """What a figure is beside: the same work by somebody else, in the same unit and the same run."""

    name: str
    figure: Figure


@dataclass(frozen=True)
class Goal:
    """A limit, of the figure, of its ratio to the peer's, or of the ratio of CPU seconds."""

    direction: Direction
    limit: float
    of: Of

    def is_met(self, value: float) -> bool:
        """Whether a value keeps to the limit."""
        return value <= self.limit if self.direction == "at most" else value >= self.limit


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    name: str
    figure: Figure
    unit: str
    peer: Peer | None = None
    goal: Goal | None = None

    @property
    def ratio(self) -> float | None:
        """Ours divided by the peer's."""
        if self.peer is None or self.peer.figure.value == 0:
            return None
        return self.figure.value / self.peer.figure.value

    @property
    def cpu_ratio(self) -> float | None:
        """The same of CPU seconds."""
        if self.peer is None or self.figure.cpu is None or not self.peer.figure.cpu:
            return None
        return self.figure.cpu / self.peer.figure.cpu

    @property
    def met(self) -> bool | None:
        """Whether the goal is met; None where there is none, or where its peer was left out."""
        if self.goal is None:
            return None
        value = {"figure": self.figure.value, "ratio": self.ratio, "cpu": self.cpu_ratio}[self.goal.of]
        return None if value is None else self.goal.is_met(value)
