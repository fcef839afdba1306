"""What is made of a full model that transformers saved, loaded by PEFT on the base: the logits of the full model."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest
import torch

from registry.services.local import LocalRegistry
from tests.kit.full_models import full_model
from tests.kit.peers import load_model, logits, no_complaints, peft_load, save_model
from tests.kit.variants import MAKERS

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("kind", ["tied llama", "gpt2", "opt", "mixtral", "attention", "conv"])
def test_peft_loads_it_on_the_base_and_computes_what_the_full_model_does(kind: str, tmp_path: Path) -> None:
    base = MAKERS[kind](tmp_path / "base", dtype="F32").folder
    is_known = kind not in {"attention", "conv"}  # others are nets that no library knows, whose matrices are linear
    full_model(tmp_path / "trained", base, size=0.05, trained=lambda name: is_known or "emb" not in name)
    full = tmp_path / "trained"
    if is_known:
        full = save_model(tmp_path / "full", full, max_shard_size="20KB")
    wanted = logits(load_model(full))
    with closing(LocalRegistry.open(tmp_path / "registry", cache_folder=tmp_path / "cache")) as registry:
        registry.add_base("net", base)
        distances = []
        for rank in (1, 3, 1000):
            registry.publish(full, f"net/r{rank}", full=True, rank=rank)
            registry.fetch(f"net/r{rank}", tmp_path / f"r{rank}", kind="published")
            with no_complaints():
                found = logits(peft_load(base, [tmp_path / f"r{rank}"]))
            registry.fetch(f"net/r{rank}", tmp_path / f"m{rank}", kind="merged")
            assert torch.allclose(found, logits(load_model(tmp_path / f"m{rank}")), atol=2e-5, rtol=1e-4)
            distances.append((found - wanted).norm().item())
    assert distances[2] <= 1e-4 * wanted.norm().item()
    assert max(distances[:2]) > 0.01 * wanted.norm().item() > distances[2]
