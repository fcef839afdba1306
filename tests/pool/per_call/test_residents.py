"""Composed paths are kept within the budget; what may be used is asked at each use."""

from __future__ import annotations

import functools
import gc
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

from registry.client.remote import RemoteRegistry
from registry.errors import NotAllowedError, NotFoundError, RetractedError, UsageError
from registry.folders.staging import FetchCache
from registry.pool import AdapterPool
from registry.pool.per_call.selection import ResidentPath, Residents
from registry.services.local_merge import LocalArithmetic
from tests.kit.serving import QUICK, ServedRegistry, open_http
from tests.kit.shelf import Shelf
from tests.pool.trees import Tree

IDS = torch.tensor([[1, 2, 3, 4]])


@pytest.fixture(scope="module")
def tree(shelf: Shelf) -> Tree:
    found = Tree(shelf, "tied llama")
    for variant in ("dora head", "tokens", "plain", "embedding"):
        found.publish(variant)
    return found


@torch.no_grad()
def answer(model: Any) -> torch.Tensor:
    found: torch.Tensor = model(IDS).logits
    return found


def test_the_least_recently_used_makes_room(tree: Tree) -> None:
    model = tree.load()
    with AdapterPool(model, tree.registry) as pool:
        right, sizes = [], []
        for reference in tree.references:
            before = pool.stats().resident_bytes
            with pool.use(reference):
                right.append(answer(model))
            sizes.append(pool.stats().resident_bytes - before)
        assert (pool.stats().resident, pool.stats().misses, pool.stats().hits) == (4, 4, 0)
    for memory, most in ((sum(sizes) - 1, 3), (max(sizes), 2), (min(sizes) - 1, 0), (0, 0)):
        with AdapterPool(model, tree.registry, memory=memory) as pool:
            for _ in range(2):
                for number, reference in enumerate(tree.references):
                    with pool.use(reference):
                        assert torch.equal(answer(model), right[number])
                        assert pool.stats().resident_bytes <= memory
            stats = pool.stats()
            assert stats.resident <= most
            assert stats.dropped == stats.misses - stats.resident
            assert (stats.memory, stats.hits + stats.misses) == (memory, 8)
            with pool.use([*tree.references]):  # larger together than the budget
                mixed = model(IDS.repeat(4, 1)).logits
            for number in range(4):
                assert (mixed[number] - right[number][0]).abs().max() < 1e-5


def test_what_was_used_last_stays() -> None:
    paths = {name: ResidentPath({}, 10, name) for name in "abc"}
    residents = Residents(lambda: 20)
    for name in "abaca":
        assert residents.get(name, functools.partial(paths.__getitem__, name)) is paths[name]
    stats = residents.stats(0, 0, 20)
    assert (stats.resident, stats.misses, stats.hits, stats.dropped) == (2, 3, 2, 1)
    assert residents.get("a", lambda: pytest.fail("it stayed")) is paths["a"]


def test_a_path_is_composed_once_for_threads_that_ask_together() -> None:
    made, entered = [], threading.Barrier(4)

    def make() -> ResidentPath:
        made.append(1)
        return ResidentPath({}, 1, "a")

    def fail() -> ResidentPath:
        raise ZeroDivisionError

    residents = Residents(lambda: 20)

    def ask(_: int) -> ResidentPath:
        entered.wait(60)
        return residents.get("a", make)

    with ThreadPoolExecutor(4) as threads:
        assert len(set(threads.map(ask, range(4)))) == 1
    assert len(made) == 1
    with pytest.raises(ZeroDivisionError):
        residents.get("b", fail)
    assert residents.get("b", make).nbytes == 1


def test_prefetch(tree: Tree) -> None:
    model = tree.load()
    with AdapterPool(model, tree.registry) as pool:
        first, second, *_ = tree.references
        assert pool.prefetch([first, second]).result(60) is None
        assert (pool.stats().resident, pool.stats().misses) == (2, 2)
        with pool.use(first):
            answer(model)
        assert (pool.stats().misses, pool.stats().hits) == (2, 1)
        with pytest.raises(NotFoundError):
            pool.prefetch([f"{tree.name}/nothing"]).result(60)
        with pytest.raises(UsageError, match="list of references"):
            pool.prefetch(first)
        with pool.merged(second):
            pool.prefetch(tree.references).result(60)
            merged = answer(model)
        with pool.use(second):
            assert (answer(model) - merged).abs().max() < 1e-5 * merged.abs().max()
        assert pool.stats().resident == 4


def test_what_is_asked_for_is_resolved_at_each_use(shelf: Shelf) -> None:
    tree = Tree(shelf, "llama")
    one, model = tree.publish("plain"), tree.load()
    path = one.partition("@")[0]
    with AdapterPool(model, tree.registry) as pool:
        tree.registry.tag(one, "prod")
        with pool.use(f"{path}@prod") as reference:
            assert reference == one
            before = answer(model)
        other = tree.registry.publish(tree._folders[tree.publish("dora")], path).revision.reference
        assert pool.set(path) == other
        pool.set(None)
        tree.registry.tag(other, "prod")
        with pool.use([f"{path}@prod"]) as references:
            assert references == (other,)
            assert not torch.equal(answer(model), before)
        tree.registry.retract(one, reason="a test")
        for refs in (one, [one], [other, one]):
            with pytest.raises(RetractedError), pool.use(refs):
                pass
        with pytest.raises(RetractedError):
            pool.set(one)
        tree.registry.retract(one, undo=True)
        with pool.use(one):
            assert torch.equal(answer(model), before)
    uses = tree.registry.deployment.uses
    assert uses is not None
    uses.write()
    assert tree.registry.show(one).use


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedRegistry]:
    served = open_http(tmp_path_factory.mktemp("served"))
    yield served
    served.close()


@pytest.mark.slow
def test_over_http_a_token_sees_what_it_may_see(tree: Tree, service: ServedRegistry, tmp_path: Path) -> None:
    tree.registry.copy(tree.name, service, recursive=True)
    first, second = tree.references[:2]
    token = service.create_token("reader", name="narrow", scopes=[first.partition("@")[0]])
    narrow = RemoteRegistry(
        service.url, token.secret, cache=FetchCache(tmp_path), arithmetic=LocalArithmetic, retry=QUICK
    )
    model = tree.load()
    with AdapterPool(model, tree.registry) as pool, pool.use(first):
        right = answer(model)
    with AdapterPool(model, narrow) as pool:
        with pool.use(first):
            assert torch.equal(answer(model), right)
        for refs in (second, [first, second]):
            with pytest.raises(NotFoundError), pool.use(refs):
                pass
        service.retract(first, reason="a test")
        with pytest.raises(RetractedError), pool.use(first):
            pass
        service.retract(first, undo=True)
        with pool.use(first):
            assert torch.equal(answer(model), right)
        service.revoke_token(token.token.id)
        with pytest.raises(NotAllowedError), pool.use(first):
            pass
    narrow.close()


def _objects() -> int:
    """How many tensors, modules and objects of ours there are."""
    gc.collect()
    kinds = Counter(map(type, gc.get_objects()))
    mine = (kind for kind in kinds if issubclass(kind, torch.Tensor | torch.nn.Module) or "registry." in str(kind))
    return sum(kinds[kind] for kind in mine)


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


@pytest.mark.usefixtures("one_thread")
@pytest.mark.slow
@pytest.mark.parametrize(
    ("count", "memory"), [(60, 1800), pytest.param(10_000, 1 << 20, marks=pytest.mark.long)], ids=["dropped", "kept"]
)
def test_nothing_grows(tree: Tree, count: int, memory: int) -> None:
    model = tree.load()
    with AdapterPool(model, tree.registry, memory=memory) as pool:

        def switch(times: int) -> None:
            for number in range(times):
                pool.set(tree.references[number % 2 if number % 10 else 2])
                with pool.use([tree.references[number % 2], None]):
                    if number % 4 == 0:
                        model(IDS.repeat(2, 1))

        switch(30)
        objects, taken = _objects(), _resident_bytes()
        switch(count)
        assert (pool.stats().dropped > 0) == (memory < 1 << 20)
        assert _objects() - objects < 100
        assert _resident_bytes() - taken < 30 << 20
        pool.set(None)
