"""How long a client tries again: exponential back-off with jitter, `Retry-After` obeyed, a bounded time in all."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import httpx


@dataclass(frozen=True)
class Patience:
    """Seconds that a registry may take to answer, and that may be spent on waiting until it answers again.

    A registry that never answered in this process is most likely misspelt or down: people are told soon. One that did
    is being restarted, or the network fails for a moment.
    """

    known: float = 90.0  # in all, without progress
    met: float = 20.0  # where the first answer of all is that it can't now
    unknown: float = 2.0
    first: float = 0.2
    most: float = 15.0
    connect: float = 10.0
    answer: float = 60.0  # and for each piece of a body
    slow_answer: float = 600.0  # for what is computed before it is answered: ranks depend on values

    def timeout(self, *, slow: bool = False) -> httpx.Timeout:
        """The limits of one request."""
        return httpx.Timeout(self.answer, connect=self.connect, read=self.slow_answer if slow else self.answer)

    def attempts(self, *, known: bool, over: threading.Event) -> Attempts:
        """Begin to count; ``over`` ends all waiting."""
        return Attempts(self, self.known if known else self.unknown, over)


@dataclass
class Attempts:
    """The tries of one request."""

    patience: Patience
    total: float
    over: threading.Event
    _tries: int = 0
    _deadline: float = field(default=0.0)

    def __post_init__(self) -> None:
        self._deadline = time.monotonic() + self.total

    def progressed(self) -> None:
        """Something arrived: what fails next is a new failure."""
        self._tries = 0
        self._deadline = time.monotonic() + self.total

    def answered(self) -> None:
        """The registry is there, if only to say that it can't now: worth waiting for, and not for long."""
        if self.total < self.patience.met:
            self.total = self.patience.met
            self._deadline = time.monotonic() + self.total

    def wait(self, at_least: float | None = None) -> bool:
        """Sleep before the next try; False at once where it would come too late."""
        delay = min(self.patience.most, self.patience.first * 2**self._tries)
        delay *= random.uniform(0.5, 1.0)  # noqa: S311 - so that clients do not come back all at once
        delay = max(delay, at_least or 0.0)
        if time.monotonic() + delay > self._deadline:
            return False
        self._tries += 1
        return not self.over.wait(delay)


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that the header `Retry-After` asks for, as a number or as a date."""
    text = headers.get("retry-after", "").strip()
    if text.isascii() and text.isdigit() and len(text) < 10:
        return float(text)
    try:
        at = parsedate_to_datetime(text)
    except ValueError:
        return None
    at = at if at.tzinfo else at.replace(tzinfo=UTC)
    return max(0.0, (at - datetime.now(UTC)).total_seconds())
