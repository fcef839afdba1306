"""A compiled model: switches compile nothing, and its outputs are those of the model as it is."""

from __future__ import annotations

import random
import shutil
import threading
from collections.abc import Iterator

import pytest
import torch

from registry.errors import UsageError
from tests.kit.bases import llama_base
from tests.kit.recipes import Recipe
from tests.kit.shelf import Shelf
from tests.pool.compiled.pools import IDS, Models, Pair, graphs

CLOSE = 1e-5  # of the largest output
RECIPES = [
    Recipe(("q_proj", "v_proj"), r=4),
    Recipe(("down_proj",), r=64, alpha=64),
    Recipe(("k_proj", "up_proj", "o_proj"), r=17, rslora=True),
    Recipe(("q_proj", "down_proj"), r=8, dora=True),
    Recipe(("embed_tokens", "v_proj"), r=32),
    Recipe(("lm_head", "gate_proj"), r=5),
    Recipe(("q_proj",), r=48, tokens={"embed_tokens": (1, 5)}),
    Recipe(("v_proj",), replaced=("lm_head",)),
    Recipe(("up_proj",), r=6, tokens={"lm_head": (3, 9)}),
]


@pytest.fixture(scope="module")
def models(shelf: Shelf) -> Models:
    return Models(shelf, "llama", lambda folder, **options: llama_base(folder, layers=1, **options))


@pytest.fixture(scope="module")
def references(models: Models) -> list[str]:
    return [models.publish(recipe) for recipe in RECIPES]


@pytest.fixture(scope="module")
def warm(models: Models, references: list[str]) -> Iterator[Pair]:
    """A compiled model that has run the base, a path, and a list."""
    with models.pair(paths=6) as found:
        for refs in (None, references[0], [references[0], None, references[1]]):
            assert found.differ(refs) < CLOSE
        yield found


@pytest.mark.slow
def test_switches_compile_nothing_and_equal_the_model_as_it_is(warm: Pair, references: list[str]) -> None:
    chance = random.Random(1)
    with torch._dynamo.config.patch(error_on_recompile=True):
        before = graphs()
        for reference in (*references, *references[:3]):  # more than there are slots, and some once more
            assert warm.differ(reference) < CLOSE
            assert warm.changes(reference) > 100 * CLOSE
        for _ in range(6):
            assert warm.differ([chance.choice([None, *references]) for _ in IDS]) < CLOSE
        assert warm.differ(None) == 0
        assert graphs() == before


@pytest.mark.slow
def test_merged_switches_compile_nothing(warm: Pair, references: list[str]) -> None:
    with torch._dynamo.config.patch(error_on_recompile=True):
        for reference in (*references, *references[:3]):
            assert warm.merged(reference) < CLOSE
        with pytest.raises(UsageError, match="merged"):
            warm.pool.use(references[0]).__enter__()
        warm.unmerge()
        assert warm.differ(references[0]) < CLOSE


@pytest.mark.slow
def test_threads_run_their_own_paths(warm: Pair, references: list[str]) -> None:
    right, apart = {}, []
    for reference in references:
        with warm.plain.use(reference):
            right[reference] = warm.eager(IDS).logits

    def ask(reference: str) -> None:
        with torch.no_grad():
            for _ in range(8):
                with warm.pool.use(reference):
                    apart.append(float((warm.model(IDS).logits - right[reference]).abs().max()))

    threads = [threading.Thread(target=ask, args=(one,)) for one in references]  # more than there are slots
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(apart) == 8 * len(references)
    assert max(apart) < CLOSE
    assert max(float((one - right[references[0]]).abs().max()) for one in list(right.values())[1:]) > 1e-3


@pytest.mark.long
@pytest.mark.slow
def test_a_generation_with_beams_runs_one_path_a_row(warm: Pair, references: list[str]) -> None:
    refs = [references[3], None, references[5]]
    options = {"max_new_tokens": 4, "do_sample": False, "pad_token_id": 0, "num_beams": 2}
    with warm.pool.use(refs):
        found = warm.model.generate(IDS, **options)
    with warm.plain.use(refs):
        right = warm.eager.generate(IDS, **options)
    assert torch.equal(found, right)


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch, when it loads inductor
@pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs a C++ compiler")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_inductor_makes_of_it(models: Models, references: list[str], dtype: torch.dtype) -> None:
    other = Models(models.shelf, models.name, llama_base, dtype)
    bound = CLOSE if dtype is torch.float32 else 0.02
    with other.pair(paths=6, backend="inductor") as pair:
        lists = [[references[3], None, references[6]], [references[7], references[4], None]]
        for refs in (None, references[0], lists[0]):
            assert pair.differ(refs) < bound
        with torch._dynamo.config.patch(error_on_recompile=True):
            for one in (*references, *lists):
                assert pair.differ(one) < bound
            for reference in references:
                assert pair.merged(reference) < bound
            pair.unmerge()
