"""Models in 16 bits, on a device, and modules that are given rows and positions in one dimension."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from torch import nn

from registry.errors import UsageError
from registry.pool.parallel_training.factors import find_targets, make_pair
from registry.pool.parallel_training.hooks import Hooks, Trained
from registry.pool.parallel_training.recipe import read_recipe
from registry.pool.parallel_training.rows import Rows
from tests.kit.peers import load_model
from tests.kit.shelf import Shelf
from tests.pool.parallel_training.nursery import Nursery, distance, mine, peft_names, texts, values_of


def in_bf16(folder: Path) -> Any:
    return load_model(folder, torch.bfloat16)


def on_cuda(folder: Path) -> Any:
    return load_model(folder).cuda()


@pytest.mark.parametrize(("load", "most"), [(in_bf16, 1e-2), (on_cuda, 1e-5)])
def test_other_models(shelf: Shelf, load: Callable[[Path], Any], most: float) -> None:
    """Their gradients are those of PEFT too, as exactly as the dtype goes."""
    if load is on_cuda and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    nursery = Nursery(shelf, "llama", load)
    options: dict[str, Any] = {"r": 2, "target_modules": ["q_proj", "down_proj"], "init_lora_weights": False}
    given = {nursery.path("s"): peft.LoraConfig(use_dora=dora, **options) for dora in (False, True)}
    rows = [*given, *given]
    with nursery.pool() as pool, pool.siblings(given, nursery.parent) as siblings:
        device = next(pool._model.parameters()).device
        batch = {name: one.to(device) for name, one in texts(4).items()}
        with siblings.rows(rows):
            out = pool._model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
        torch.autograd.backward(list(siblings.losses(out, batch["labels"]).values()))
        for path, config in given.items():
            alone = nursery.alone(config, values_of(siblings, path))
            alone(**mine(batch, rows, path)).loss.backward()
            for name, one in siblings.named_parameters(path).items():
                other = peft_names(alone)[name].grad
                assert one.grad is not None
                assert other is not None
                assert one.dtype == torch.float32
                assert distance(one.grad, other) <= most, name
        assert set(siblings.update()) == set(given)


class Flat(nn.Module):
    """Gives its linear module all positions of all rows in one dimension, or those of some rows alone."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 3)

    def forward(self, x: torch.Tensor, *, skip: int = 0) -> torch.Tensor:
        flat: torch.Tensor = self.linear(x.flatten(0, 1)[skip:])
        return flat.reshape(*x.shape[:2], 3) if not skip else flat


def test_rows_and_positions_in_one_dimension() -> None:
    torch.manual_seed(0)
    model, x = Flat(), torch.randn(3, 5, 4)
    recipe = read_recipe(
        "base/own", {"r": 2, "lora_alpha": 3, "target_modules": ["linear"], "init_lora_weights": False}
    )
    pair = make_pair(find_targets(model, recipe).pairs[0], recipe, torch.Generator(), None)
    hooks = Hooks(model, [Trained("linear", model.linear, {"base/own": pair})], lambda: None, lambda _: Rows.of([]))
    with hooks.choosing(Rows.of([None, "base/own", None])):
        found = model(x)
        with pytest.raises(UsageError, match=r"is given \[14, 4\], where the batch has 3"):
            model(x, skip=1)
    right = model(x).detach()
    right[1] += 1.5 * x[1] @ pair.a.T @ pair.b.T
    torch.testing.assert_close(found, right)
    hooks.remove()
