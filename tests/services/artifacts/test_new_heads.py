"""Heads that the base lacks: new tensors in the merged files, of the last writer's shape."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from tests.kit import llama_base, read_model, read_tensors
from tests.kit.peers import between_themselves
from tests.kit.shelf import Shelf


def _trained(folder: Path, parent: Path, labels: int) -> torch.Tensor:
    """A classifier that PEFT trained on the parent's weights; its logits for a fixed input."""
    import peft
    from transformers import AutoModelForSequenceClassification

    torch.manual_seed(labels)
    with between_themselves():
        options = {"num_labels": labels, "pad_token_id": 0, "ignore_mismatched_sizes": True}
        model = AutoModelForSequenceClassification.from_pretrained(parent, **options)
        wrapped = peft.get_peft_model(model, peft.LoraConfig(task_type="SEQ_CLS", r=2, target_modules=["q_proj"]))
        for parameter in wrapped.parameters():
            if parameter.requires_grad:
                torch.nn.init.normal_(parameter, std=0.2)
        wrapped.save_pretrained(folder)
        return _logits(wrapped.eval())


def _logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(input_ids=torch.tensor([[3, 1, 4, 1, 5, 9, 2, 6]])).logits
    return found


@pytest.mark.parametrize("shards", [1, 2])
def test_a_head_of_another_number_of_labels_takes_the_place_of_the_first(
    shelf: Shelf, tmp_path: Path, shards: int
) -> None:
    from transformers import AutoModelForSequenceClassification

    name = f"llama{shards}"
    base = shelf.base(name, llama_base, shards=shards)
    _trained(tmp_path / "five", base.folder, 5)
    first = shelf.path(name, [tmp_path / "five"])
    out = shelf.folder()
    shelf.registry.fetch(first, out, kind="merged")
    right = _trained(tmp_path / "three", out, 3)
    path = first.partition("@")[0] + "/three"
    published = shelf.registry.publish(tmp_path / "three", path)
    assert any("score.weight" in notice for notice in published.revision.notices)

    merged = shelf.folder()
    shelf.registry.fetch(path, merged, kind="merged")
    tensors = read_model(merged)
    assert set(tensors) - set(read_model(base.folder)) == {"score.weight"}
    assert tensors["score.weight"].shape[0] == 3
    assert json.loads((merged / "config.json").read_text())["num_labels"] == 3
    if shards > 1:
        index = json.loads((merged / "model.safetensors.index.json").read_text())
        assert (merged / index["weight_map"]["score.weight"]).is_file()
    with between_themselves():
        loaded = AutoModelForSequenceClassification.from_pretrained(merged, pad_token_id=0).eval()
    assert torch.allclose(_logits(loaded), right, atol=2e-6)
    composed = read_tensors(shelf.composed(path) / "adapter_model.safetensors")
    assert composed["base_model.model.score.weight"].shape[0] == 3
