"""A real QLoRA training by bitsandbytes: ``--onto trained`` makes its model, and PEFT on stored weights another."""

from __future__ import annotations

import warnings
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from registry.services.local import LocalRegistry
from registry.training import publish_model
from tests.kit import llama_base
from tests.kit.peers import load_model, peft_load

TARGETS = ["q_proj", "v_proj", "up_proj", "down_proj"]


def trained(base: Path) -> Any:
    """A PeftModel on the base in 4 bits, after some steps."""
    import peft
    import transformers

    how = transformers.BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.float32,
    )
    auto = transformers.AutoModelForCausalLM
    model = auto.from_pretrained(base, quantization_config=how, dtype=torch.float32, device_map="cpu")
    torch.manual_seed(0)
    made = peft.get_peft_model(model, peft.LoraConfig(r=8, lora_alpha=16, target_modules=TARGETS))
    own = [parameter for parameter in made.parameters() if parameter.requires_grad]
    optimiser = torch.optim.AdamW(own, lr=1e-2)
    for _ in range(15):
        loss(made).backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        optimiser.zero_grad()
    return made.eval()


def loss(model: Any) -> torch.Tensor:
    ids = torch.randint(3, 40, (8, 24), generator=torch.Generator().manual_seed(1))
    found: torch.Tensor = model(input_ids=ids, labels=ids).loss
    return found


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return {name: tensor.double() for name, tensor in load_file(folder / "model.safetensors").items()}


@pytest.mark.slow
def test_the_loss_is_that_of_the_weights_it_was_trained_on(tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    with closing(LocalRegistry.open(tmp_path / "registry", cache_folder=tmp_path / "cache")) as local:
        check(local, tmp_path)


def check(local: LocalRegistry, tmp_path: Path) -> None:
    base = llama_base(tmp_path / "base", dtype="BF16", hidden=64, mlp=128)
    local.add_base("tiny", base.folder)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the libraries, about each other
        model = trained(base.folder)
        published = publish_model(model, "tiny/a", registry=local)
        in_training = loss(model).item()
    assert str(local.show("tiny/a").trained_quantised) == "nf4:64:double"
    assert any("README.md says 4 bits" in notice for notice in published.revision.notices)

    places = {onto: tmp_path / (onto or "stored") for onto in (None, "trained")}
    for onto, place in places.items():
        local.fetch("tiny/a", place, kind="merged", onto=onto, dtype="fp32")  # type: ignore[arg-type]
    found = {onto: loss(load_model(place)).item() for onto, place in places.items()}
    local.fetch("tiny/a", tmp_path / "adapter", kind="published")
    unquantised = loss(peft_load(base.folder, [tmp_path / "adapter"])).item()
    apart = abs(in_training - unquantised)
    assert abs(found["trained"] - in_training) < 2e-3 < apart / 5
    assert abs(found[None] - unquantised) < 1e-4

    (link,) = local.stats("tiny/a").links
    plain, other = (weights(places[onto]) for onto in (None, "trained"))
    moved = sum(
        (plain[f"{one.module}.weight"] - other[f"{one.module}.weight"]).square().sum().item()
        for one in link.delta.modules
    )
    assert link.delta.relative_quantisation == pytest.approx((moved / link.delta.energy) ** 0.5, rel=2e-3)
