"""A pool over a quantised base: what it merges in place is what `fetch` writes, bit for bit, and given back."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from registry.pool import AdapterPool
from registry.services.local import LocalRegistry
from tests.kit.bases import llama_base
from tests.kit.peers import load_model
from tests.kit.quantised_models import FP8_CONFIG, NF4_CONFIG, fp8, nf4, quantised
from tests.kit.recipes import write_recipes
from tests.kit.variants import VARIANTS


@pytest.mark.parametrize("kind", ["fp8", "nf4"])
def test_switches_are_bit_exact(kind: str, tmp_path: Path) -> None:
    plain = llama_base(tmp_path / "plain", dtype="BF16", hidden=64, mlp=128, layers=1)
    how, block = (fp8((16, 16)), FP8_CONFIG) if kind == "fp8" else (nf4, NF4_CONFIG)
    made = quantised(plain, tmp_path / "q", how, block)
    folders = write_recipes(tmp_path / "path", made.exact, [VARIANTS["llama"][name] for name in ("rslora", "dora")])
    with LocalRegistry.open(tmp_path / "registry", create=True) as registry:
        registry.add_base("llama", made.folder)
        registry.publish(folders[0], "llama/a")
        registry.publish(folders[1], "llama/a/b")

        def fetched(ref: str) -> torch.nn.Module:
            folder = registry.fetch(ref, tmp_path / ref.replace("/", "-"), kind="merged").folder
            made: torch.nn.Module = load_model(Path(folder), torch.bfloat16)
            return made

        model = fetched("llama")
        wanted = {ref: fetched(ref).state_dict() for ref in ("llama/a", "llama/a/b")}
        before = {name: held.clone() for name, held in model.state_dict().items()}
        with AdapterPool(model, registry) as pool:
            for ref in ("llama/a", "llama/a/b", "llama/a"):
                pool.merge(ref)
                assert all(torch.equal(held, wanted[ref][name]) for name, held in model.state_dict().items()), ref
            pool.unmerge()
        assert all(torch.equal(held, before[name]) for name, held in model.state_dict().items())
