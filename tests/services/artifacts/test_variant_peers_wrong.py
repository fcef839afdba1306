"""Where PEFT 0.21.2 is wrong: what it makes, what we make, and the truth.

The truth is the function that was trained: the output of the wrapped model before anything is merged, and the plain
sums in float64. Each test fails when PEFT gets right what it says is wrong, and then the test goes.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch

from registry.errors import InvalidAdapterError
from registry.tensors.composed import forms
from tests.kit import (
    Base,
    RawTensor,
    llama_base,
    plain_base,
    read_model,
    read_pairs,
    read_tensors,
    used_bound,
    write_adapter,
    write_model,
    write_tensors,
)
from tests.kit.floats import Array
from tests.kit.kinds_of_bases import attention_base, conv_base, mixtral_base
from tests.kit.nets import load_net
from tests.kit.peers import between_themselves, load_model, logits, no_complaints, peft_load, peft_merge, wrap
from tests.kit.recipes import Recipe, write_recipe, write_recipes
from tests.kit.shelf import Shelf

HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"


def _fetched(shelf: Shelf, name: str, path: list[Path]) -> Path:
    out = shelf.folder()
    shelf.registry.fetch(shelf.path(name, path), out, kind="merged")
    return out


def _weights(model: Any) -> dict[str, Array]:
    return {name: one.double().numpy() for name, one in model.state_dict().items()}


def _tied(shelf: Shelf) -> Base:
    return shelf.base("tied", llama_base, tied=True)


def _trained(shelf: Shelf, base: Base, **config: Any) -> tuple[Path, torch.Tensor]:
    """An adapter that PEFT trained, and the output of the model that it trained."""
    folder = shelf.folder()
    return folder, logits(wrap(folder, load_model(base.folder), seed=3, b_scale=0.5, **config))


@pytest.mark.parametrize("module", ["lm_head", "embed_tokens"])
def test_one_side_of_a_tie(shelf: Shelf, module: str) -> None:
    """PEFT merges into the storage that both sides share, so that both change. We write two tensors."""
    base = _tied(shelf)
    adapter, truth = _trained(shelf, base, r=2, target_modules=[module])

    peers = peft_merge(base.folder, [adapter])
    assert peers.lm_head.weight is peers.model.embed_tokens.weight
    assert not torch.allclose(logits(peers), truth, atol=1e-3)

    out = _fetched(shelf, "tied", [adapter])
    with no_complaints():
        ours = load_model(out)
    assert torch.allclose(logits(ours), truth, atol=1e-5)
    assert json.loads((out / "config.json").read_text())["tie_word_embeddings"] is False
    changed, kept = (HEAD, EMBEDDING) if module == "lm_head" else (EMBEDDING, HEAD)
    found, before = read_model(out), read_model(base.folder)[EMBEDDING]
    assert found[kept] == before
    assert found[changed] != before


def test_a_tie_that_is_kept(shelf: Shelf) -> None:
    """``ensure_weight_tying``: the file has the delta in two forms, and PEFT adds both to the one weight."""
    base = _tied(shelf)
    adapter, truth = _trained(shelf, base, r=2, target_modules=["embed_tokens"], ensure_weight_tying=True)
    weight = read_model(base.folder)[EMBEDDING].values
    expected = base.reference([adapter])[EMBEDDING].values

    peers = peft_merge(base.folder, [adapter])
    twice = _weights(peers)[EMBEDDING]
    assert np.allclose(twice - weight, 2 * (expected - weight), atol=1e-6)
    assert not torch.allclose(logits(peers), truth, atol=1e-3)

    out = _fetched(shelf, "tied", [adapter])
    assert HEAD not in read_model(out)
    assert np.allclose(read_model(out)[EMBEDDING].values, expected, atol=1e-6)
    with no_complaints():
        assert torch.allclose(logits(load_model(out)), truth, atol=1e-5)


def test_the_output_projection_of_an_attention(shelf: Shelf) -> None:
    """PEFT up to 0.21.2 applies its delta twice, in training and in the merge: that is what was trained."""
    base = shelf.base("attention", attention_base)
    adapter, truth = _trained(shelf, base, r=2, target_modules=["attn"])
    name = "blocks.0.attn.out_proj.weight"
    weight = read_model(base.folder)[name].values
    once = _deltas(adapter)["blocks.0.attn.base_layer.out_proj"]

    peers = peft_merge(base.folder, [adapter])
    assert np.allclose(_weights(peers)[name] - weight, 2 * once, atol=1e-6)
    assert torch.allclose(logits(peers), truth, atol=1e-6)

    out = _fetched(shelf, "attention", [adapter])
    assert np.allclose(read_model(out)[name].values - weight, 2 * once, atol=1e-6)
    assert torch.allclose(logits(load_net(out)), truth, atol=1e-6)

    # one that a repaired PEFT wrote was trained with the delta once
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps(config | {"peft_version": "0.22.0"}))
    out = _fetched(shelf, "attention", [adapter])
    assert np.allclose(read_model(out)[name].values - weight, once, atol=1e-6)


def _deltas(adapter: Path) -> dict[str, Array]:
    return {module: pair.delta for module, pair in read_pairs(adapter).items()}


def _declare(folder: Path, module: str, **geometry: Any) -> None:
    declared = {"modules": {module: {"kind": "conv", **geometry}}}
    (folder / "registry.json").write_text(json.dumps(declared))


def test_a_dilated_convolution(shelf: Shelf) -> None:
    """PEFT makes the branch without the dilation, so that it can't run, and merges it as if it had it."""
    folder, adapter = shelf.folder(), shelf.folder()
    base = conv_base(folder)
    wrapped = wrap(adapter, load_net(base.folder, dilation=2), r=2, target_modules=["c2"])
    layer = wrapped.base_model.model.c2
    with pytest.raises(RuntimeError, match="size"):
        layer(torch.randn(1, 1, 6, 6))
    merged = wrapped.merge_and_unload().c2.weight.detach()
    assert not np.allclose(merged.double().numpy(), read_model(folder)["c2.weight"].values)

    _declare(folder, "c2", dilation=[2, 2])
    shelf.registry.add_base("dilated", folder)
    with pytest.raises(InvalidAdapterError, match="dilat"):
        shelf.path("dilated", [adapter])


def test_a_grouped_convolution(shelf: Shelf) -> None:
    """PEFT's A is dense over all inputs, so that the product fits no grouped weight; PEFT refuses to merge it."""
    folder, adapter = shelf.folder(), shelf.folder()
    weights = read_model(conv_base(folder).folder)
    weights["c1p.weight"] = RawTensor.of(weights["c1p.weight"].values[:, :3], "F32")
    write_model(folder, weights)
    net = load_net(folder, groups=2)
    with pytest.warns(UserWarning, match="groups > 1"):
        wrapped = wrap(adapter, net, r=2, target_modules=["c1p"])
    with pytest.raises(NotImplementedError):
        wrapped.merge_and_unload()

    _declare(folder, "c1p", groups=2)
    shelf.registry.add_base("grouped", folder)
    with pytest.raises(InvalidAdapterError, match="group"):
        shelf.path("grouped", [adapter])


def test_a_pointwise_convolution_in_three_dimensions(shelf: Shelf) -> None:
    """PEFT can't merge it at all."""
    base = shelf.base("conv", conv_base)
    adapter, truth = _trained(shelf, base, r=2, target_modules=["c3p", "c3"])
    with pytest.raises(RuntimeError):
        peft_merge(base.folder, [adapter])
    out = _fetched(shelf, "conv", [adapter])
    assert used_bound(base.reference([adapter]), read_model(out)) <= 1
    assert torch.allclose(logits(load_net(out)), truth, atol=1e-6)


def test_cat_of_rslora(shelf: Shelf) -> None:
    """``add_weighted_adapter`` keeps ``use_rslora``: the scaled product is scaled again, by the root of the rank."""
    base = shelf.base("llama", llama_base)
    recipes = [Recipe(("q_proj",), r=4, alpha=8, rslora=True, seed=seed, scale=2.0) for seed in (1, 2)]
    path = write_recipes(shelf.folder(), base, recipes)
    name = "model.layers.0.self_attn.q_proj"
    truth = sum(_deltas(adapter)[name] for adapter in path)

    with between_themselves():
        model = peft.PeftModel.from_pretrained(load_model(base.folder), str(path[0]), adapter_name="a")
        model.load_adapter(str(path[1]), adapter_name="b")
        model.add_weighted_adapter(["a", "b"], [1.0, 1.0], "both", combination_type="cat")
    layer = model.get_submodule(f"base_model.model.{name}")
    peers = layer.get_delta_weight("both").detach().double().numpy()
    assert np.allclose(peers, np.sqrt(8) * truth, rtol=1e-4, atol=1e-5)

    composed = shelf.composed(shelf.path("llama", path))
    assert np.allclose(_deltas(composed)[name], truth, rtol=1e-5, atol=1e-6)


def test_a_pattern_that_matches_twice(shelf: Shelf) -> None:
    """PEFT trains with the pattern that was named first, and loads with that of the sorted file: we follow the file."""
    base = shelf.base("llama", llama_base)
    patterns = {"v_proj": 2, "layers.1.self_attn.v_proj": 40}
    adapter, trained = _trained(shelf, base, r=2, lora_alpha=2, target_modules=["v_proj"], alpha_pattern=patterns)
    loaded = logits(peft_load(base.folder, [adapter]))
    assert not torch.allclose(loaded, trained, atol=1e-3)
    answer = shelf.registry.publish(adapter, "llama/twice")
    assert any("alpha_pattern" in notice for notice in answer.revision.notices)
    out = shelf.folder()
    shelf.registry.fetch("llama/twice", out, kind="merged")
    with no_complaints(), between_themselves():
        assert torch.allclose(logits(load_model(out)), loaded, atol=1e-5)


def test_one_expert_projection_alone(shelf: Shelf) -> None:
    """Of transformers 4, on w3 alone: PEFT with transformers 5 can't load it, for the files it is a plain LoRA."""
    base = shelf.base("mixtral", mixtral_base)
    adapter = write_recipe(shelf.folder(), base, Recipe(("w3",), seed=1))
    with pytest.raises(ValueError, match="Cannot convert"):
        peft_load(base.folder, [adapter])
    assert used_bound(base.reference([adapter]), read_model(_fetched(shelf, "mixtral", [adapter]))) <= 1


class PlacedNet(torch.nn.Module):
    """Has a module with a parameter of its own and a linear module inside, both of which PEFT takes for biases."""

    def __init__(self) -> None:
        super().__init__()
        self.first = torch.nn.Linear(6, 6, bias=False)
        places: Any = torch.nn.Module()
        places.start = torch.nn.Parameter(torch.zeros(6))
        places.proj = torch.nn.Linear(6, 6, bias=False)
        self.bias_of_places = places


def test_a_pair_inside_a_module_that_is_saved_whole(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    """PEFT takes the module and drops the pair, without a word: no single adapter is this path, and none is written."""
    shapes = {"first.weight": (6, 6), "bias_of_places.start": (6,), "bias_of_places.proj.weight": (6, 6)}
    base = shelf.base("placed", plain_base, shapes=shapes)
    pairs = write_adapter(shelf.folder(), base, ["first", "proj"], r=2, seed=1)
    # PEFT before 0.21 takes every name for a bias that has "bias" in it; before 0.18 it does not say its version
    config = {"bias": "all", "peft_version": ...}
    value = write_adapter(shelf.folder(), base, ["first"], r=2, seed=2, config=config)
    tensors = read_tensors(value / "adapter_model.safetensors")
    start = np.random.default_rng(3).standard_normal(6)
    tensors["base_model.model.bias_of_places.start"] = RawTensor.of(start, "F32")
    write_tensors(value / "adapter_model.safetensors", tensors)
    reference = shelf.path("placed", [pairs, value])

    def loaded(*adapters: Path) -> Any:
        model: Any = PlacedNet()
        model.load_state_dict({name: torch.from_numpy(one.values) for name, one in read_model(base.folder).items()})
        with between_themselves():
            for adapter in adapters:
                model = peft.PeftModel.from_pretrained(model, str(adapter))
                model = model if len(adapters) == 1 else model.merge_and_unload()
        return model

    truth, merged = _weights(loaded(pairs, value)), shelf.merged(reference)
    assert sorted(truth) == sorted(merged)
    assert all(np.allclose(merged[name].values, one, atol=1e-6) for name, one in truth.items())
    with pytest.raises(InvalidAdapterError, match=r"has 'bias_of_places\.proj' in it, and adapts that") as refused:
        shelf.composed(reference)
    assert refused.value.code == "not_composable"

    monkeypatch.setattr(forms, "_check_apart", lambda _: None)
    wrong = shelf.composed(reference)
    assert sorted(read_pairs(wrong)) == ["bias_of_places.proj", "first"]
    assert {name.partition(".lora_")[0] for name, _ in loaded(wrong).named_parameters() if ".lora_" in name} == {
        "base_model.model.first"
    }
    with pytest.raises(InvalidAdapterError, match="has a LoRA pair and was trained whole"):
        shelf.publish("placed", [wrong])
