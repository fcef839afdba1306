"""What the demo tells while it runs; the command line prints it, tests collect it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from registry.progress import Progress
from registry.schemas import Resolved, Tree


class Report(Protocol):
    """A listener to the demo."""

    @property
    def steps(self) -> Progress:
        """Takes the progress of a training; it counts steps, not bytes."""

    @property
    def transfers(self) -> Progress:
        """Takes the progress of the registry's own work, by bytes."""

    def heading(self, text: str) -> None:
        """The next part of the demo begins."""

    def say(self, text: str) -> None:
        """One sentence."""

    def lines(self, lines: Iterable[str]) -> None:
        """Lines to print as they are: numbers in columns, commands to copy."""

    def tree(self, tree: Tree) -> None:
        """Draw the tree."""

    def lineage(self, resolved: Resolved) -> None:
        """Draw a lineage."""
