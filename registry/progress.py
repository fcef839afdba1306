"""How long work reports to a face what it is doing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Protocol


class Progress(Protocol):
    """A sink for progress by bytes; the faces draw it, scripts ignore it."""

    def begin(self, what: str, total: int) -> None:
        """A new stage named ``what`` of ``total`` bytes starts; an earlier stage is over."""

    def advance(self, amount: int) -> None:
        """``amount`` more bytes of the current stage are done. Called from one thread at a time."""


class _Silent:
    def begin(self, what: str, total: int) -> None:
        del what, total

    def advance(self, amount: int) -> None:
        del amount


@dataclass(frozen=True)
class Part:
    """Progress of a part of some work: its stages say ``of`` what they are."""

    progress: Progress
    of: str

    def begin(self, what: str, total: int) -> None:
        """A stage of this part starts."""
        self.progress.begin(f"{self.of}: {what[:1].lower()}{what[1:]}", total)

    def advance(self, amount: int) -> None:
        """More of that stage is done."""
        self.progress.advance(amount)


SILENT: Final[Progress] = _Silent()
