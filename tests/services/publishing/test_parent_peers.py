"""Folders that PEFT merged and transformers saved are recognised, whatever the parent is made of."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from registry.errors import ConflictError
from tests.kit import Base, gpt2_base, llama_base, write_adapter
from tests.kit.peers import peft_merge, save_model
from tests.kit.recipes import Recipe, write_recipe
from tests.kit.shelf import Shelf

LINEAR = Recipe(("q_proj", "v_proj"), scale=0.3)
RECIPES = {
    "linear": LINEAR,
    "dora": Recipe(("q_proj", "up_proj"), dora=True, scale=0.3),
    "dora-embedding": Recipe(("embed_tokens", "q_proj"), dora=True, scale=0.3),
    "tokens": Recipe(("q_proj",), tokens={"embed_tokens": (3, 17)}),
    "head": Recipe(("q_proj",), replaced=("lm_head",)),
    "rslora": Recipe(("down_proj",), rslora=True, scale=0.3),
}


def _folder(shelf: Shelf, base: Base, path: Sequence[Path], merged_in: torch.dtype, **options: Any) -> Path:
    folder = shelf.folder()
    peft_merge(base.folder, path, merged_in).save_pretrained(folder, **options)
    return folder


def _child(shelf: Shelf, base: Base, folder: Path, targets: Sequence[str] = ("q_proj",)) -> Path:
    return write_adapter(shelf.folder(), base, targets, r=2, config={"base_model_name_or_path": str(folder)})


def _known(shelf: Shelf, child: Path, path: str) -> tuple[str, str]:
    revision = shelf.registry.publish(child, path).revision
    return revision.parent, revision.parent_known_by


def _check(shelf: Shelf, name: str, base: Base, recipes: Sequence[Recipe], merged_in: torch.dtype) -> None:
    adapters = [write_recipe(shelf.folder(), base, recipe) for recipe in recipes]
    references = shelf.publish(name, adapters)
    for number, reference in enumerate(references, 1):
        above = reference.partition("@")[0]
        child = _child(shelf, base, _folder(shelf, base, adapters[:number], merged_in))
        assert _known(shelf, child, f"{above}/child") == (reference, "compared")
        if number > 1:
            with pytest.raises(ConflictError) as refused:
                shelf.registry.publish(child, f"{references[0].partition('@')[0]}/child")
            assert refused.value.code in {"parent_mismatch", "parent_unproven"}


def test_a_path_that_peft_merged_step_by_step_in_bfloat16(shelf: Shelf) -> None:
    base = shelf.base("llama-bf16", llama_base, dtype="BF16")
    _check(shelf, "llama-bf16", base, [LINEAR, RECIPES["tokens"]], torch.bfloat16)


def test_a_dora_that_was_merged_step_by_step(shelf: Shelf) -> None:
    """PEFT rounds a DoRA once, after its rescaling, by the norms of what was rounded before."""
    base = shelf.base("llama-bf16", llama_base, dtype="BF16")
    _check(shelf, "llama-bf16", base, [LINEAR, RECIPES["dora"]], torch.bfloat16)


@pytest.mark.long_but(
    "linear-BF16-merged_in1", "dora-BF16-merged_in0", "tokens-BF16-merged_in1", "head-BF16-merged_in0"
)
@pytest.mark.slow
@pytest.mark.parametrize(
    "merged_in", [torch.float32, torch.bfloat16, pytest.param(torch.float16, marks=pytest.mark.long)]
)
@pytest.mark.parametrize("dtype", [pytest.param("F32", marks=pytest.mark.long), "BF16"])
@pytest.mark.parametrize("kind", RECIPES)
def test_parents_of_every_kind(shelf: Shelf, kind: str, dtype: str, merged_in: torch.dtype) -> None:
    name = f"llama-{dtype.lower()}"
    base = shelf.base(name, llama_base, dtype=dtype)
    _check(shelf, name, base, [LINEAR, RECIPES[kind]], merged_in)


@pytest.mark.slow
def test_sharded_folders_and_tied_bases(shelf: Shelf) -> None:
    for name, make, targets in (("tied", llama_base, ("q_proj",)), ("gpt2", gpt2_base, ("c_attn",))):
        base = shelf.base(name, make, **({"tied": True} if make is llama_base else {"hub_names": True}))
        adapters = [write_adapter(shelf.folder(), base, targets, r=2, seed=seed, size=0.05) for seed in (1, 2)]
        for adapter in adapters:
            shelf.registry.publish(adapter, f"{name}/one")
        folder = _folder(shelf, base, adapters[1:], torch.float32, max_shard_size="4KB")
        assert len(list(folder.glob("*.safetensors"))) > 1
        assert _known(shelf, _child(shelf, base, folder, targets), f"{name}/one/child") == (f"{name}/one@2", "compared")
        again = save_model(shelf.folder(), base.folder)
        assert _known(shelf, _child(shelf, base, again, targets), f"{name}/two") == (name, "named")


def test_peft_rounds_sums_and_not_deltas(shelf: Shelf) -> None:
    """So the bits of its merges show the order of the links, which those of another way of rounding would blur."""
    base = shelf.base("llama-sums", llama_base, dtype="BF16", hidden=64, mlp=96)
    adapters = [write_adapter(shelf.folder(), base, ["up_proj"], r=4, seed=seed, size=0.5) for seed in (1, 2)]
    (one, both) = shelf.publish("llama-sums", adapters)
    for path in (adapters, adapters[::-1]):
        found = shelf.registry.identify(_folder(shelf, base, path, torch.bfloat16))
        names = (one, both) if path is adapters else (both, one)
        assert names == (found.merged[0].links if path is adapters else found.unknown_order)
        assert path is not adapters or found.merged[0].order_shows
