"""What is in the slots of a compiled model: what was chosen last, whatever was there before."""

from __future__ import annotations

import logging
import random
import threading

import pytest
import torch

from registry.errors import UsageError
from registry.pool import AdapterPool
from tests.kit.bases import plain_base
from tests.kit.recipes import Recipe
from tests.kit.shelf import Shelf
from tests.pool.compiled.pools import SHAPES, Models, Pair, X, graphs

CLOSE = 1e-5  # of the largest output
RECIPES = [
    Recipe(("one", "two"), r=4),
    Recipe(("two",), r=64, alpha=64),
    Recipe(("one", "head"), r=3, dora=True, bias="lora_only"),
    Recipe(("two",), replaced=("head",)),
]


@pytest.fixture(scope="module")
def models(shelf: Shelf) -> Models:
    return Models(shelf, "net", lambda folder, **options: plain_base(folder, SHAPES, **options))


@pytest.fixture(scope="module")
def references(models: Models) -> list[str]:
    return [models.publish(recipe) for recipe in RECIPES]


@pytest.mark.slow
def test_slots_hold_what_was_chosen_last_however_they_were_used_before(models: Models, references: list[str]) -> None:
    with models.pair(paths=2) as pair:
        chance = random.Random(2)
        for _ in range(20):
            two = chance.sample([None, *references], 2)
            assert pair.differ([two[0], two[1], two[0]], X) < CLOSE
        with pytest.raises(UsageError, match=r"3 paths.*compile with `paths=3`"):
            pair.differ(references[:3], X)


@pytest.mark.slow
def test_a_slot_that_a_call_needs_is_waited_for(models: Models, references: list[str]) -> None:
    inside, go_on = threading.Event(), threading.Event()
    with models.pair(paths=1) as pair:
        for reference in references[:2]:
            assert pair.differ(reference, X) < CLOSE
        forward = pair.pool._gate.instead["forward"]
        one = forward._one  # type: ignore[attr-defined]

        def slow(*args: torch.Tensor) -> torch.Tensor:
            inside.set()
            assert go_on.wait(60)
            found: torch.Tensor = one(*args)
            return found

        apart: list[float] = []
        first, second = (
            threading.Thread(target=lambda ref=ref: apart.append(differ(pair, ref))) for ref in references[:2]
        )
        forward._one = slow  # type: ignore[attr-defined]
        first.start()
        assert inside.wait(60)
        forward._one = one  # type: ignore[attr-defined]
        second.start()
        second.join(0.2)
        assert second.is_alive()
        go_on.set()
        first.join()
        second.join()
    assert len(apart) == 2
    assert max(apart) < CLOSE


def differ(pair: Pair, reference: str) -> float:
    with torch.no_grad():
        return pair.differ(reference, X)


@pytest.mark.slow
def test_rows_that_a_module_does_not_have_are_told_where_a_path_needs_them(
    models: Models, references: list[str]
) -> None:
    side = models.publish(Recipe(("side", "one"), r=2))
    with models.pair() as pair:
        for refs in (side, [references[0], None, references[3]], [side, side, side]):
            assert pair.differ(refs, X) < CLOSE
        with pytest.raises(UsageError, match=r"'side'.*rows of the batch are not known"):
            pair.differ([side, None, None], X)


def said(caplog: pytest.LogCaptureFixture) -> str:
    """What the pool has said since it was asked last; dynamo says much, too."""
    found = [one.getMessage() for one in caplog.records if one.name.startswith("registry.pool")]
    caplog.clear()
    return "".join(found)


@pytest.mark.long
def test_what_a_path_needs_beyond_its_slots_is_said_and_compiles_once(
    models: Models, references: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    norm = models.publish(Recipe(("two",), r=4, replaced=("norm",)))
    low, high = references[0], references[1]
    with models.pair(max_rank=16, paths=3) as pair, caplog.at_level(logging.WARNING, "registry.pool"):
        assert pair.differ(low, X) < CLOSE
        for reference, words in ((high, "a rank of 64 in two"), (norm, "a whole weight and bias in norm")):
            before = graphs()
            assert pair.differ(reference, X) < CLOSE
            assert graphs() == before + 1
            assert words in said(caplog)
            for again in (low, reference, high, low, reference):
                assert pair.differ(again, X) < CLOSE
            assert graphs() == before + 1
        assert pair.differ([low, norm, high], X) < CLOSE
        assert said(caplog) == ""


def test_slots_take_no_more_than_the_pools_memory(models: Models, references: list[str]) -> None:
    model = models.load()
    with AdapterPool(model, models.shelf.registry, memory="12kB") as pool, torch.no_grad():
        before = model(X)
        with pytest.raises(UsageError, match=r"would take .* give it more `memory`") as error:
            pool.compile(backend="eager")
        assert "max_rank" in str(error.value)
        assert torch.equal(model(X), before)
        with pytest.raises(UsageError, match="'nothing'"):
            pool.compile(modules=["nothing"], max_rank=1, backend="eager")
        pool.compile(max_rank=8, paths=2, modules=["one", "two"], backend="eager")
        assert 0 < pool.stats().slot_bytes < 10_000
        with pool.use(references[0]):
            assert not torch.equal(model(X), before)
        with pool.use(references[1]), pytest.raises(UsageError, match="memory"):  # of rank 64
            model(X)
        with pool.use(references[0]):
            model(X)


def test_a_closed_pool_leaves_a_model_as_it_was(models: Models, references: list[str]) -> None:
    model = models.load()
    with torch.no_grad():
        before = model(X)
        with AdapterPool(model, models.shelf.registry) as pool:
            pool.compile(backend="eager")
            pool.compile(max_rank=4, backend="eager")  # in the place of the first
            with pool.use(references[0]):
                model(X)
        compiled = graphs()
        assert torch.equal(model(X), before)
        assert graphs() == compiled
    assert not any("forward" in vars(module) for module in model.modules())
