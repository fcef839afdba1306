"""Adapters of every variant that PEFT itself made: merged, composed and loaded, against what PEFT makes of them.

PEFT is the judge where it is right: its merge, step by step, and the output of the model as it was trained. Where it is
wrong, see `test_variant_peers_wrong`.
"""

from __future__ import annotations

import dataclasses
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from registry.errors import InvalidAdapterError
from tests.kit import Base, read_model, used_bound
from tests.kit.peers import between_themselves, load_model, logits, no_complaints, peft_merge, train_adapter, wrap
from tests.kit.recipes import write_recipes
from tests.kit.shelf import Shelf
from tests.kit.variants import CONVS, MAKERS, VARIANTS

Links = list[dict[str, Any]]
FUSED = ["mlp.experts.down_proj", "mlp.experts.gate_up_proj"]
MERGEABLE = [one for one in CONVS if one != "c3p"]

PATHS: dict[str, Links] = {
    "llama": [
        {"target_modules": ["q_proj", "down_proj"], "use_dora": True, "r": 2},
        {"target_modules": ["q_proj", "up_proj"], "use_rslora": True, "r": 4},
        {"target_modules": ["embed_tokens", "k_proj"], "use_dora": True, "r": 2},
        {"target_modules": "all-linear", "use_dora": True, "r": 2, "alpha_pattern": {"q_proj": 3}},
    ],
    "llama whole modules": [
        {"target_modules": ["q_proj"], "modules_to_save": ["lm_head", "norm"], "r": 2},
        {"target_modules": ["lm_head", "v_proj"], "r": 3},
        {"target_modules": ["q_proj"], "trainable_token_indices": [1, 5], "r": 2},
        {"target_modules": ["v_proj"], "trainable_token_indices": {"embed_tokens": [5, 7]}, "r": 2},
    ],
    "llama blocks": [
        {
            "target_modules": ["q_proj", "o_proj", "v_proj"],
            "r": 4,
            "use_bdlora": {
                "target_modules_bd_a": ["q_proj"],
                "target_modules_bd_b": ["o_proj"],
                "nblocks": 2,
                "match_strict": False,
            },
        },
        {"target_modules": ["q_proj"], "velora_config": {}},
        {"target_modules": ["q_proj", "v_proj"], "monteclora_config": {}, "r": 2},
    ],
    "llama products": [
        {"tuner": "LoHa", "target_modules": ["q_proj", "down_proj"], "r": 2, "alpha": 3, "rank_pattern": {"q_proj": 1}},
        {"target_modules": ["q_proj", "v_proj"], "use_dora": True, "r": 2},
        {"tuner": "LoKr", "target_modules": "all-linear", "r": 1, "alpha": 2, "modules_to_save": ["model.norm"]},
        {"tuner": "LoKr", "target_modules": ["v_proj", "up_proj"], "r": 1, "alpha": 1, "decompose_both": True},
        {"target_modules": ["up_proj"], "r": 2},
    ],
    "llama pissa converted": [{"target_modules": ["q_proj", "v_proj"], "init_lora_weights": "pissa", "r": 2}],
    "gpt2": [
        {"target_modules": ["c_attn", "c_proj"], "use_dora": True, "r": 2, "fan_in_fan_out": True},
        {"target_modules": ["c_fc", "c_proj"], "lora_bias": True, "r": 2, "fan_in_fan_out": True},
        {"target_modules": ["c_attn"], "bias": "all", "r": 2, "fan_in_fan_out": True},
    ],
    "opt": [
        {"target_modules": ["q_proj", "fc1"], "bias": "lora_only", "r": 2},
        {"target_modules": ["q_proj", "v_proj"], "lora_bias": True, "r": 2},
        {"target_modules": ["fc1"], "bias": "all", "use_dora": True, "r": 2},
        {"target_modules": ["fc1"], "modules_to_save": ["fc2"], "r": 2},
    ],
    "conv": [
        {"target_modules": [*MERGEABLE, "emb"], "r": 2},
        {"target_modules": MERGEABLE, "use_dora": True, "r": 2},
        {"target_modules": ["c1", "c2", "head"], "lora_bias": True, "r": 3},
    ],
    "attention": [
        {"target_modules": ["attn", "linear"], "r": 2},
        {"target_modules": ["attn"], "use_rslora": True, "r": 3},
    ],
    "mixtral": [
        {"target_modules": ["q_proj"], "target_parameters": FUSED, "r": 2},
        {"target_modules": [], "target_parameters": FUSED[1:], "r": 3},
        {"target_modules": ["v_proj"], "target_parameters": FUSED[:1], "r": 1, "use_rslora": True},
    ],
    "gpt_oss": [
        {"target_modules": ["q_proj"], "target_parameters": FUSED, "r": 2},
        {"target_modules": [], "target_parameters": FUSED[1:], "r": 3},
    ],
    "declared": [
        {"target_modules": ["straight"], "target_parameters": ["experts.up", "experts.mid"], "r": 2},
        {"target_modules": ["turned"], "use_dora": True, "r": 2, "fan_in_fan_out": True},
    ],
}
"""Paths by the base's kind, and what is special about them."""


def _base(shelf: Shelf, kind: str) -> tuple[str, Base]:
    name = kind.replace(" ", "-").replace("_", "-")
    return name, shelf.base(name, MAKERS[kind])


def _kind(name: str) -> str:
    return max((kind for kind in MAKERS if name.startswith(kind)), key=len)


def _train(shelf: Shelf, base: Base, links: Links) -> tuple[list[Path], Any]:
    """A path made by PEFT, each link on the merged model below it; and the model that comes out."""
    model, path = load_model(base.folder), []
    for number, link in enumerate(links):
        path.append(shelf.folder())
        if link.get("init_lora_weights") == "pissa":
            model = _train_pissa(path[-1], model, link)
        else:
            options = _with_configs(link)
            model = train_adapter(path[-1], model, seed=number, **options)
    return path, model.eval()


def _with_configs(link: dict[str, Any]) -> dict[str, Any]:
    """The nested configs that PEFT wants as objects."""
    import peft
    from peft.tuners.lora.config import BdLoraConfig, MontecloraConfig, VeloraConfig

    del peft
    makers = {"use_bdlora": BdLoraConfig, "velora_config": VeloraConfig, "monteclora_config": MontecloraConfig}
    return {name: makers[name](**value) if name in makers else value for name, value in link.items()}


def _train_pissa(folder: Path, model: Any, link: dict[str, Any]) -> Any:
    """PiSSA, converted on saving to what it is relative to the model it started on, as the docs of PEFT say."""
    import peft

    start = folder.with_name(folder.name + "-start")
    with between_themselves():
        wrapped = peft.get_peft_model(model, peft.LoraConfig(**link))
        wrapped.peft_config["default"].init_lora_weights = True
        wrapped.save_pretrained(start)
        wrapped.peft_config["default"].init_lora_weights = "pissa"
        with torch.no_grad():
            for name, parameter in wrapped.named_parameters():
                if "lora_" in name:
                    parameter.add_(torch.randn_like(parameter) * 0.1)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="PiSSA changes the base weights.*", category=UserWarning)
            wrapped.save_pretrained(folder, path_initial_model_for_weight_conversion=str(start))
        return wrapped.merge_and_unload()


@pytest.mark.long_but("llama", "mixtral", "gpt2", "conv", "gpt_oss", "llama pissa converted", "llama products")
@pytest.mark.parametrize("name", sorted(PATHS))
def test_path_of_peft(shelf: Shelf, name: str) -> None:
    """Merged equals PEFT's step-by-step merge; the merged folder and the composed adapter load and give its output."""
    kind = _kind(name)
    base_name, base = _base(shelf, kind)
    path, model = _train(shelf, base, PATHS[name])
    reference = shelf.path(base_name, path)
    out = shelf.folder()
    shelf.registry.fetch(reference, out, kind="merged")
    expected = base.simulate(path)
    assert used_bound(expected.tensors, read_model(out)) <= 1
    for parameter, one in model.state_dict().items():
        apart = np.abs(one.double().numpy() - expected.state.views[parameter].values).max()
        assert apart < 2e-5, parameter
    with no_complaints():
        loaded = load_model(out)
    assert torch.allclose(logits(loaded), logits(model), atol=2e-5)
    assert not torch.allclose(logits(loaded), logits(load_model(base.folder)), atol=1e-3)
    if kind == "declared":
        with pytest.raises(InvalidAdapterError, match="DoRA"):  # PEFT has no DoRA on experts
            shelf.composed(reference)
        return
    _check_composed(shelf, base, reference, logits(model))


def _check_composed(shelf: Shelf, base: Base, reference: str, expected: torch.Tensor) -> None:
    import peft

    composed = shelf.composed(reference)
    with no_complaints(), between_themselves():
        ours = peft.PeftModel.from_pretrained(load_model(base.folder), str(composed)).eval()
    assert torch.allclose(logits(ours), expected, atol=2e-5)


def test_a_head_of_its_own_in_a_tied_model(shelf: Shelf) -> None:
    """Here PEFT unties too, and says so."""
    base_name, base = _base(shelf, "tied llama")
    adapter = shelf.folder()
    options: dict[str, Any] = {"r": 2, "target_modules": ["q_proj"], "modules_to_save": ["lm_head"]}
    trained = logits(wrap(adapter, load_model(base.folder), **options))
    with pytest.warns(UserWarning, match="no longer tied"):
        peers = peft_merge(base.folder, [adapter])
    reference, out = shelf.path(base_name, [adapter]), shelf.folder()
    shelf.registry.fetch(reference, out, kind="merged")
    with no_complaints():
        ours = load_model(out)
    assert ours.config.tie_word_embeddings is peers.config.tie_word_embeddings is False
    assert torch.allclose(logits(ours), trained, atol=1e-5)
    assert torch.allclose(logits(peers), trained, atol=1e-5)
    _check_composed(shelf, base, reference, trained)


def test_token_rows_on_a_parent_that_untied(shelf: Shelf) -> None:
    """The parent's model has a head of its own, so PEFT trains rows of the embedding alone."""
    _, base = _base(shelf, "tied llama")
    head, rows, parent, child = (shelf.folder() for _ in range(4))
    wrap(head, load_model(base.folder), r=2, target_modules=["lm_head"], b_scale=0.5)
    shelf.registry.publish(head, "tied-llama/head")
    shelf.registry.fetch("tied-llama/head", parent, kind="merged")
    options: dict[str, Any] = {"r": 2, "target_modules": ["q_proj"], "trainable_token_indices": [3, 9]}
    trained = logits(wrap(rows, load_model(parent), **options))
    shelf.registry.publish(rows, "tied-llama/head/rows", receipt=parent / "registry-receipt.json")
    shelf.registry.fetch("tied-llama/head/rows", child, kind="merged")
    with no_complaints():
        assert torch.allclose(logits(load_model(child)), trained, atol=1e-5)
    _check_composed(shelf, base, "tied-llama/head/rows", trained)


# --- adapters by hand, composed: PEFT loads each and it is the merged model ---

PAIRS: dict[str, list[tuple[str, ...]]] = {
    "llama": [
        ("plain", "dora", "dora embedding"),
        ("new head", "embedding and head", "tokens"),
        ("new linear", "dora of others"),
        ("tokens", "other tokens"),
        ("other tokens", "embedding and head"),
        ("blocks", "negative alpha", "new norm"),
        ("dora head", "one layer"),
        ("new embedding", "tokens"),
    ],
    "tied llama": [
        ("plain", "kept"),
        ("kept", "kept"),
        ("new kept", "tokens"),
        ("tokens", "plain"),
        ("head", "plain"),
        ("embedding", "plain"),
        ("new head", "plain"),
        ("both", "tokens"),
        ("dora head", "plain"),
        ("tokens of each", "plain"),
        ("tokens", "head"),
        ("tokens", "new head"),
        ("tokens", "dora head"),
        ("tokens", "embedding"),
        ("head", "tokens"),
        ("new head", "tokens"),
    ],
    "gpt2": [("dora", "lora bias"), ("biases", "new linear"), ("bias", "positions"), ("dora positions", "new norm")],
    "opt": [("bias", "lora bias"), ("biases", "dora"), ("new linear", "plain", "bias"), ("dora bias", "plain")],
    "conv": [("dora of some", "biases"), ("new conv", "lora bias"), ("some", "plain")],
    "attention": [("plain", "ranks"), ("fixed peft", "rslora"), ("old peft", "plain")],
    "mixtral": [("fused", "each expert"), ("one of each", "patterns"), ("down only", "up only")],
    "gpt_oss": [("fused", "down only"), ("attention", "up only"), ("dora", "attention")],
    "declared": [("linear", "experts"), ("outer experts", "inner experts"), ("dora", "bias")],
}


@pytest.mark.long_but(
    "mixtral: fused, each expert",
    "opt: dora bias, plain",
    "tied llama: both, tokens",
    "tied llama: tokens, dora head",
    "gpt2: dora positions, new norm",
    "llama: new head, embedding and head, tokens",
    "llama: tokens, other tokens",
    "llama: blocks, negative alpha, new norm",
    "gpt_oss: fused, down only",
    "conv: dora of some, biases",
    "attention: old peft, plain",
    "declared: dora, bias",
)
@pytest.mark.parametrize(
    ("kind", "names"),
    [pytest.param(kind, names, id=f"{kind}: {', '.join(names)}") for kind, paths in PAIRS.items() for names in paths],
)
def test_composed_loads_in_peft(shelf: Shelf, kind: str, names: tuple[str, ...]) -> None:
    """What PEFT makes of the composed adapter, not merged, is what transformers makes of the merged model."""
    base_name, base = _base(shelf, kind)
    recipes = [dataclasses.replace(VARIANTS[kind][name], seed=seed) for seed, name in enumerate(names, start=1)]
    path = write_recipes(shelf.folder(), base, recipes)
    reference = shelf.path(base_name, path)
    out = shelf.folder()
    shelf.registry.fetch(reference, out, kind="merged")
    with no_complaints():
        merged = logits(load_model(out))
    assert not torch.allclose(merged, logits(load_model(base.folder)), atol=1e-3)
    _check_composed(shelf, base, reference, merged)
