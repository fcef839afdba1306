"""Switches in any order, and what they leave alone."""

from __future__ import annotations

import random

import pytest
import torch

from registry.errors import IntegrityError, NotFoundError, RetractedError
from registry.pool import AdapterPool
from tests.kit.shelf import Shelf
from tests.pool.trees import Tree, bits

VARIANTS = ["head", "embedding", "kept", "tokens", "dora head", "plain", "new embedding", "both"]


@pytest.fixture(scope="module")
def tree(shelf: Shelf) -> Tree:
    found = Tree(shelf, "tied llama", torch.bfloat16)
    found.grow(["plain", "dora embedding", *VARIANTS], random.Random(3))
    return found


@pytest.mark.parametrize("count", [40, pytest.param(1000, marks=pytest.mark.long)])
def test_random_switches(tree: Tree, count: int) -> None:
    chance = random.Random(count)
    model = tree.load()
    with AdapterPool(model, tree.registry, memory="8kB") as pool:
        for _ in range(count):
            reference = chance.choice([None, *tree.references])
            if reference is None:
                pool.unmerge()
            else:
                pool.merge(reference)
            assert bits(model) == tree.bits(reference)
    assert bits(model) == tree.bits(None)
    assert model.lm_head.weight is model.model.embed_tokens.weight


def test_what_no_link_below_the_common_ancestor_touches_is_not_written(tree: Tree) -> None:
    above = tree.publish("plain")  # q_proj and v_proj
    one, other = tree.publish("embedding", above), tree.publish("head", above)
    model = tree.load()
    with AdapterPool(model, tree.registry) as pool:
        pool.merge(one)
        before = {name: tensor._version for name, tensor in model.named_parameters()}
        pool.merge(other)
        written = {name for name, tensor in model.named_parameters() if tensor._version != before.get(name)}
        # the head has a parameter of its own while the path parts the tie; q_proj has a pair of its own in `head`
        assert {name for name in written if "q_proj" not in name} == {"model.embed_tokens.weight", "lm_head.weight"}
        assert bits(model) == tree.bits(other)


def test_blocks_go_back_to_what_was_merged_before(tree: Tree) -> None:
    model = tree.load()
    first, second = tree.references[:2]
    with AdapterPool(model, tree.registry) as pool:
        with pool.merged(first):
            with pool.merged(second) as inner:
                assert (pool.path, inner) == (second, second)
            assert bits(model) == tree.bits(first)
            with pool.merged(tree.name):  # the base model alone
                assert bits(model) == tree.bits(None)
        assert pool.path is None
        with pytest.raises(ZeroDivisionError), pool.merged(first):
            1 / 0  # noqa: B018
        assert bits(model) == tree.bits(None)


def test_tags_are_resolved_and_retracted_paths_refused_when_they_are_asked_for(tree: Tree) -> None:
    one, other = tree.publish("plain"), tree.publish("head")
    model = tree.load()
    path = one.partition("@")[0]
    with AdapterPool(model, tree.registry) as pool:
        tree.registry.tag(one, "prod")
        assert pool.merge(f"{path}@prod") == one
        pool.merge(other)
        tree.registry.retract(one, reason="a test")
        tree.references.remove(one)  # other tests draw from them
        with pytest.raises(RetractedError):
            pool.merge(f"{path}@prod")
        with pytest.raises(NotFoundError):
            pool.merge(f"{tree.name}/nothing")
        assert pool.path == other
        assert bits(model) == tree.bits(other)


def test_a_path_of_another_base_is_refused(shelf: Shelf, tree: Tree) -> None:
    other = Tree(shelf, "llama")
    foreign = other.publish("plain")
    with (
        AdapterPool(tree.load(), tree.registry) as pool,
        pytest.raises(IntegrityError, match="belongs to the base") as e,
    ):
        pool.merge(foreign)
    assert e.value.code == "wrong_base"


def test_uses_are_counted(tree: Tree) -> None:
    reference = tree.publish("plain")
    with AdapterPool(tree.load(), tree.registry) as pool:
        pool.merge(reference)
    uses = tree.registry.deployment.uses
    assert uses is not None
    uses.write()
    assert tree.registry.show(reference).use
