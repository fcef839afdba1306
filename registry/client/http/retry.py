"""Retries: exponential backoff with jitter, `Retry-After` honoured, within a total time."""

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
class RetryPolicy:
    """Timeouts of requests, and how long to retry, in seconds.

    A registry that never responded to this process is most likely misspelt or down: it fails fast. One that did is
    being restarted, or the network fails for a moment.
    """

    known: float = 90.0  # total without progress
    met: float = 20.0  # total where the very first response is a transient error
    unknown: float = 2.0
    first: float = 0.2
    most: float = 15.0
    connect: float = 10.0
    answer: float = 60.0  # timeout of a response, and of each piece of a body
    slow_answer: float = 600.0  # for what is computed before it is answered: ranks depend on values

    def timeout(self, *, slow: bool = False) -> httpx.Timeout:
        """The timeouts of one request."""
        return httpx.Timeout(self.answer, connect=self.connect, read=self.slow_answer if slow else self.answer)

    def attempts(self, *, known: bool, over: threading.Event) -> Attempts:
        """Start counting; ``over`` ends all waits."""
        return Attempts(self, self.known if known else self.unknown, over)


@dataclass
class Attempts:
    """The attempts of one request."""

    retry: RetryPolicy
    total: float
    over: threading.Event
    _tries: int = 0
    _deadline: float = field(default=0.0)

    def __post_init__(self) -> None:
        self._deadline = time.monotonic() + self.total

    def reset(self) -> None:
        """Bytes arrived: the next failure counts as a new one."""
        self._tries = 0
        self._deadline = time.monotonic() + self.total

    def answered(self) -> None:
        """The registry exists but has a transient error: extend the total, up to ``met``."""
        if self.total < self.retry.met:
            self.total = self.retry.met
            self._deadline = time.monotonic() + self.total

    def wait(self, at_least: float | None = None) -> bool:
        """Sleep before the next attempt; False at once where it would exceed the total."""
        delay = min(self.retry.most, self.retry.first * 2**self._tries)
        delay *= random.uniform(0.5, 1.0)  # noqa: S311 - so that clients do not come back all at once
        delay = max(delay, at_least or 0.0)
        if time.monotonic() + delay > self._deadline:
            return False
        self._tries += 1
        return not self.over.wait(delay)


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds of the header `Retry-After`, a number or a date."""
    text = headers.get("retry-after", "").strip()
    if text.isascii() and text.isdigit() and len(text) < 10:
        return float(text)
    try:
        at = parsedate_to_datetime(text)
    except ValueError:
        return None
    at = at if at.tzinfo else at.replace(tzinfo=UTC)
    return max(0.0, (at - datetime.now(UTC)).total_seconds())
