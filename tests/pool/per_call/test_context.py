"""The choice travels with the call: threads, tasks, blocks, errors; and merging keeps out of its way."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch

from registry.errors import IntegrityError, UsageError
from registry.pool import AdapterPool
from tests.kit.shelf import Shelf
from tests.pool.trees import Tree, bits

IDS = torch.tensor([[1, 2, 3, 4], [5, 6, 7, 8]])


@pytest.fixture(scope="module")
def tree(shelf: Shelf) -> Tree:
    found = Tree(shelf, "tied llama")
    for variant in ("dora head", "tokens", "new embedding", "plain"):
        found.publish(variant)
    return found


class Running:
    """A pool over a model, and what it answers for each path and list alone."""

    def __init__(self, tree: Tree) -> None:
        self.model = tree.load().eval()
        self.pool = AdapterPool(self.model, tree.registry)
        first, second, *_ = tree.references
        self.choices: list[Any] = [None, *tree.references, [first, second], [None, first]]
        self.right = [self.answer(choice) for choice in self.choices]

    def answer(self, choice: Any) -> torch.Tensor:
        with torch.no_grad(), self.pool.use(choice):
            return self.now()

    @torch.no_grad()
    def now(self) -> torch.Tensor:
        """What it answers in this context."""
        found: torch.Tensor = self.model(IDS).logits
        return found


@pytest.fixture
def running(tree: Tree, one_thread: None) -> Iterator[Running]:
    found = Running(tree)
    with found.pool:
        yield found


@pytest.mark.parametrize("count", [400, pytest.param(10_000, marks=[pytest.mark.slow, pytest.mark.long])])
def test_every_answer_of_eight_threads_is_that_of_its_path(running: Running, count: int) -> None:
    def work(seed: int) -> int:
        chance = random.Random(seed)
        for _ in range(count // 8):
            number = chance.randrange(len(running.choices))
            with running.pool.use(running.choices[number]):
                if not torch.equal(running.now(), running.right[number]):
                    return 1
        return 0

    with ThreadPoolExecutor(8) as threads:
        assert sum(threads.map(work, range(8))) == 0
    assert len({tuple(one.flatten().tolist()) for one in running.right}) == len(running.choices)


def test_two_threads_inside_of_one_forward(running: Running, tree: Tree) -> None:
    """Both are in the model at once, each with its path."""
    both, inside = threading.Barrier(2), []

    def meet(*_: Any) -> None:
        inside.append(both.wait(60))

    hook = running.model.model.layers[0].register_forward_pre_hook(meet)
    with ThreadPoolExecutor(2) as threads:
        answers = list(threads.map(running.answer, tree.references[:2]))
    hook.remove()
    assert all(torch.equal(one, right) for one, right in zip(answers, running.right[1:3], strict=True))
    assert len(inside) == 2


def test_tasks(running: Running) -> None:
    async def ask(number: int) -> bool:
        with running.pool.use(running.choices[number]):
            await asyncio.sleep(0)
            first = running.now()
            await asyncio.sleep(0)
            there = await asyncio.to_thread(running.now)  # takes the context along
            return all(torch.equal(one, running.right[number]) for one in (first, running.now(), there))

    async def all_of_them() -> list[bool]:
        return await asyncio.gather(*(ask(number % len(running.choices)) for number in range(24)))

    assert all(asyncio.run(all_of_them()))


def test_blocks_in_blocks_defaults_and_errors(running: Running, tree: Tree) -> None:
    first, second, *_ = tree.references
    pool, base = running.pool, running.right[0]
    assert pool.set(first) == first
    assert torch.equal(running.now(), running.right[1])
    with pool.use(second) as reference:
        assert reference == second
        with pool.use(None) as nothing:
            assert nothing is None
            assert torch.equal(running.now(), base)
            with pool.use([first, second]):
                assert torch.equal(running.now(), running.right[5])
            with pytest.raises(ZeroDivisionError), pool.use([first, second]):
                1 / 0  # noqa: B018
            assert torch.equal(running.now(), base)
        assert torch.equal(running.now(), running.right[2])
        with ThreadPoolExecutor(1) as threads:  # a new thread has the default
            assert torch.equal(threads.submit(running.now).result(), running.right[1])
        with pytest.raises(UsageError), pool.use([]):
            pass
        assert torch.equal(running.now(), running.right[2])
    assert torch.equal(running.now(), running.right[1])
    assert pool.set(None) is None
    assert torch.equal(running.now(), base)


def test_the_weights_stay(running: Running, tree: Tree) -> None:
    for choice in running.choices:
        running.answer(choice)
    assert bits(running.model) == tree.bits(None)


def test_merged_and_beside_exclude_each_other(running: Running, tree: Tree) -> None:
    first, second, *_ = tree.references
    pool = running.pool
    with pool.merged(first):
        merged = running.now()
        for refused in (second, None, [second, None]):
            with pytest.raises(UsageError, match="merged into the model"), pool.use(refused):
                pass
        with pytest.raises(UsageError, match="merged into the model"):
            pool.set(second)
    pool.set(second)
    with pytest.raises(UsageError, match="set as the default"):
        pool.merge(first)
    with pytest.raises(UsageError, match="set as the default"), pool.merged(first):
        pass
    pool.set(None)
    for choice in (second, [second, None], None):  # another thread merges while the block is open
        with pool.use(choice):
            with ThreadPoolExecutor(1) as threads:
                threads.submit(pool.merge, first).result()
            for call in (running.now, lambda: running.model.generate(IDS, max_new_tokens=1)):
                with pytest.raises(UsageError, match="merged into the model"):
                    call()
            if choice is not None:  # a part of the model that asks
                with pytest.raises(UsageError, match="merged into the model"):
                    running.model.model(IDS)
            with ThreadPoolExecutor(1) as threads:
                assert torch.equal(threads.submit(running.now).result(), merged)
                threads.submit(pool.unmerge).result()
            assert running.now().shape == merged.shape
    assert torch.equal(running.now(), running.right[0])


def test_training_under_a_pool_is_noticed_at_the_next_use(running: Running, tree: Tree) -> None:
    weight = running.model.model.norm.weight
    before = weight.detach().clone()
    with torch.no_grad():
        weight.add_(1)
    for act in (lambda: running.pool.set(tree.references[0]), lambda: running.answer(None)):
        with pytest.raises(IntegrityError, match="changed by something else") as found:
            act()
        assert found.value.code == "model_changed"
    with torch.no_grad():
        weight.copy_(before)
    running.pool._live._see("model.norm.weight")  # so that it can be closed


def test_another_module_in_the_place_of_one_is_noticed(running: Running, tree: Tree) -> None:
    attention = running.model.model.layers[0].self_attn
    before, attention.q_proj = attention.q_proj, torch.nn.Linear(8, 8)
    for act in (lambda: running.answer(tree.references[0]), lambda: running.pool.merge(tree.references[0])):
        with pytest.raises(IntegrityError, match=r"'q_proj' in .* is another module") as found:
            act()
        assert found.value.code == "model_changed"
    attention.q_proj = before
    assert torch.equal(running.answer(tree.references[0]), running.right[1])


def test_a_closed_pool_runs_nothing(tree: Tree) -> None:
    model = tree.load()
    pool = AdapterPool(model, tree.registry)
    pool.set(tree.references[0])
    pool.close()
    assert not any("forward" in vars(one) for one in model.modules())
    for act in (lambda: pool.set(None), lambda: pool.use(None).__enter__(), lambda: pool.prefetch([])):
        with pytest.raises(UsageError, match="closed"):
            act()
