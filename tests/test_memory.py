"""What a process keeps in memory: made once, bounded by bytes, ended once."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import CancelledError, ThreadPoolExecutor
from dataclasses import dataclass, field

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from registry import memory
from registry.errors import IntegrityError
from registry.memory import CacheHandle, Kind, MemoryCache, Share

KINDS: tuple[Kind, ...] = ("factors", "rows", "piece")
SHARES: dict[Kind, Share] = {
    "plan": Share(most=2, idle=60.0, always=True),
    "factors": Share(part=0.5),
    "rows": Share(),
    "piece": Share(part=0.25),
}


@dataclass(eq=False)
class Value:
    size: int
    ended: int = 0

    def end(self) -> None:
        self.ended += 1


def size(value: Value) -> int:
    return value.size


def acquire(cache: MemoryCache, kind: Kind, key: object, value: Value) -> CacheHandle[Value]:
    return cache.acquire(kind, key, lambda: value, size, end=Value.end)


class Model(RuleBasedStateMachine):
    """Anything that one thread may do, against the rules in words."""

    def __init__(self) -> None:
        super().__init__()
        self.values: list[Value] = []
        self.loans: list[tuple[Kind, int, CacheHandle[Value]]] = []
        self.kept: dict[Kind, OrderedDict[int, Value]] = {}  # what may be kept: the least recently asked for first
        self.asked = 0
        self.found = 0

    @initialize(budget=st.integers(0, 100))
    def begin(self, budget: int) -> None:
        self.budget = budget
        self.cache = MemoryCache(budget, SHARES)

    @rule(kind=st.sampled_from(KINDS), key=st.integers(0, 5), bytes=st.integers(1, 60), fails=st.booleans())
    def ask(self, kind: Kind, key: int, bytes: int, fails: bool) -> None:  # noqa: A002
        kept = self.cache.has(kind, key)
        before = self.kept.setdefault(kind, OrderedDict()).get(key)
        made: list[Value] = []

        def make() -> Value:
            if fails:
                raise IntegrityError("It is damaged.")
            made.append(Value(bytes))
            return made[0]

        self.asked += 1
        self.found += kept
        if fails and not kept:
            with pytest.raises(IntegrityError):
                self.cache.acquire(kind, key, make, size, end=Value.end)
            assert not self.cache.has(kind, key)
            return
        loan = self.cache.acquire(kind, key, make, size, end=Value.end)
        assert kept == (not made)
        assert loan.result() is (before if kept else made[0])
        self.values += made
        self.loans.append((kind, key, loan))
        self.kept[kind].pop(key, None)
        self.kept[kind][key] = loan.result()

    @rule(data=st.data())
    def give_back(self, data: st.DataObject) -> None:
        if self.loans:
            kind, key, loan = self.loans.pop(data.draw(st.integers(0, len(self.loans) - 1)))
            value = loan.result()
            assert value.ended == 0
            for _ in range(data.draw(st.integers(1, 2))):
                loan.close()
            in_use = any(one.result() is value for _, _, one in self.loans)
            kept = self.cache.has(kind, key) and self.kept[kind].get(key) is value
            assert value.ended == (not in_use and not kept)

    @invariant()
    def bounds_hold(self) -> None:
        if not hasattr(self, "cache"):
            return
        use = self.cache.use()
        in_use = {id(loan.result()) for _, _, loan in self.loans}
        idle = dict.fromkeys(KINDS, 0)
        for kind, keys in self.kept.items():
            gone = [key for key in keys if not self.cache.has(kind, key)]
            here = [key for key in keys if key not in gone]
            idle[kind] = sum(keys[key].size for key in here if id(keys[key]) not in in_use)
            pinned = sum(keys[key].size for key in here if id(keys[key]) in in_use)
            assert use[kind].bytes == idle[kind] + pinned
            assert use[kind].entries == len(here)
            assert all(keys[key].size <= self.cache.limit(kind) for key in here)
            assert idle[kind] == 0 or use[kind].bytes <= self.cache.limit(kind)
            for key in gone:
                del keys[key]
        total = sum(one.bytes for one in use.values())
        assert total <= self.budget or sum(idle.values()) == 0
        assert sum(one.hits for one in use.values()) == self.found
        assert sum(one.hits + one.misses for one in use.values()) == self.asked

    def teardown(self) -> None:
        if hasattr(self, "cache"):
            self.cache.close()
            for _, _, loan in self.loans:
                loan.close()
            assert [value.ended for value in self.values] == [1] * len(self.values)


TestModel = Model.TestCase
TestModel.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


def test_the_least_recently_asked_for_goes_first() -> None:
    cache = MemoryCache(10, SHARES)
    for key in "abc":
        cache.get("rows", key, lambda: Value(3), size)
    cache.get("rows", "a", lambda: Value(3), size)
    cache.get("rows", "d", lambda: Value(3), size)
    assert [key for key in "abcd" if cache.has("rows", key)] == ["a", "c", "d"]
    cache.get("factors", "e", lambda: Value(4), size)  # another kind, one budget
    assert [key for key in "abcd" if cache.has("rows", key)] == ["a", "d"]


@dataclass
class Slow:
    """A value that takes until the test says so."""

    fails: bool = False
    made: int = 0
    begun: threading.Event = field(default_factory=threading.Event)
    go_on: threading.Event = field(default_factory=threading.Event)

    def make(self) -> Value:
        self.made += 1
        self.begun.set()
        assert self.go_on.wait(120)
        if self.fails:
            raise IntegrityError("It is damaged.")
        return Value(1)


def ask_at_once(cache: MemoryCache, slow: Slow, count: int) -> list[object]:
    """What so many threads get that ask while the first of them makes it."""
    got: list[object] = []

    def ask() -> None:
        try:
            got.append(cache.get("rows", "key", slow.make, size))
        except IntegrityError as error:
            got.append(error)

    threads = [threading.Thread(target=ask) for _ in range(count)]
    for thread in threads:
        thread.start()
    assert slow.begun.wait(120)
    while (use := cache.use()["rows"]).hits + use.misses < count:
        time.sleep(0.001)
    slow.go_on.set()
    for thread in threads:
        thread.join()
    return got


@pytest.mark.parametrize("budget", [0, 100])
def test_it_is_made_once_however_many_ask(budget: int) -> None:
    cache, slow = MemoryCache(budget, SHARES), Slow()
    got = ask_at_once(cache, slow, 8)
    assert slow.made == 1
    assert len(got) == 8
    assert len(set(map(id, got))) == 1
    assert cache.has("rows", "key") == (budget > 0)
    assert (cache.use()["rows"].misses, cache.use()["rows"].hits) == (1, 7)


def test_all_who_wait_get_the_error_and_the_next_one_tries_anew() -> None:
    cache, slow = MemoryCache(100, SHARES), Slow(fails=True)
    got = ask_at_once(cache, slow, 4)
    assert slow.made == 1
    assert len(got) == 4
    assert all(isinstance(error, IntegrityError) for error in got)
    assert not cache.has("rows", "key")
    slow.fails = False
    assert isinstance(cache.get("rows", "key", slow.make, size), Value)
    assert slow.made == 2


def test_what_is_too_large_is_handed_out_and_ends_with_its_user() -> None:
    cache = MemoryCache(100, SHARES)
    large = Value(26)
    loan = acquire(cache, "piece", "key", large)
    assert not cache.has("piece", "key")
    assert large.ended == 0
    loan.close()
    loan.close()
    assert large.ended == 1
    assert cache.use()["piece"].bytes == 0


def test_open_files_are_kept_without_a_budget_and_are_few() -> None:
    cache, values = MemoryCache(0), [Value(1000) for _ in range(40)]
    held = acquire(cache, "plan", 0, values[0])
    for key in range(1, 40):
        acquire(cache, "plan", key, values[key]).close()
    most = memory.SHARES["plan"].most or 0
    assert [value.ended for value in values] == [0] + [1] * (39 - most) + [0] * most
    again = acquire(cache, "plan", 0, Value(1))
    assert again.result() is values[0]
    held.close()
    assert values[0].ended == 0
    cache.get("rows", "key", lambda: Value(1), size)
    assert not cache.has("rows", "key")


def test_an_open_file_that_nobody_reads_is_closed_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr("registry.memory.time.monotonic", lambda: now)
    cache, value, other = MemoryCache(100), Value(1), Value(1)
    acquire(cache, "plan", "a", value).close()
    now += 59
    acquire(cache, "plan", "b", other).close()
    assert value.ended == 0
    now += 2
    acquire(cache, "plan", "b", other).close()
    assert (value.ended, other.ended) == (1, 0)


def test_after_its_end_it_keeps_nothing() -> None:
    cache, early, late = MemoryCache(100), Value(1), Value(1)
    loan = acquire(cache, "plan", "a", early)
    cache.close()
    assert early.ended == 0
    loan.close()
    acquire(cache, "plan", "b", late).close()
    assert (early.ended, late.ended) == (1, 1)


def in_pool(use: Callable[[ThreadPoolExecutor, Slow], None]) -> None:
    """With a pool of one thread that is busy until the test says so."""
    with ThreadPoolExecutor(1) as pool:
        busy = Slow()
        pool.submit(busy.make)
        assert busy.begun.wait(120)
        try:
            use(pool, busy)
        finally:
            busy.go_on.set()


def test_what_nobody_waits_for_is_not_made() -> None:
    cache, made = MemoryCache(100), Slow()
    made.go_on.set()

    def use(pool: ThreadPoolExecutor, busy: Slow) -> None:
        first = cache.acquire("piece", "key", made.make, size, pool=pool)
        second = cache.acquire("piece", "key", made.make, size, pool=pool)
        first.close()  # the other still waits
        busy.go_on.set()
        assert isinstance(second.result(), Value)
        assert made.made == 1
        second.close()

    in_pool(use)

    def leave(pool: ThreadPoolExecutor, busy: Slow) -> None:
        del busy
        loan = cache.acquire("piece", "other", made.make, size, pool=pool)
        loan.close()
        assert not cache.has("piece", "other")
        with pytest.raises(CancelledError):
            loan.result()

    in_pool(leave)
    assert made.made == 1
    assert cache.use()["piece"].misses == 1  # nor counted: a miss is a value that had to be made

    def come_back(pool: ThreadPoolExecutor, busy: Slow) -> None:
        """As bodies do that pass on their seats, and ask again for what was not begun."""
        for _ in range(3):
            cache.acquire("piece", "other", made.make, size, pool=pool).close()
        loan = cache.acquire("piece", "other", made.make, size, pool=pool)
        busy.go_on.set()
        assert isinstance(loan.result(), Value)
        loan.close()

    in_pool(come_back)
    assert made.made == cache.use()["piece"].misses == 2


def test_what_is_left_in_the_making_ends_once() -> None:
    cache, value, slow = MemoryCache(0), Value(1), Slow()

    def make() -> Value:
        slow.make()
        return value

    with ThreadPoolExecutor(1) as pool:
        loan = cache.acquire("piece", "key", make, size, end=Value.end, pool=pool)
        assert slow.begun.wait(120)
        loan.close()
        cache.close()
        assert value.ended == 0
        slow.go_on.set()
    assert value.ended == 1


def test_a_pool_that_takes_no_work_leaves_nothing_behind() -> None:
    cache, pool = MemoryCache(100), ThreadPoolExecutor(1)
    pool.shutdown()
    with pytest.raises(RuntimeError):
        cache.acquire("piece", "key", lambda: Value(1), size, pool=pool)
    assert not cache.has("piece", "key")


def test_many_threads_keep_the_books_right() -> None:
    cache, values, lock = MemoryCache(50, SHARES), [], threading.Lock()

    def make() -> Value:
        with lock:
            values.append(Value(7))
            return values[-1]

    def work(seed: int) -> None:
        for turn in range(300):
            kind = KINDS[(seed + turn) % 3]
            loan = cache.acquire(kind, (seed * turn) % 7, make, size, end=Value.end)
            assert loan.result().ended == 0
            loan.close()

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(1, 7)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(one.bytes for one in cache.use().values()) <= 50
    cache.close()
    assert [value.ended for value in values] == [1] * len(values)
    assert all((one.bytes, one.entries) == (0, 0) for one in cache.use().values())
