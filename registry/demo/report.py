"""Where the demo reports while it runs; the command prints it, tests collect it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from registry.progress import Progress
from registry.schemas import Resolved, Tree


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
