"""What was opened last, kept open for the next call that needs the same, so that reading many modules opens it once."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar


class Closable(Protocol):
    """What has to be closed."""

    def close(self) -> None:
        """Release what it holds."""


T = TypeVar("T", bound=Closable)


@dataclass(eq=False)
class _Held(Generic[T]):
    key: object
    value: T
    users: int = 0
    dropped: bool = False


class LastOpened(Generic[T]):
    """Opens things by a key that says all that they are made of, and keeps the last one. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._last: _Held[T] | None = None

    @contextmanager
    def of(self, key: object, make: Callable[[], T]) -> Iterator[T]:
        """What a key stands for; ``make`` opens it where it is not the last one."""
        with self._lock:
            held = self._last
            if held is None or held.key != key:
                held = _Held(key, make())
                self._drop()
                self._last = held
            held.users += 1
        try:
            yield held.value
        finally:
            with self._lock:
                held.users -= 1
                if held.dropped and not held.users:
                    held.value.close()

    def close(self) -> None:
        """Close what is open, or when its last user is done."""
        with self._lock:
            self._drop()

    def _drop(self) -> None:
        held, self._last = self._last, None
        if held is not None:
            held.dropped = True
            if not held.users:
                held.value.close()
