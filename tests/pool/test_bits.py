"""A merged model is the merged artifact, and an unmerged one the base: every tensor, bit for bit."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from registry.errors import InvalidAdapterError
from registry.pool import AdapterPool
from tests.kit.laid_models import LAID_MODELS, laid_base, load_laid
from tests.kit.peers import wrap
from tests.kit.shelf import Shelf
from tests.kit.variants import VARIANTS
from tests.pool.trees import DTYPES, Tree, bits

QUICK = {
    "llama": (torch.bfloat16, ["dora", "new linear", "other tokens", "patterns"]),
    "tied llama": (torch.float32, ["head", "embedding", "kept", "tokens"]),
    "gpt2": (torch.float16, ["dora positions", "lora bias", "biases"]),
    "mixtral": (torch.bfloat16, ["fused", "each expert"]),
    "conv": (torch.float32, ["dora", "new conv"]),
}


def check(tree: Tree, references: list[str], **options: Any) -> None:
    model = tree.load()
    with AdapterPool(model, tree.registry, **options) as pool:
        for reference in references:
            assert pool.merge(reference) == pool.path == reference
            assert bits(model) == tree.bits(reference), reference
        pool.unmerge()
        assert bits(model) == tree.bits(None)
        assert pool.path is None


@pytest.mark.parametrize("kind", QUICK)
def test_each_path_after_the_other(shelf: Shelf, kind: str) -> None:
    dtype, variants = QUICK[kind]
    tree = Tree(shelf, kind, dtype)
    first = tree.publish(variants[0])
    others = [tree.publish(variant, first) for variant in variants[1:]]
    deepest = tree.publish(variants[0], others[-1])
    check(tree, [first, *others, deepest, first, deepest])


@pytest.mark.long_but("llama", "gpt2", "conv", "mixtral", "gpt_oss")
@pytest.mark.slow
@pytest.mark.long_on("torch.float16", "torch.float32")
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", VARIANTS)
def test_every_variant(shelf: Shelf, kind: str, dtype: torch.dtype) -> None:
    if (kind, dtype) == ("gpt_oss", torch.float16):
        pytest.skip("transformers keeps its norms in float32: no artifact has both dtypes")
    tree = Tree(shelf, kind, dtype)
    check(tree, [tree.publish(variant) for variant in VARIANTS[kind]])


@pytest.mark.parametrize("stored", ["BF16", "F16"])
def test_files_in_16_bits_under_a_model_in_another_dtype(shelf: Shelf, stored: str) -> None:
    tree = Tree(shelf, "tied llama", torch.bfloat16 if stored == "F16" else torch.float32, stored)
    check(tree, [tree.publish("head"), tree.publish("dora embedding")])


@pytest.mark.parametrize("memory", [0, "3kB"])
def test_rows_that_were_not_kept_are_read_again(shelf: Shelf, memory: str | int) -> None:
    tree = Tree(shelf, "tied llama")
    check(tree, [tree.publish("head"), tree.publish("plain")], memory=memory)


@pytest.mark.parametrize("model_type", ["nomic_bert", pytest.param("kimi_k25", marks=pytest.mark.slow)])
def test_rows_that_a_loader_cuts_and_reorders(shelf: Shelf, model_type: str) -> None:
    """The parameters are cut out of one tensor of the file, and share its storage."""
    folder, adapter, out = shelf.folder(), shelf.folder(), shelf.folder()
    name = model_type.replace("_", "-")
    laid_base(folder, model_type)
    shelf.registry.add_base(name, folder)
    targets = [one.rpartition(".")[2] for one in LAID_MODELS[model_type].modules]
    wrap(adapter, load_laid(folder, model_type), target_modules=targets, use_dora=True)
    reference = shelf.path(name, [adapter])
    shelf.registry.fetch(reference, out, kind="merged", dtype="bf16")
    model = load_laid(folder, model_type, torch.bfloat16)
    before = bits(model)
    with AdapterPool(model, shelf.registry) as pool:
        for _ in range(2):
            pool.merge(reference)
            assert bits(model) == bits(load_laid(out, model_type, torch.bfloat16))
            pool.unmerge()
            assert bits(model) == before


@pytest.mark.long
@given(seed=st.integers(0, 10_000), kind=st.sampled_from(sorted(VARIANTS)), dtype=st.sampled_from(list(DTYPES)))
@settings(max_examples=25, deadline=None)
def test_random_trees(shelf: Shelf, seed: int, kind: str, dtype: torch.dtype) -> None:
    if (kind, dtype) == ("gpt_oss", torch.float16):
        return
    chance = random.Random(seed)
    tree = Tree(shelf, kind, dtype)
    for variant in chance.choices(list(VARIANTS[kind]), k=5):
        try:
            tree.publish(variant, chance.choice([None, *tree.references]))
        except InvalidAdapterError:  # two variants that no path holds together
            continue
    check(tree, chance.choices(tree.references, k=8), memory=chance.choice([0, 2000, 1 << 20]))
