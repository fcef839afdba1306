"""The tree that the demo trains: a domain, two customers in it, and a task of one customer."""

from __future__ import annotations

from dataclasses import dataclass
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
