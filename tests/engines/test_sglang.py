"""The rules of SGLang against a reading of its loader: SGLang itself imports only where its kernels are.

`loader` says what ``sglang/srt/lora`` 0.5.23 does with names: ``lora_manager.py`` (validate_new_adapter), ``lora.py``
(normalize_qkv_proj, normalize_gate_up_proj, normalize_fused_qkv_a_proj: what is stacked is taken from the layer's
weights by name), ``utils.py`` (get_normalized_target_modules, get_target_module_name, get_default_hidden_dim, which
has no out_proj) and ``mem_pool.py`` (load_lora_weight_to_buffer: the shape is asserted, what belongs to no pair is
left out, and a name that no target module is part of raises).
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from registry.engines.rules import ENGINES
from tests.kit.recipes import Recipe, write_recipes
from tests.kit.shelf import Shelf
from tests.kit.tensor_files import parse_tensors
from tests.kit.variants import MAKERS, VARIANTS

STACKED: Final = {"q_proj": "qkv_proj", "k_proj": "qkv_proj", "v_proj": "qkv_proj", "gate_proj": "gate_up_proj"}
STACKED_TOO: Final = {"up_proj": "gate_up_proj"}
KNOWN: Final = {"qkv_proj", "o_proj", "gate_up_proj", "down_proj", "embed_tokens", "lm_head"}
PARTS: Final = (".lora_A.weight", ".lora_B.weight", ".lora_embedding_A", ".lora_embedding_B")
MORE: Final = {
    "keys only": Recipe(("k_proj",)),
    "queries and keys": Recipe(("q_proj", "k_proj")),
    "values only": Recipe(("v_proj",)),
    "all of attention": Recipe(("q_proj", "k_proj", "v_proj", "o_proj"), r=3, rank_pattern={"v_proj": 1}),
    "gate only": Recipe(("gate_proj",)),
    "up only": Recipe(("up_proj",)),
    "gate and up": Recipe(("gate_proj", "up_proj"), r=4, rank_pattern={"up_proj": 2}),
    "embedding only": Recipe(("embed_tokens",)),
}


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shelf]:
    made = Shelf(tmp_path_factory.mktemp("shelf"))
    yield made
    made.close()


def loader(folder: Path) -> str:
    """Why the adapter is refused or comes out wrong; empty: it is served as it is."""
    config: dict[str, Any] = json.loads((folder / "adapter_config.json").read_text())
    tensors = parse_tensors((folder / "adapter_model.safetensors").read_bytes())
    if config["use_dora"]:
        return "doesn't support DoRA adapters"
    if isinstance(config["target_modules"], str):
        return "Only 'all' or 'all-linear' can be used as the string"
    if not all(name.endswith(PARTS) for name in tensors):
        return "left out"
    names = {name.removesuffix(part) for name in tensors for part in PARTS if name.endswith(part)}
    for name in names:
        parent, _, leaf = name.rpartition(".")
        if "experts" in name or len(tensors.get(f"{name}.lora_A.weight", tensors[next(iter(tensors))]).shape) > 2:
            return "no buffer of this shape"
        if {**STACKED, **STACKED_TOO}.get(leaf, leaf) not in KNOWN:
            return "unknown target module"
        beside = {other.rpartition(".")[2] for other in names if other.rpartition(".")[0] == parent}
        stacks = ("q_proj" in beside and "v_proj" in beside) or not beside & {"q_proj", "k_proj", "v_proj"}
        if not stacks or ("up_proj" in beside and "gate_proj" not in beside):
            return "KeyError, or no target module for what was not stacked"
        a = tensors.get(f"{name}.lora_A.weight")
        if a is not None and a.shape[0] != config["r"]:
            return "LoRA buffer shape does not match weight shape"
    return ""


def _cases() -> list[tuple[str, str, Recipe]]:
    kinds = ("llama", "opt", "gpt2", "mixtral", "conv")
    own = [("opt", "projection", Recipe(("q_proj", "v_proj", "out_proj")))]
    found = own + [(kind, name, recipe) for kind in kinds for name, recipe in VARIANTS[kind].items()]
    return [*found, *(("llama", name, recipe) for name, recipe in MORE.items())]


@pytest.mark.slow
def test_check_says_what_the_loader_does(shelf: Shelf) -> None:
    answers = set()
    for kind, name, recipe in _cases():
        base = shelf.base(kind, MAKERS[kind])
        path = write_recipes(shelf.folder(), base, [dataclasses.replace(recipe, seed=5, copies=False)])
        reference = shelf.path(kind, path)
        found = shelf.registry.check(reference, engine="sglang")
        folder = shelf.composed(reference, uniform=ENGINES["sglang"].uniform)
        assert found.loads == (loader(folder) == ""), (kind, name, loader(folder), found.reasons)
        answers |= {reason.code for reason in found.reasons} or {"loads"}
    assert {"loads", "dora", "replaced", "biases", "tokens", "embeddings", "together", "experts", "modules"} <= answers
