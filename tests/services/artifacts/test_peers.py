"""Adapters that PEFT made, against what PEFT and transformers make of them step by step."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.kit import Base, bert_base, gpt2_base, llama_base, read_model, used_bound
from tests.kit.peers import between_themselves, load_model, logits, no_complaints, save_model, train_adapter
from tests.kit.shelf import Shelf

LLAMA = ["q_proj", "v_proj", "up_proj"]
Links = list[dict[str, Any]]
BASES: dict[str, tuple[Callable[..., Base], Links]] = {
    "llama": (
        llama_base,
        [
            {"r": 4, "lora_alpha": 8, "target_modules": "all-linear", "task_type": "CAUSAL_LM"},
            {"r": 2, "use_rslora": True, "target_modules": r".*layers\.1\.self_attn\.[qv]_proj"},
            {"r": 3, "rank_pattern": {"q_proj": 6}, "alpha_pattern": {"v_proj": 1}, "target_modules": LLAMA},
            {"r": 2, "target_modules": LLAMA, "layers_to_transform": [0], "init_lora_weights": "gaussian"},
            {"r": 2, "target_modules": ["embed_tokens", "lm_head"]},
            {"r": 4, "target_modules": ["embed_tokens", "q_proj"], "init_lora_weights": "orthogonal", "lora_alpha": 4},
        ],
    ),
    "gpt2": (
        gpt2_base,
        [
            {"r": 4, "lora_alpha": 8, "task_type": "CAUSAL_LM", "fan_in_fan_out": True},
            {"r": 2, "use_rslora": True, "target_modules": ["c_proj", "c_fc"], "fan_in_fan_out": True},
            {"r": 2, "target_modules": ["c_attn", "wpe"], "fan_in_fan_out": True},
        ],
    ),
    "bert": (
        bert_base,
        [
            {"r": 4, "lora_alpha": 8, "target_modules": ["query", "value"], "task_type": "FEATURE_EXTRACTION"},
            {"r": 2, "use_rslora": True, "target_modules": ["dense"], "exclude_modules": ["pooler.dense"]},
            {"r": 2, "target_modules": ["word_embeddings", "key"]},
        ],
    ),
}


def _train(folder: Path, base: Path, links: Links) -> tuple[list[Path], Any]:
    """A path made by PEFT, each link on the merged model below it; and the model that comes out."""
    model, path = load_model(base), []
    for number, link in enumerate(links):
        path.append(folder / str(number))
        model = train_adapter(path[-1], model, seed=number, **link)
    return path, model.eval()


@pytest.mark.parametrize("kind", sorted(BASES))
def test_path_of_peft(shelf: Shelf, kind: str) -> None:
    """Merged, composed and loaded by transformers: all equal PEFT's own result."""
    make, links = BASES[kind]
    drawn = make(shelf.folder())
    folder = save_model(shelf.folder(), drawn.folder)
    shelf.registry.add_base(kind, folder)
    path, model = _train(shelf.folder(), folder, links)
    reference = shelf.path(kind, path)
    peers = model.state_dict()

    out = shelf.folder()
    shelf.registry.fetch(reference, out, kind="merged")
    tensors = read_model(out)
    assert used_bound(drawn.reference(path), tensors) <= 1
    for name, raw in tensors.items():
        assert np.abs(peers[name].double().numpy() - raw.values).max() < 1e-5, name

    with no_complaints():
        loaded = load_model(out)
    assert torch.allclose(logits(loaded), logits(model), atol=1e-5)
    assert not torch.allclose(logits(loaded), logits(load_model(folder)), atol=1e-3)


@pytest.mark.parametrize("kind", sorted(BASES))
def test_composed_adapter_on_the_base(shelf: Shelf, kind: str) -> None:
    import peft

    make, links = BASES[kind]
    name = f"{kind}-composed"
    base = shelf.base(name, make)
    path, model = _train(shelf.folder(), base.folder, links)
    composed = shelf.composed(shelf.path(name, path))
    with no_complaints(), between_themselves():
        ours = peft.PeftModel.from_pretrained(load_model(base.folder), str(composed)).eval()
    assert torch.allclose(logits(ours), logits(model), atol=1e-5)


def test_a_child_trained_on_the_fetched_parent(shelf: Shelf) -> None:
    """The way of the README: fetch the parent merged, train on it, publish with the receipt, fetch the whole."""
    base = shelf.base("growing", llama_base, dtype="BF16")
    path, folder, model = "growing", base.folder, load_model(base.folder)
    adapters = []
    for number in range(3):
        adapter = shelf.folder()
        targets = LLAMA if number < 2 else ["embed_tokens", "v_proj"]
        model = train_adapter(adapter, load_model(folder, torch.bfloat16), seed=number, r=4, target_modules=targets)
        adapters.append(adapter)
        path += f"/step{number}"
        receipt = folder / "registry-receipt.json"
        answer = shelf.registry.publish(adapter, path, receipt=receipt if receipt.exists() else None)
        assert answer.revision.number == 1
        folder = shelf.folder()
        shelf.registry.fetch(path, folder, kind="merged")
    assert used_bound(base.reference(adapters), read_model(folder)) <= 1
    rounding = 4 * 2.0**-8  # PEFT rounds to bf16 at every step
    state = model.state_dict()
    for name, raw in read_model(folder).items():
        assert np.allclose(state[name].double().numpy(), raw.values, rtol=rounding, atol=0.01), name
