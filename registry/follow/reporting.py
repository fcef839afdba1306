"""What a follower does so that the registry knows what runs: it reports, as often as needed, and never fails of it."""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Final, Self

from registry.errors import NotFoundError, RegistryError
from registry.operations.registry import Registry
from registry.schemas.running import MAX_NAMES, MAX_SENTENCE, MAX_WHERE, NameReport
from registry.version import __version__

_BEAT: Final = 5.0  # seconds between looks whether the lease needs a report
_FIRST: Final = 10.0  # seconds until the next try, at first and later
_MOST: Final = 300.0
_UNKNOWN: Final = 900.0  # the same, if the registry does not know what runs: it may be upgraded

log = logging.getLogger(__name__)


def of_name(
    name: str, *, serves: int | None = None, wants: int | None = None, code: str | None = None, error: str | None = None
) -> NameReport:
    """What is reported of a name, with a sentence of any length, which is cut, and any word as its code."""
    if error is not None:
        plain = "".join(one if one.isprintable() else " " for one in error).strip()
        error = (plain if len(plain) <= MAX_SENTENCE else f"{plain[: MAX_SENTENCE - 1]}\u2026") or None
    if code is not None:
        code = "".join(one for one in code.lower() if one in "abcdefghijklmnopqrstuvwxyz0123456789_")[:64] or None
    return NameReport(name=name, serves=serves, wants=wants, code=code, error=error)


class Reporter:
    """Reports for one follower.

    `update` is called after each round with the state of all names; it reports if something changed, or a third of the
    lease is over. So that a round that takes long does not count as lost, `beat` is called now and then, or `beating`
    does. What goes wrong is warned of once, and tried again later; nothing is raised.

    Args:
        registry: that is followed; it stays the caller's.
        kind: of the follower: ``"vllm"``, ``"folder"``.
        name: for people: where it keeps what, such as ``"vllm=http://10.0.0.7:8000"``.
        clock: a clock that never goes back, for tests.
    """

    def __init__(
        self, registry: Registry, kind: str, name: str, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._registry = registry
        self._kind = kind
        self._name = name[:MAX_WHERE]
        self._clock = clock
        self._id = secrets.token_hex(16)
        self._names: tuple[NameReport, ...] = ()
        self._told: tuple[NameReport, ...] | None = None  # None: nothing was reported yet, or it may be lost
        self._due = clock()
        self._not_before = self._due  # after a failure
        self._pause = _FIRST
        self._warned: set[str] = set()
        self._lock = threading.Lock()  # for `beating`

    def update(self, names: Iterable[NameReport]) -> None:
        """Take the state of all names, and report it if it is another one, or the lease needs it."""
        found = tuple(sorted(names, key=lambda one: one.name))
        if len(found) > MAX_NAMES:
            self._warn("many", f"only {MAX_NAMES} of {len(found)} followed names are reported to the registry")
        self._names = found[:MAX_NAMES]
        self.beat()

    def beat(self) -> None:
        """Report what was last given, if it was not reported yet, or the lease needs it."""
        with self._lock:
            self._beat()

    @contextmanager
    def beating(self) -> Iterator[None]:
        """Call `beat` on a thread: what a round does may take longer than the lease, such as a fetch of one adapter."""
        over = threading.Event()

        def beats() -> None:
            while not over.wait(_BEAT):
                self.beat()

        thread = threading.Thread(target=beats, name="registry-reports", daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join(_BEAT)

    def _beat(self) -> None:
        now = self._clock()
        if now < self._not_before or (self._names == self._told and now < self._due):
            return
        try:
            answer = self._registry.report(self._id, self._kind, self._name, self._names, version=__version__)
        except RegistryError as error:
            self._failed(error)
        except Exception as error:  # a bug of reporting must not end what serves
            log.debug("reporting failed", exc_info=True)
            self._failed(error)
        else:
            self._told, self._due = self._names, now + answer.again
            self._pause = _FIRST
            self._warned.discard("failed")
            if answer.left_out:
                names = ", ".join(answer.left_out[:3])
                self._warn("scope", f"the registry keeps nothing of names outside the token's scopes, such as {names}")

    def _failed(self, error: Exception) -> None:
        self._told = None
        if isinstance(error, NotFoundError):
            self._warn("unknown", f"{self._registry.url} does not know what runs: it is of an older version")
            self._not_before = self._clock() + _UNKNOWN
            return
        self._warn("failed", f"what is served can't be reported now, and is tried again: {error}")
        self._not_before = self._clock() + self._pause
        self._pause = min(_MOST, self._pause * 2)

    def _warn(self, what: str, sentence: str) -> None:
        if what not in self._warned:
            self._warned.add(what)
            log.warning("%s", sentence)

    def close(self) -> None:
        """Say goodbye: the follower ends, and is not shown any more."""
        if self._told is None and self._clock() < self._not_before:
            return  # it failed just now: the lease ends by itself
        try:
            self._registry.report(self._id, self._kind, self._name, gone=True)
        except Exception as error:  # noqa: BLE001 - the lease ends by itself
            log.debug("the goodbye was not heard: %s", error)
        self._told, self._not_before = None, float("inf")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
