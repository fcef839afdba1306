"""A composed adapter names modules as its links do, so that PEFT finds them in the class that was trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

from tests.kit import Base, llama_base
from tests.kit.peers import between_themselves, no_complaints, train_adapter
from tests.kit.shelf import Shelf

Q: dict[str, Any] = {"r": 2, "target_modules": ["q_proj", "up_proj"]}


def load(base: Base, auto: str) -> Any:
    import transformers

    return getattr(transformers, auto).from_pretrained(base.folder, dtype=torch.float32).eval()


def trained(shelf: Shelf, base: Base, autos: list[str], **more: Any) -> list[Path]:
    """A path with a link for each auto class; each on the base, since only names matter here."""
    path = []
    for number, auto in enumerate(autos):
        path.append(shelf.folder())
        train_adapter(path[-1], load(base, auto), seed=number, **{**Q, **more})
    return path


def names(adapter: Path) -> list[str]:
    with safe_open(adapter / "adapter_model.safetensors", "pt") as file:
        return [name.removeprefix("base_model.model.") for name in file.keys()]  # noqa: SIM118 (it is no dict)


def states(model: Any) -> torch.Tensor:
    with torch.no_grad():
        out = model(input_ids=torch.tensor([[3, 1, 4, 1, 5]]), output_hidden_states=True)
    found: torch.Tensor = out.hidden_states[-1]
    return found


@pytest.mark.parametrize("auto", ["AutoModel", "AutoModelForCausalLM"])
def test_peft_finds_every_module_in_the_class_that_was_trained(shelf: Shelf, auto: str) -> None:
    import peft

    base = shelf.base("llama", llama_base)
    path = trained(shelf, base, [auto, auto])
    reference = shelf.path("llama", path)
    composed, merged = shelf.composed(reference), shelf.folder()
    shelf.registry.fetch(reference, merged, kind="merged")
    expected = states(load(Base(merged, base.modules, base.architecture), auto))
    model = load(base, auto)
    with no_complaints(), between_themselves():
        ours = peft.PeftModel.from_pretrained(model, str(composed)).eval()
    assert torch.allclose(states(ours), expected, atol=1e-5)
    assert not torch.allclose(states(ours), states(load(base, auto)), atol=1e-3)
    assert set(names(composed)) == set(names(path[0]))


def test_the_youngest_link_decides(shelf: Shelf) -> None:
    base = shelf.base("llama", llama_base)
    for autos, lead in ((["AutoModel", "AutoModelForCausalLM"], "model."), (["AutoModelForCausalLM", "AutoModel"], "")):
        composed = shelf.composed(shelf.path("llama", trained(shelf, base, autos)))
        assert {name.partition("layers.")[0] for name in names(composed)} == {lead}


def test_what_only_a_model_with_a_head_has_keeps_the_names_of_that(shelf: Shelf) -> None:
    base = shelf.base("llama", llama_base)
    first = trained(shelf, base, ["AutoModelForCausalLM"], target_modules=["q_proj", "lm_head"])
    composed = shelf.composed(shelf.path("llama", [*first, *trained(shelf, base, ["AutoModel"])]))
    assert {name.partition(".")[0] for name in names(composed)} == {"model", "lm_head"}
