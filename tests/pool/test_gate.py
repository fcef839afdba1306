"""Calls of the model and changes of its weights keep out of each other's way."""

from __future__ import annotations

import copy
import inspect
import pickle
import threading
from typing import Any

import pytest
import torch

from registry.errors import UsageError
from registry.pool import AdapterPool
from registry.pool.call_gate import Guarded
from tests.kit.shelf import Shelf
from tests.pool.trees import Tree, bits

IDS = torch.tensor([[1, 2, 3, 4]])


@pytest.fixture(scope="module")
def tree(shelf: Shelf) -> Tree:
    found = Tree(shelf, "tied llama")
    found.publish("dora head")
    found.publish("both")
    return found


def test_a_merge_waits_for_the_calls_that_run(tree: Tree) -> None:
    model = tree.load()
    first, second = tree.references
    running, go_on = threading.Event(), threading.Event()

    def stay(*_: Any) -> None:
        running.set()
        assert go_on.wait(60)

    with AdapterPool(model, tree.registry) as pool:
        pool.merge(first)
        hook = model.model.layers[0].register_forward_pre_hook(stay)
        caller = threading.Thread(target=model, args=(IDS,))
        caller.start()
        assert running.wait(60)
        hook.remove()
        merging = threading.Thread(target=pool.merge, args=(second,))
        merging.start()
        merging.join(0.2)
        assert merging.is_alive()
        assert bits(model) == tree.bits(first)
        go_on.set()
        caller.join()
        merging.join()
        assert bits(model) == tree.bits(second)


@pytest.mark.parametrize("rounds", [15, pytest.param(500, marks=pytest.mark.long)])
def test_every_answer_is_that_of_one_path(tree: Tree, rounds: int) -> None:
    model = tree.load().eval()
    with AdapterPool(model, tree.registry) as pool, torch.inference_mode():
        right = []
        for reference in (tree.name, *tree.references):
            pool.merge(reference)
            right.append(model(IDS).logits.clone())
        answers: list[torch.Tensor] = []
        done = threading.Event()

        @torch.inference_mode()
        def ask() -> None:
            while not done.is_set():
                answers.append(model(IDS).logits)

        threads = [threading.Thread(target=ask) for _ in range(3)]
        for thread in threads:
            thread.start()
        for number in range(rounds):
            pool.merge((tree.name, *tree.references)[number % 3])
        done.set()
        for thread in threads:
            thread.join()
    assert answers
    # products of this size may sum in another order on another thread, by less than paths differ
    assert all(min(float((one - other).abs().max()) for other in right) < 1e-5 for one in answers)
    assert min(float((right[0] - other).abs().max()) for other in right[1:]) > 1e-3


def test_generation_is_one_call(tree: Tree) -> None:
    model = tree.load()
    first, second = tree.references
    with AdapterPool(model, tree.registry) as pool:
        pool.merge(first)
        alone = model.generate(IDS, max_new_tokens=12, do_sample=False, pad_token_id=0)
        merging: list[threading.Thread] = []

        def begin(*_: Any) -> None:
            if not merging:
                merging.append(threading.Thread(target=pool.merge, args=(second,)))
                merging[0].start()

        hook = model.model.layers[0].register_forward_pre_hook(begin)
        assert torch.equal(model.generate(IDS, max_new_tokens=12, do_sample=False, pad_token_id=0), alone)
        hook.remove()
        merging[0].join()
        assert pool.path == second


def test_a_merge_from_inside_a_call_is_refused(tree: Tree) -> None:
    model = tree.load()
    with AdapterPool(model, tree.registry) as pool:
        for change in (lambda: pool.merge(tree.references[0]), pool.unmerge, lambda: pool.merged("x").__enter__()):
            hook = model.model.layers[0].register_forward_pre_hook(lambda *_, change=change: change())
            with pytest.raises(UsageError, match="from inside a call"):
                model(IDS)
            hook.remove()
        assert pool.merge(tree.references[0])


def test_a_block_keeps_the_merges_of_other_threads_out(tree: Tree) -> None:
    model = tree.load()
    first, second = tree.references
    with AdapterPool(model, tree.registry) as pool:
        with pool.merged(first):
            merging = threading.Thread(target=pool.merge, args=(second,))
            merging.start()
            merging.join(0.2)
            assert merging.is_alive()
            assert bits(model) == tree.bits(first)
        merging.join()
        assert pool.path == second


def test_copies_of_the_model_are_free_of_the_pool(tree: Tree) -> None:
    model = tree.load()
    first = tree.references[0]
    with AdapterPool(model, tree.registry) as pool:
        assert "input_ids" in inspect.signature(model.forward).parameters
        pool.merge(first)
        twins = [copy.deepcopy(model), pickle.loads(pickle.dumps(model))]
        pool.unmerge()
        for twin in twins:
            assert not any(isinstance(one, Guarded) for one in vars(twin).values())
            assert twin.forward.__self__ is twin
            assert bits(twin) == tree.bits(first)
        with pytest.raises(UsageError, match="Another pool"):
            AdapterPool(model, tree.registry)
    assert not any(isinstance(one, Guarded) for one in vars(model).values())
    AdapterPool(model, tree.registry).close()
