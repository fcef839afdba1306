"""How long work tells a face what it is doing."""

from __future__ import annotations

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


SILENT: Final[Progress] = _Silent()
