"""Recipes and reference are right: PEFT loads every folder without a missing key, and merges to the same weights."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.kit import Base, read_model
from tests.kit.peers import load_model, logits, peft_load, peft_merge, save_model, with_weights
from tests.kit.recipes import write_recipe, write_recipes
from tests.kit.variants import MAKERS, VARIANTS

TRANSFORMERS = ["opt", "mixtral", "gpt_oss"]

POINTWISE_3D = {("conv", "plain"), ("conv", "dora"), ("conv", "some")}
"""Recipes with a Conv3d of kernel 1, which PEFT 0.21.2 can't merge; they are tried without it."""

NOT_IN_PEFT = {
    ("attention", "fixed peft"): "is of a PEFT that doesn't apply out_proj twice",
    ("mixtral", "one of each"): "PEFT loads w1 and w3 together only",
}


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Base]:
    root = tmp_path_factory.mktemp("bases")
    return {kind: make(root / kind) for kind, make in MAKERS.items()}


@pytest.mark.parametrize("kind", TRANSFORMERS)
def test_transformers_writes_the_same_base(bases: dict[str, Base], kind: str, tmp_path: Path) -> None:
    folder = bases[kind].folder
    save_model(tmp_path, folder)
    assert read_model(tmp_path) == read_model(folder)


@pytest.mark.parametrize("kind", sorted(MAKERS))
def test_layout_has_the_parameters_of_the_model(bases: dict[str, Base], kind: str) -> None:
    base = bases[kind]
    state, views = load_model(base.folder).state_dict(), base.simulate([]).state.views
    assert sorted(state) == sorted(views)
    for name, one in state.items():
        assert np.array_equal(one.double().numpy(), views[name].values), name


def _cases() -> list[tuple[str, str]]:
    found = [(kind, name) for kind, recipes in VARIANTS.items() for name in recipes if kind != "tied llama"]
    return [one for one in found if one not in NOT_IN_PEFT]


@pytest.mark.long_but(
    "llama-plain",
    "llama-dora",
    "llama-dora embedding",
    "llama-tokens",
    "llama-new head",
    "gpt2-plain",
    "gpt2-lora bias",
    "opt-dora",
    "conv-dora of some",
    "conv-lora bias",
    "attention-old peft",
    "attention-ranks",
    "mixtral-each expert",
    "gpt_oss-fused",
    "gpt_oss-attention",
    "declared-linear",
)
@pytest.mark.slow
@pytest.mark.parametrize(("kind", "name"), _cases())
def test_peft_merges_to_the_reference(bases: dict[str, Base], kind: str, name: str, tmp_path: Path) -> None:
    base, recipe = bases[kind], VARIANTS[kind][name]
    if (kind, name) in POINTWISE_3D:
        recipe = dataclasses.replace(recipe, targets=tuple(one for one in recipe.targets if one != "c3p"))
    path = write_recipes(tmp_path, base, [dataclasses.replace(recipe, seed=5, copies=False)])
    model = peft_load(base.folder, path)
    trained = logits(model)
    merged = peft_merge(base.folder, path)
    views = base.simulate(path).state.views
    for parameter, one in merged.state_dict().items():
        assert np.abs(one.double().numpy() - views[parameter].values).max() < 1e-5, parameter
    ours = with_weights(load_model(base.folder), {key: view.values for key, view in views.items()})
    assert torch.allclose(trained, logits(ours), atol=1e-4)
    assert any(view.touched.any() for view in views.values())


def _untied(base: Base, root: Path, values: dict[str, np.ndarray]) -> object:
    untied = MAKERS["llama"](root)
    return with_weights(load_model(untied.folder), values)


@pytest.mark.parametrize("name", sorted(VARIANTS["tied llama"]))
def test_ties_by_what_was_trained(bases: dict[str, Base], name: str, tmp_path: Path) -> None:
    """The judge of ties is the forward pass of the wrapped model; PEFT's merge is not (see `test_variant_peers`)."""
    base, recipe = bases["tied llama"], VARIANTS["tied llama"][name]
    path = [write_recipe(tmp_path / "adapter", base, dataclasses.replace(recipe, seed=5))]
    trained = logits(peft_load(base.folder, path))
    found = base.simulate(path)
    ours = _untied(base, tmp_path / "untied", {key: view.values for key, view in found.state.views.items()})
    assert torch.allclose(trained, logits(ours), atol=1e-5)
    assert found.untied == (name not in ("plain", "kept", "new kept", "tokens", "tokens of both"))
    assert ("lm_head.weight" in found.tensors) == found.untied
