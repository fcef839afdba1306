"""Compiled models of other kinds: heads that the base lacks, convolutions, experts, models of two parts."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from registry.errors import UsageError
from registry.pool import AdapterPool
from tests.kit.shelf import Shelf
from tests.pool.compiled.pools import graphs
from tests.pool.per_call.kinds import KINDS, Standing, away
from tests.pool.per_call.test_lists import MIXED
from tests.pool.per_call.test_values import ids_of, outputs
from tests.pool.trees import Tree

CLOSE = 1e-5

Refs = str | list[str | None] | None


class Sides:
    """A model that is compiled, and the same as it is."""

    def __init__(self, compiled: AdapterPool, model: Any, plain: AdapterPool, eager: Any) -> None:
        self.compiled, self.model, self.plain, self.eager = compiled, model, plain, eager
        compiled.compile(max_rank=16, paths=4, backend="eager")

    def differ(self, refs: Refs, batch: dict[str, torch.Tensor]) -> float:
        """By how much their outputs differ, as a part of the largest."""
        with self.compiled.use(refs):
            found = self.model(**batch)
        with self.plain.use(refs):
            right = self.eager(**batch)
        return away(found.logits, right.logits) if hasattr(found, "logits") else away(found, right)


@pytest.mark.long
@pytest.mark.parametrize("name", KINDS)
def test_models_of_transformers(shelf: Shelf, name: str) -> None:
    standing = Standing(shelf, name)
    model = standing.load()
    batch = standing.inputs(4)
    with AdapterPool(model, shelf.registry, base=standing.name) as pool, torch.no_grad():
        sides = Sides(pool, model, standing.pool, standing.model)
        lists: list[Refs] = [[*standing.references, None]]
        for refs in (None, *standing.references, *([] if name == "qwen2_moe" else lists)):
            assert sides.differ(refs, batch) < CLOSE
        before = graphs()
        for refs in (*standing.references[::-1], *([] if name == "qwen2_moe" else lists)):
            assert sides.differ(refs, batch) < CLOSE
        assert graphs() == before
    standing.pool.close()


@pytest.mark.long
@pytest.mark.parametrize("kind", [kind for kind in MIXED if kind not in ("mixtral", "gpt_oss")])
def test_variants(shelf: Shelf, kind: str) -> None:
    tree = Tree(shelf, kind)
    references = [tree.publish(variant) for variant in MIXED[kind]][:4]
    model, eager = tree.load(), tree.load()
    with AdapterPool(model, tree.registry) as pool, AdapterPool(eager, tree.registry) as plain, torch.no_grad():
        pool.compile(max_rank=16, paths=5, backend="eager")
        ids = ids_of(kind, len(references) + 1)
        for refs in (None, *references, [*references, None]):
            with pool.use(refs):
                found = outputs(model, ids)
            with plain.use(refs):
                assert away(found, outputs(eager, ids)) < CLOSE


@pytest.mark.long
def test_rows_that_are_not_found_are_told_where_a_path_needs_them(shelf: Shelf) -> None:
    tree = Tree(shelf, "mixtral")
    fused, attention = tree.publish("fused"), tree.publish("attention")
    model, eager = tree.load(), tree.load()
    ids = ids_of("mixtral", 2)
    with AdapterPool(model, tree.registry) as pool, AdapterPool(eager, tree.registry) as plain, torch.no_grad():
        pool.compile(max_rank=16, backend="eager")
        for refs in (fused, attention, [attention, None]):
            with pool.use(refs):
                found = outputs(model, ids)
            with plain.use(refs):
                assert away(found, outputs(eager, ids)) < CLOSE
        with pool.use([attention, fused]), pytest.raises(UsageError, match=r"mlp\.experts.*rows of the batch"):
            model(ids)
