"""A tiny Llama that trains in a second, and the registry that its adapters go to."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from registry.services.local import LocalRegistry
from tests.kit import llama_base
from tests.kit.tokenizer_files import add_working_tokenizer


@dataclass(frozen=True)
class Desk:
    """A folder with a registry and a base model in it."""

    folder: Path
    team: LocalRegistry
    base: Path

    def model(self, place: Path | None = None, **config: Any) -> Any:
        """The model of a folder, None for the base model's, with a fresh LoRA."""
        import torch
        from peft import LoraConfig, get_peft_model
        from transformers import AutoModelForCausalLM

        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_pretrained(place or self.base, dtype=torch.float32)
        return get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj", "down_proj"], **config))

    def trained(self, place: Path | None = None, **config: Any) -> Any:
        """The same, as if it was trained."""
        import torch

        model = self.model(place, **config)
        with torch.no_grad():
            for name, weights in model.named_parameters():
                if "lora_B" in name:
                    weights.copy_(torch.randn_like(weights) * 0.1)
        return model


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Desk]:
    monkeypatch.setenv("REGISTRY_URL", str(tmp_path / "registry"))
    monkeypatch.setenv("REGISTRY_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    base = llama_base(tmp_path / "base")
    with closing(LocalRegistry.open(tmp_path / "registry", cache_folder=tmp_path / "cache")) as team:
        team.add_base("llama", base.folder)
        yield Desk(tmp_path, team, base.folder)


@pytest.fixture
def on_support(desk: Desk) -> Desk:
    """Where the page begins: an older revision of support was fetched."""
    for seed in (1, 2):
        desk.trained(lora_alpha=seed).save_pretrained(desk.folder / f"{seed}")
        desk.team.publish(desk.folder / f"{seed}", "llama/support")
    desk.team.fetch("llama/support@1", desk.folder / "support", kind="merged")
    add_working_tokenizer(desk.folder / "support")
    return desk
