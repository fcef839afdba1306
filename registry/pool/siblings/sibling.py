"""One of the adapters that are trained: its factors and copies, its optimizer, and how far it is."""

from __future__ import annotations

import copy
import hashlib
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from registry.errors import UsageError
from registry.pool.siblings.factors import Dropout, Pair, make_pair
from registry.pool.siblings.recipe import Recipe
from registry.pool.siblings.targets import find_targets

MakeOptimizer = Callable[[list[nn.Parameter]], Optimizer]


@dataclass(frozen=True)
class Pace:
    """How a sibling is updated."""

    optimizer: MakeOptimizer
    max_grad_norm: float | None
    accumulate: int


class Sibling:
    """One adapter in training.

    Raises:
        UsageError: what its recipe names is not in the model, or is of a kind that is not trained.
    """

    def __init__(self, model: nn.Module, recipe: Recipe, pace: Pace, seed: int) -> None:
        self.recipe = recipe
        targets = find_targets(model, recipe)
        generator = torch.Generator().manual_seed(_seed(seed, recipe.path, "factors"))
        device = targets.pairs[0].module.get_parameter("weight").device
        self.generator = torch.Generator(device).manual_seed(_seed(seed, recipe.path, "dropout"))
        dropout = Dropout(recipe.dropout, self.generator) if recipe.dropout else None
        self.pairs: dict[str, Pair] = {one.name: make_pair(one, recipe, generator, dropout) for one in targets.pairs}
        self.copies = {name: _copy(module) for name, module in targets.saved.items()}
        self.modules = {one.name: one.module for one in targets.pairs} | targets.saved
        self.parameters = list(self.named_parameters().values())
        self.optimizer = pace.optimizer(self.parameters)
        self.updates = 0
        self.set_aside: str | None = None
        """Why it is not trained any more."""
        self.due = False
        """Whether a loss of it was taken that it is not updated for yet."""
        self._pace = pace
        self._batches = 0  # that the gradients are of

    def put_aside(self, why: str) -> None:
        """Train it no more; what it is now is kept, and can be neither saved nor published."""
        self.set_aside = why
        self._forget()

    def update(self) -> float | None:
        """Count one more batch, and step where it is time; the norm of the gradient before it was clipped, if so.

        One whose gradient is not finite is put aside.
        """
        self.due = False
        self._batches += 1
        if self._batches < self._pace.accumulate:
            return None
        if self._batches > 1:
            for one in self.parameters:
                if one.grad is not None:
                    one.grad.div_(self._batches)
        norm = _norm(self.parameters)
        if not bool(torch.isfinite(norm)):
            self.put_aside(f"the norm of its gradient was {float(norm)}, after {self.updates} updates")
            return None
        most = self._pace.max_grad_norm
        share = math.inf if most is None else most / (float(norm) + 1e-6)  # as torch's `clip_grad_norm_`
        for one in self.parameters if share < 1 else ():
            if one.grad is not None:
                one.grad.mul_(share)
        self.optimizer.step()
        self.updates += 1
        self._forget()
        return float(norm)

    def named_parameters(self) -> dict[str, nn.Parameter]:
        """What is trained, by module and part."""
        return {f"{at}.{name}": one for at, held in self._held().items() for name, one in held.named_parameters()}

    def state(self) -> dict[str, Any]:
        """All that training it further needs, without the gradients of batches that are not updated yet."""
        return {
            "values": {name: one.detach().clone() for name, one in self._values().items()},
            "optimizer": copy.deepcopy(self.optimizer.state_dict()),
            "dropout": self.generator.get_state(),
            "updates": self.updates,
            "set_aside": self.set_aside,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a state.

        Raises:
            UsageError: it is of another recipe.
        """
        own, values = self._values(), state["values"]
        if {name: one.shape for name, one in own.items()} != {name: one.shape for name, one in values.items()}:
            raise UsageError(f"{self.recipe.path}: the state is of another configuration.")
        with torch.no_grad():
            for name, one in own.items():
                one.copy_(values[name])
        self.optimizer.load_state_dict(copy.deepcopy(state["optimizer"]))
        self.generator.set_state(state["dropout"])
        self.updates, self.set_aside = state["updates"], state["set_aside"]
        self._forget()

    def tensors(self) -> dict[str, torch.Tensor]:
        """Its tensors by the names that PEFT saves them under."""
        found = {
            f"base_model.model.{name}.{end}": one
            for name, pair in self.pairs.items()
            for end, one in pair.tensors().items()
        }
        for name, held in self.copies.items():
            found |= {f"base_model.model.{name}.{end}": one for end, one in held.state_dict().items()}
        return {name: one.detach().cpu().contiguous() for name, one in found.items()}

    def _forget(self) -> None:
        self.due = False
        self._batches = 0
        self.optimizer.zero_grad(set_to_none=True)

    def _held(self) -> dict[str, nn.Module]:
        return {**self.pairs, **self.copies}

    def _values(self) -> dict[str, torch.Tensor]:
        return {
            f"{name}.{end}": one
            for name, held in self._held().items()
            for end, one in held.state_dict(keep_vars=True).items()
        }


def _norm(parameters: Iterable[nn.Parameter]) -> torch.Tensor:
    """The norm of all gradients together."""
    norms = [torch.linalg.vector_norm(one.grad) for one in parameters if one.grad is not None]
    found: torch.Tensor = torch.linalg.vector_norm(torch.stack(norms)) if norms else torch.zeros(())
    return found


def _copy(module: nn.Module) -> nn.Module:
    found = copy.deepcopy(module)
    return found.requires_grad_(requires_grad=True)


def _seed(seed: int, path: str, what: str) -> int:
    """A seed of a sibling's own, whatever others there are."""
    return int.from_bytes(hashlib.sha256(f"{seed} {path} {what}".encode()).digest()[:8], "big") >> 1
