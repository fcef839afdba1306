"""Parameters of two dimensions named by ``target_parameters``: a router, a linear module's weight; PEFT as the peer."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from tests.kit import llama_base, read_pairs
from tests.kit.kinds_of_bases import mixtral_base
from tests.kit.peers import load_model, logits, no_complaints, peft_load, train_adapter
from tests.kit.shelf import Shelf

PATHS = {"mlp.gate.weight": "model.layers.0.mlp.gate.weight", "v_proj.weight": "model.layers.0.self_attn.v_proj.weight"}


@pytest.mark.parametrize("parameters", [["mlp.gate.weight"], ["mlp.gate.weight", "v_proj.weight"]])
def test_merged_and_composed_are_what_peft_trained(shelf: Shelf, tmp_path: Path, parameters: list[str]) -> None:
    base = shelf.base("mixtral", mixtral_base)
    model = load_model(base.folder)
    for seed in (1, 2):
        model = train_adapter(
            tmp_path / str(seed),
            model,
            seed=seed,
            target_parameters=parameters,
            target_modules=["q_proj"],
            r=2,
            lora_alpha=4 * seed,
        )
    reference = shelf.path("mixtral", [tmp_path / "1", tmp_path / "2"])
    out = shelf.folder()
    shelf.registry.fetch(reference, out, kind="merged")
    assert torch.allclose(logits(load_model(out)), logits(model), atol=2e-6)

    composed = shelf.composed(reference)
    config = json.loads((composed / "adapter_config.json").read_text())
    assert set(config["target_parameters"]) == {PATHS[name] for name in parameters}
    assert config["r"] == 4
    with no_complaints():
        loaded = peft_load(base.folder, [composed])
    assert torch.allclose(logits(loaded), logits(model), atol=2e-6)


def test_an_engine_that_goes_by_names_of_modules_computes_what_peft_trained(shelf: Shelf, tmp_path: Path) -> None:
    """As vLLM reads it: each pair belongs to the module that its tensors name, whatever the configuration calls it."""
    base = shelf.base("llama", llama_base)
    model = train_adapter(
        tmp_path / "1",
        load_model(base.folder),
        target_parameters=["v_proj.weight", "down_proj.weight"],
        target_modules=["q_proj"],
        r=3,
        lora_alpha=5,
    )
    reference = shelf.path("llama", [tmp_path / "1"])
    out = shelf.folder()
    shelf.registry.fetch(reference, out, engine="vllm")
    config = json.loads((out / "adapter_config.json").read_text())
    assert len(config["target_parameters"]) == 4
    engine = load_model(base.folder)
    with torch.no_grad():
        for module, pair in read_pairs(out).items():
            weight = engine.get_submodule(module).weight
            weight += torch.from_numpy(pair.b @ pair.a).to(weight.dtype) * (config["lora_alpha"] / config["r"])
    assert torch.allclose(logits(engine), logits(model), atol=2e-6)
