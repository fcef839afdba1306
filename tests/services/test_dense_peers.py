"""Factors, dense changes and dense statistics of adapters that PEFT trained: against what PEFT merges."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from registry.demo.main import bundled_base_model
from registry.services.local import LocalRegistry
from tests.kit.peers import between_themselves, load_model, peft_merge

pytestmark = pytest.mark.slow


def trained(folder: Path, model: torch.nn.Module, seed: int, **config: object) -> torch.nn.Module:
    """A few steps of training with PEFT, saved; the model with the adapter merged in."""
    import peft

    config = {
        "target_modules": ["query", "output.dense"],
        "layers_to_transform": [0, 5],
        "r": 4,
        "lora_alpha": 16,
        **config,
    }
    with between_themselves():
        torch.manual_seed(seed)
        wrapped = peft.get_peft_model(model, peft.LoraConfig(**config))
        optimizer = torch.optim.AdamW([one for one in wrapped.parameters() if one.requires_grad], lr=0.02)
        for step in range(4):
            tokens = torch.randint(1000, 9000, (4, 12), generator=torch.Generator().manual_seed(10 * seed + step))
            wrapped(input_ids=tokens).last_hidden_state[:, 0].std().neg().backward()
            optimizer.step()
            optimizer.zero_grad()
        wrapped.save_pretrained(folder)
        merged: torch.nn.Module = wrapped.merge_and_unload()
    return merged.eval()


@pytest.mark.long
def test_a_minilm_with_a_plain_link_and_a_dora(tmp_path: Path) -> None:
    base, links = bundled_base_model(), [tmp_path / "plain", tmp_path / "dora"]
    model = trained(links[0], load_model(base), 1, use_rslora=True)
    trained(links[1], model, 2, use_dora=True)
    states = [peft_merge(base, links[:count], torch.float64).state_dict() for count in range(3)]
    with LocalRegistry.open(tmp_path / "registry", create=True) as registry:
        registry.add_base("minilm", base)
        registry.publish(links[0], "minilm/plain")
        registry.publish(links[1], "minilm/plain/dora", parent="minilm/plain@1", skip_parent_check=True)
        whole = registry.dense_stats("minilm/plain/dora")
        alone = registry.dense_stats("minilm/plain/dora", since="minilm/plain")
        names = [one.module for one in whole.matrices]
        assert len(names) == 2 * 3  # query and two called output.dense in each layer
        for module in names:
            before, middle, after = (one[f"{module}.weight"].numpy() for one in states)
            largest = abs(after).max()
            a, b = registry.factors("minilm/plain", module)
            assert abs((b @ a).numpy() - (middle - before)).max() <= 1e-12 * largest
            for since, start in ((None, before), ("minilm/plain", middle)):
                found = registry.delta("minilm/plain/dora", module, since=since).numpy()
                assert abs(found - (after - start)).max() <= 1e-6 * largest  # PEFT keeps some norms in float32

        for statistics, first in ((whole, 0), (alone, 1)):
            for one in statistics.matrices[::2]:
                start, end = (torch.as_tensor(states[at][f"{one.module}.weight"]) for at in (first, 2))
                values = torch.linalg.svdvals(end - start)
                assert one.frobenius == pytest.approx(float(values.norm()), rel=1e-5)
                assert one.spectral == pytest.approx(float(values[0]), rel=1e-5)
                left = [torch.linalg.svd(weight, full_matrices=False)[0] for weight in (start, end)]
                expected = (left[0].T @ left[1][:, :10]).abs().amax(0)
                assert one.cosines == pytest.approx(tuple(expected.tolist()), abs=1e-4)
                (ratios,) = one.magnitudes
                assert (one.added, ratios.link) == (False, 2)
                assert 0 < ratios.least <= ratios.mean <= ratios.most
