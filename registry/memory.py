"""Values that a process keeps in memory to work faster: made once, least recently used dropped, within one budget.

Nothing here is needed for a right answer, and nothing is kept that another request might see differently: keys are made
of digests, so a value never grows old. Who may see what is looked up elsewhere, for each request.
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
    """What values of one kind may take."""

    part: float = 1.0  # of the budget, in bytes
    most: int | None = None  # values that nobody uses
    idle: float | None = None  # seconds that a value which nobody uses is kept
    always: bool = False  # kept whatever the budget is: only `most` and `idle` bound it


SHARES: Final[Mapping[Kind, Share]] = {
    "plan": Share(most=16, idle=60.0, always=True),  # open artifacts: they hold open files
    "factors": Share(part=0.5),  # of composed paths, as they are multiplied
    "rows": Share(),  # of stored blobs, where each read is a request
    "piece": Share(part=0.125),  # of computed files: equal requests come at about the same time, or hardly ever
}


@dataclass(frozen=True)
class Use:
    """What happened to one kind so far, and what is kept of it now."""

    hits: int
    misses: int
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
    used_at: int = 0  # turn of the cache
    idle_since: float = 0.0

    @property
    def is_over(self) -> bool:
        """Whether nobody has it, can get it, or makes it. It becomes so once, under the lock."""
        return self.dropped and self.users == 0 and self.made.done()


@dataclass
class _Room:
    """All of one kind, the least recently used first."""

    share: Share
    limit: float  # bytes
    entries: OrderedDict[Hashable, _Entry] = field(default_factory=OrderedDict)
    bytes: int = 0
    hits: int = 0
    misses: int = 0

    def idle(self) -> Iterator[_Entry]:
        return (entry for entry in self.entries.values() if entry.users == 0)


class Loan(Generic[T]):
    """A value that is not dropped until it is given back; it may still be in the making."""

    def __init__(self, made: Future[T], give_back: Callable[[], None]) -> None:
        self._made = made
        self._give_back: Callable[[], None] | None = give_back

    def result(self) -> T:
        """The value, once it is made; raises what making it raised."""
        return self._made.result()

    def cancel(self) -> None:
        """Give it back; twice is once. If nobody wants it any more and its making has not begun, it is not made."""
        give_back, self._give_back = self._give_back, None
        if give_back is not None:
            give_back()

    close = cancel


class MemoryCache:
    """Values by kind and key, at most ``budget`` bytes of them beside those that are in use.

    A value is made once, however many ask for it at the same time; what making it raises goes to all of them and is
    not kept. A value larger than the share of its kind is handed out and not kept. With a budget of 0 only what is in
    use is shared, and what is kept always.
    """

    def __init__(self, budget: int, shares: Mapping[Kind, Share] = SHARES) -> None:
        self.budget = budget
        self._lock = threading.Lock()
        self._turn = 0
        self._closed = False
        self._rooms = {
            kind: _Room(share, float("inf") if share.always else share.part * budget) for kind, share in shares.items()
        }

    def get(self, kind: Kind, key: Hashable, make: Callable[[], T], size: Callable[[T], int]) -> T:
        """The value of a key; one that is dropped meanwhile lives on with those who have it."""
        loan = self.borrow(kind, key, make, size)
        try:
            return loan.result()
        finally:
            loan.close()

    def borrow(
        self,
        kind: Kind,
        key: Hashable,
        make: Callable[[], T],
        size: Callable[[T], int],
        *,
        end: Callable[[T], None] | None = None,
        pool: Executor | None = None,
    ) -> Loan[T]:
        """The value of a key, to be given back.

        Args:
            kind: whose share it counts to.
            key: says all that the value depends on.
            make: makes it, if nobody has; nothing of what it does may wait for this same value.
            size: its bytes.
            end: what is done with it once, when it was dropped and nobody uses it any more.
            pool: where it is made; None makes it in the caller's thread, before this returns.

        Raises what ``make`` raises, if it runs here.
        """
        with self._lock:
            room = self._rooms[kind]
            entry = room.entries.get(key)
            mine = entry is None
            if entry is None:
                entry = room.entries[key] = _Entry(kind, key, size, end)
                room.misses += 1
            else:
                room.hits += 1
            self._turn += 1
            entry.used_at = self._turn
            entry.users += 1
            room.entries.move_to_end(key)
        loan = Loan(cast("Future[T]", entry.made), lambda: self._give_back(entry))
        if mine:
            try:
                self._begin(entry, make, pool)
            except BaseException:
                loan.close()
                raise
        return loan

    def has(self, kind: Kind, key: Hashable) -> bool:
        """Whether a value is kept or in the making; asking is no use of it."""
        with self._lock:
            return key in self._rooms[kind].entries

    def forget(self, kind: Kind, key: Hashable) -> None:
        """Drop a value that turned out to be of no use; who has it keeps it."""
        with self._lock:
            entry = self._rooms[kind].entries.get(key)
            over = [entry] if entry is not None and self._drop(entry) else []
        _end(over)

    def limit(self, kind: Kind) -> float:
        """The most bytes that one kind may keep."""
        return self._rooms[kind].limit

    def use(self) -> dict[Kind, Use]:
        """Counters of all kinds."""
        with self._lock:
            return {
                kind: Use(room.hits, room.misses, room.bytes, len(room.entries)) for kind, room in self._rooms.items()
            }

    def close(self) -> None:
        """Drop everything, and keep nothing any more; what is in use ends when it is given back."""
        with self._lock:
            self._closed = True
            dropped = [entry for room in self._rooms.values() for entry in room.entries.values()]
            over = [entry for entry in dropped if self._drop(entry)]
        _end(over)

    def _begin(self, entry: _Entry, make: Callable[[], Any], pool: Executor | None) -> None:
        if pool is None:
            self._make(entry, make)
            entry.made.result()
            return
        try:
            pool.submit(self._make, entry, make)
        except BaseException as error:  # it takes no work any more: others may have come to wait for this already
            self._fail(entry, error)
            raise

    def _make(self, entry: _Entry, make: Callable[[], Any]) -> None:
        if not entry.made.set_running_or_notify_cancel():
            return
        try:
            value = make()
            size = entry.size(value)
        except BaseException as error:  # noqa: BLE001 - it is raised where the value is asked for
            self._fail(entry, error)
            return
        with self._lock:
            entry.made.set_result(value)
            room = self._rooms[entry.kind]
            over = [entry] if entry.is_over else []
            if not entry.dropped:
                entry.bytes = size
                room.bytes += size
                if (self._closed or size > room.limit) and self._drop(entry):
                    over.append(entry)
            over += self._sweep(room)
        _end(over)

    def _fail(self, entry: _Entry, error: BaseException) -> None:
        with self._lock:
            self._drop(entry)  # first, so that who comes from now on tries anew
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
            over += self._sweep(self._rooms[entry.kind])
        _end(over)

    def _sweep(self, room: _Room) -> list[_Entry]:
        """Drop what is too much: of this kind, and then of all; what is in use or in the making stays."""
        share, over = room.share, []
        if share.idle is not None:
            oldest = time.monotonic() - share.idle
            over += [entry for entry in room.idle() if entry.idle_since < oldest]
        if share.most is not None:
            idle = list(room.idle())
            over += [entry for entry in idle[: max(0, len(idle) - share.most)] if entry not in over]
        over = [entry for entry in over if entry.made.done() and self._drop(entry)]
        while room.bytes > room.limit and (entry := self._oldest([room])) is not None:
            self._drop(entry)
            over.append(entry)
        bounded = [one for one in self._rooms.values() if not one.share.always]
        while sum(one.bytes for one in self._rooms.values()) > self.budget:
            entry = self._oldest(bounded)
            if entry is None:
                break
            self._drop(entry)
            over.append(entry)
        return over

    def _oldest(self, rooms: list[_Room]) -> _Entry | None:
        """The one that was not asked for the longest, of those that can be dropped."""
        firsts = (next((entry for entry in room.idle() if entry.made.done()), None) for room in rooms)
        return min((entry for entry in firsts if entry is not None), key=lambda entry: entry.used_at, default=None)

    def _drop(self, entry: _Entry) -> bool:
        """Forget an entry; whether it is over by that."""
        if entry.dropped:
            return False
        entry.dropped = True
        room = self._rooms[entry.kind]
        del room.entries[entry.key]
        room.bytes -= entry.bytes
        return entry.is_over


def _end(entries: list[_Entry]) -> None:
    """Outside of the lock: what is done at the end may take its time."""
    for entry in entries:
        if entry.end is not None and not entry.made.cancelled() and entry.made.exception() is None:
            entry.end(entry.made.result())
