"""An in-memory cache: single-flight computation, LRU eviction, one byte budget.

Nothing here affects results: keys are made of digests, so values never go stale, and access rights are checked
elsewhere for each request.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Mapping
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field
from typing import Any, Final, Generic, Literal, TypeVar, cast

T = TypeVar("T")
Kind = Literal["plan", "factors", "rows", "piece"]

DEFAULT_BUDGET: Final = 2 << 30


@dataclass(frozen=True)
class Share:
    """The limits of one kind of value."""

    part: float = 1.0  # of the budget, in bytes
    most: int | None = None  # values that nobody uses
    idle: float | None = None  # seconds that a value which nobody uses is cached
    always: bool = False  # cached whatever the budget is: only `most` and `idle` bound it


SHARES: Final[Mapping[Kind, Share]] = {
    "plan": Share(most=16, idle=60.0, always=True),  # open artifacts: they hold open files
    "factors": Share(part=0.5),  # of composed paths, as they are multiplied
    "rows": Share(),  # of stored blobs, where each read is a request
    "piece": Share(part=0.5),  # of computed files: what is pulled again is sent, and not computed again
}


@dataclass(frozen=True)
class Use:
    """Counters of one kind, and what it holds now."""

    hits: int
    misses: int  # values whose making has begun
    bytes: int
    entries: int


@dataclass(eq=False)
class _Entry:
    kind: Kind
    key: Hashable
    size: Callable[[Any], int]
    end: Callable[[Any], None] | None
    made: Future[Any] = field(default_factory=Future)
    users: int = 0
    bytes: int = 0
    dropped: bool = False
    used_at: int = 0  # logical clock of the cache
    idle_since: float = 0.0

    @property
    def is_over(self) -> bool:
        """Whether it is evicted, unused and made. True once, under the lock."""
        return self.dropped and self.users == 0 and self.made.done()


@dataclass
class _KindCache:
    """The values of one kind, least recently used first."""

    share: Share
    limit: float  # bytes
    entries: OrderedDict[Hashable, _Entry] = field(default_factory=OrderedDict)
    bytes: int = 0
    hits: int = 0
    misses: int = 0

    def idle(self) -> Iterator[_Entry]:
        return (entry for entry in self.entries.values() if entry.users == 0)


class CacheHandle(Generic[T]):
    """A pinned value, not evicted until it is released; it may still be in the making."""

    def __init__(self, made: Future[T], give_back: Callable[[], None]) -> None:
        self._made = made
        self._give_back: Callable[[], None] | None = give_back

    def result(self) -> T:
        """The value, once it is made; raises what making it raised."""
        return self._made.result()

    def cancel(self) -> None:
        """Release it; idempotent. If nobody else needs it and its making has not begun, it is not made."""
        give_back, self._give_back = self._give_back, None
        if give_back is not None:
            give_back()

    close = cancel


class MemoryCache:
    """Values by kind and key, at most ``budget`` bytes besides those that are pinned.

    A value is made once for all concurrent callers; an error is raised to all of them and not cached. A value larger
    than its kind's share is returned and not cached. With a budget of 0 only pinned values are shared, and kinds with
    ``always``.
    """

    def __init__(self, budget: int, shares: Mapping[Kind, Share] = SHARES) -> None:
        self.budget = budget
        self._lock = threading.Lock()
        self._turn = 0
        self._closed = False
        self._caches = {
            kind: _KindCache(share, float("inf") if share.always else share.part * budget)
            for kind, share in shares.items()
        }

    def get(self, kind: Kind, key: Hashable, make: Callable[[], T], size: Callable[[T], int]) -> T:
        """The value of a key; an evicted one stays alive while it is referenced."""
        handle = self.acquire(kind, key, make, size)
        try:
            return handle.result()
        finally:
            handle.close()

    def acquire(
        self,
        kind: Kind,
        key: Hashable,
        make: Callable[[], T],
        size: Callable[[T], int],
        *,
        end: Callable[[T], None] | None = None,
        pool: Executor | None = None,
    ) -> CacheHandle[T]:
        """The value of a key, pinned until it is released.

        Args:
            kind: whose share it counts to.
            key: all that the value depends on.
            make: makes it on a miss; must not wait for this same value.
            size: its bytes.
            end: finaliser, called once after it was evicted and released.
            pool: where it is made; None makes it in the caller's thread, before this returns.

        Raises what ``make`` raises, if it runs here.
        """
        with self._lock:
            cache = self._caches[kind]
            entry = cache.entries.get(key)
            mine = entry is None
            if entry is None:
                entry = cache.entries[key] = _Entry(kind, key, size, end)
            else:
                cache.hits += 1
            self._turn += 1
            entry.used_at = self._turn
            entry.users += 1
            cache.entries.move_to_end(key)
        handle = CacheHandle(cast("Future[T]", entry.made), lambda: self._give_back(entry))
        if mine:
            try:
                self._begin(entry, make, pool)
            except BaseException:
                handle.close()
                raise
        return handle

    def has(self, kind: Kind, key: Hashable) -> bool:
        """Whether a value is cached or in the making; does not count as a use."""
        with self._lock:
            return key in self._caches[kind].entries

    def forget(self, kind: Kind, key: Hashable) -> None:
        """Evict a value; pinned references stay valid."""
        with self._lock:
            entry = self._caches[kind].entries.get(key)
            over = [entry] if entry is not None and self._drop(entry) else []
        _end(over)

    def limit(self, kind: Kind) -> float:
        """The most bytes that one kind may keep."""
        return self._caches[kind].limit

    def use(self) -> dict[Kind, Use]:
        """Counters of all kinds."""
        with self._lock:
            return {
                kind: Use(cache.hits, cache.misses, cache.bytes, len(cache.entries))
                for kind, cache in self._caches.items()
            }

    def close(self) -> None:
        """Evict everything and cache nothing more; pinned values are finalised when they are released."""
        with self._lock:
            self._closed = True
            dropped = [entry for cache in self._caches.values() for entry in cache.entries.values()]
            over = [entry for entry in dropped if self._drop(entry)]
        _end(over)

    def _begin(self, entry: _Entry, make: Callable[[], Any], pool: Executor | None) -> None:
        if pool is None:
            self._make(entry, make)
            entry.made.result()
            return
        try:
            pool.submit(self._make, entry, make)
        except BaseException as error:  # the pool is shut down: others may wait for this already
            self._fail(entry, error)
            raise

    def _make(self, entry: _Entry, make: Callable[[], Any]) -> None:
        if not entry.made.set_running_or_notify_cancel():
            return
        with self._lock:
            self._caches[entry.kind].misses += 1  # not when it was requested: who leaves before this had nothing made
        try:
            value = make()
            size = entry.size(value)
        except BaseException as error:  # noqa: BLE001 - it is raised where the value is requested
            self._fail(entry, error)
            return
        with self._lock:
            entry.made.set_result(value)
            cache = self._caches[entry.kind]
            over = [entry] if entry.is_over else []
            if not entry.dropped:
                entry.bytes = size
                cache.bytes += size
                if (self._closed or size > cache.limit) and self._drop(entry):
                    over.append(entry)
            over += self._sweep(cache)
        _end(over)

    def _fail(self, entry: _Entry, error: BaseException) -> None:
        with self._lock:
            self._drop(entry)  # first, so that later callers try anew
            entry.made.set_exception(error)

    def _give_back(self, entry: _Entry) -> None:
        with self._lock:
            entry.users -= 1
            over = []
            if entry.users == 0:
                entry.idle_since = time.monotonic()
                if entry.made.cancel():
                    self._drop(entry)
                elif entry.is_over:
                    over.append(entry)
            over += self._sweep(self._caches[entry.kind])
        _end(over)

    def _sweep(self, cache: _KindCache) -> list[_Entry]:
        """Evict what exceeds the limits: of this kind, and then of all; pinned values and those in the making stay."""
        share, over = cache.share, []
        if share.idle is not None:
            oldest = time.monotonic() - share.idle
            over += [entry for entry in cache.idle() if entry.idle_since < oldest]
        if share.most is not None:
            idle = list(cache.idle())
            over += [entry for entry in idle[: max(0, len(idle) - share.most)] if entry not in over]
        over = [entry for entry in over if entry.made.done() and self._drop(entry)]
        while cache.bytes > cache.limit and (entry := self._oldest([cache])) is not None:
            self._drop(entry)
            over.append(entry)
        bounded = [one for one in self._caches.values() if not one.share.always]
        while sum(one.bytes for one in self._caches.values()) > self.budget:
            entry = self._oldest(bounded)
            if entry is None:
                break
            self._drop(entry)
            over.append(entry)
        return over

    def _oldest(self, caches: list[_KindCache]) -> _Entry | None:
        """The least recently used entry that can be evicted."""
        firsts = (next((entry for entry in cache.idle() if entry.made.done()), None) for cache in caches)
        return min((entry for entry in firsts if entry is not None), key=lambda entry: entry.used_at, default=None)

    def _drop(self, entry: _Entry) -> bool:
        """Evict an entry; returns whether it can be finalised."""
        if entry.dropped:
            return False
        entry.dropped = True
        cache = self._caches[entry.kind]
        del cache.entries[entry.key]
        cache.bytes -= entry.bytes
        return entry.is_over


def _end(entries: list[_Entry]) -> None:
    """Finalise outside of the lock: it may take long."""
    for entry in entries:
        if entry.end is not None and not entry.made.cancelled() and entry.made.exception() is None:
            entry.end(entry.made.result())
