"""Exceptions and interrupts at every step: the model holds what it held before, or the base, or lets nobody in."""

from __future__ import annotations

import _thread
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from registry.errors import IntegrityError
from registry.pool import AdapterPool
from registry.pool.live_weights import LiveWeights, Rounds, _Rows
from registry.tensors.artifacts.merged import RoundedSlot
from tests.kit.shelf import Shelf
from tests.pool.trees import Tree, bits

IDS = torch.tensor([[1, 2, 3]])


@pytest.fixture(scope="module")
def tree(shelf: Shelf) -> Tree:
    found = Tree(shelf, "tied llama")
    first = found.publish("kept")
    found.publish("head", first)  # parts what is tied
    found.publish("plain")
    return found


class Failing:
    """Calls a function, and raises at chosen calls: before or after it."""

    def __init__(self, calls: Callable[..., Any], at: set[int], error: type[BaseException], *, after: bool) -> None:
        self.calls = calls
        self.at = at
        self.error = error
        self.after = after
        self.count = 0

    def __get__(self, instance: Any, owner: type) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            self.count += 1
            fails = self.count in self.at
            if fails and not self.after:
                raise self.error
            found = self.calls(instance, *args)
            if fails:
                raise self.error
            return found

        return call


STEPS: list[tuple[Any, str]] = [(LiveWeights, name) for name in ("_part", "_join", "_rows", "_done", "_see")]
STEPS += [(RoundedSlot, "block"), (_Rows, "write"), (Rounds, "begin")]


@pytest.mark.parametrize("error", [ArithmeticError, KeyboardInterrupt])
@pytest.mark.parametrize(("owner", "name"), STEPS, ids=[name for _, name in STEPS])
def test_at_every_step(tree: Tree, owner: Any, name: str, error: type[BaseException]) -> None:
    together, apart = tree.references[0], tree.references[1]
    model = tree.load()
    calls = getattr(owner, name)
    failures = 0
    with AdapterPool(model, tree.registry) as pool:
        for before, after in ((together, apart), (apart, together)):
            for step in range(1, 1000):
                pool.merge(before)
                with pytest.MonkeyPatch.context() as patch:
                    patch.setattr(owner, name, Failing(calls, {step}, error, after=step % 2 == 0))
                    try:
                        pool.merge(after)
                        break
                    except error:
                        failures += 1
                assert pool.path == before
                assert bits(model) == tree.bits(before)
            assert bits(model) == tree.bits(after)
    assert failures
    assert bits(model) == tree.bits(None)


def test_the_base_where_what_was_merged_can_not_be_put_back(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    before, after = tree.references[1:]
    model = tree.load()
    with AdapterPool(model, tree.registry) as pool:
        pool.merge(before)
        with monkeypatch.context() as patch:
            failing = Failing(RoundedSlot.block, set(range(2, 1000)), ArithmeticError, after=False)
            patch.setattr(RoundedSlot, "block", failing)  # what has steps; the base's rows have none
            with pytest.raises(ArithmeticError):
                pool.merge(after)
        assert pool.path is None
        assert bits(model) == tree.bits(None)


def test_calls_are_refused_while_weights_are_half_written(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    before, after = tree.references[1:]
    model = tree.load()
    with AdapterPool(model, tree.registry) as pool:
        pool.merge(before)
        with monkeypatch.context() as patch:
            every = set(range(2, 1000))
            patch.setattr(LiveWeights, "_done", Failing(LiveWeights._done, every, KeyboardInterrupt, after=False))
            with pytest.raises(KeyboardInterrupt):
                pool.merge(after)
            for call in (model, model.forward, model.generate):
                with pytest.raises(IntegrityError, match="half written") as refused:
                    call(IDS)
                assert refused.value.code == "model_changed"
            with pytest.raises(KeyboardInterrupt):
                pool.unmerge()
        pool.unmerge()
        assert bits(model) == tree.bits(None)
        assert torch.isfinite(model(IDS).logits).all()


def test_threads_that_go_on_after_an_interrupt_write_nothing_later(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    before, after = tree.references[0], tree.references[1]
    model = tree.load()
    block, done = RoundedSlot.block, LiveWeights._done
    begun, interrupted = threading.Event(), threading.Event()

    def late(rounded: RoundedSlot, index: int) -> torch.Tensor:
        found = block(rounded, index)
        if begun.is_set() and not interrupted.is_set():
            time.sleep(0.3)
        begun.set()
        return found

    def interrupt(*given: Any) -> None:
        if not interrupted.is_set():
            interrupted.set()
            raise KeyboardInterrupt
        done(*given)

    with AdapterPool(model, tree.registry) as pool:
        pool.merge(before)
        with monkeypatch.context() as patch:
            patch.setattr(RoundedSlot, "block", late)
            patch.setattr(LiveWeights, "_done", interrupt)
            with pytest.raises(KeyboardInterrupt):
                pool.merge(after)
        time.sleep(0.5)
        assert pool.path == before
        assert bits(model) == tree.bits(before)


@pytest.fixture
def heard() -> Iterator[None]:
    """Ctrl-C interrupts, also where the shell that began the tests had it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("heard")
@pytest.mark.parametrize("count", [6, pytest.param(100, marks=pytest.mark.long)])
def test_real_interrupts(tree: Tree, count: int) -> None:
    """Ctrl-C at some moment of a merge; the moments go through its whole length."""
    before, after = tree.references[1:]
    model = tree.load()
    with AdapterPool(model, tree.registry) as pool:
        pool.merge(after)
        start = time.perf_counter()
        pool.merge(before)
        length = time.perf_counter() - start
        for number in range(count):
            timer = threading.Timer(length * (number + 0.5) / count, _thread.interrupt_main)
            try:
                timer.start()
                pool.merge(after)
                timer.join()
                time.sleep(1)  # the interrupt comes here where the merge was faster
            except KeyboardInterrupt:
                pass
            timer.join()
            if pool._gate.refusal is None:
                assert bits(model) == tree.bits(pool.path)
            pool.unmerge()
            assert bits(model) == tree.bits(None)
            pool.merge(before)
