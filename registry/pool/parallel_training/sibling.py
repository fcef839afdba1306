"""One of the adapters that are trained: its factors and copies, its optimizer, and how far it is."""

from __future__ import annotations

import copy
import hashlib
import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import nn
from torch.optim import AdamW, Optimizer

from registry.errors import UsageError
from registry.pool.parallel_training.factors import Dropout, Pair, find_targets, make_pair
from registry.pool.parallel_training.recipe import Recipe
from registry.pool.parallel_training.rows import Labels

MakeOptimizer = Callable[[list[nn.Parameter]], Optimizer]


_NOT_DECAYED: Final = re.compile(r"bias|layernorm|rmsnorm|(?:^|\.)norm(?:$|\.)|_norm(?:$|\.)")
"""Names of parameters that `transformers.Trainer` leaves out of weight decay."""


@dataclass(frozen=True)
class Pace:
    """How a sibling is updated."""

    optimizer: MakeOptimizer | None  # None: AdamW, with the next two
    learning_rate: float
    weight_decay: float
    max_grad_norm: float | None
    accumulate: int


@dataclass
class Seen:
    """Losses that were taken, each of some labels."""

    total: float = 0.0
    labels: int = 0

    def add(self, loss: float, labels: int) -> None:
        """One more: the mean over some labels."""
        self.total += loss * labels
        self.labels += labels


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
        self.optimizer = self._adamw(pace) if pace.optimizer is None else pace.optimizer(self.parameters)
        self.updates = 0
        self.set_aside: str | None = None
        """Why it is not trained any more."""
        self.due = False
        """Whether a loss of it was taken that it is not updated for yet."""
        self.seen = {True: Seen(), False: Seen()}
        """Losses of training, and of evaluations, that were not read yet."""
        self.pace = pace
        self._batches = 0  # that the gradients are of
        self._unit = 0  # labels of the first of them that had some: gradients are multiples of its mean's
        self._labels = Labels(0, 0)  # of all of them

    def put_aside(self, why: str) -> None:
        """Train it no more; its state is retained, but can be neither saved nor published."""
        self.set_aside = why
        self.forget()

    def take(self, labels: Labels) -> float:
        """Count a loss in, the mean over some labels.

        Returns:
            What its gradient is to be multiplied by, so that every label weighs the same until the next update.
        """
        self.due = True
        self._unit = self._unit or labels.used
        self._labels = Labels(self._labels.used + labels.used, self._labels.given + labels.given)
        return labels.used / self._unit if self._unit else 0.0

    def update(self, *, complete: bool = False, given: bool = False) -> float | None:
        """Count one more batch, and step where it is time; the norm of the gradient before it was clipped, if so.

        One whose gradient is not finite is put aside.

        Args:
            complete: step now, after any number of batches.
            given: divide by all labels that were given, in place of those that losses were taken of.
        """
        self._batches += self.due
        self.due = False
        if self._batches < self.pace.accumulate and not complete:
            return None
        if not self._unit:
            self.forget()  # no label, so nothing to learn
            return None
        share = (self._labels.given if given else self._labels.used) / self._unit
        if share != 1:
            for one in self.parameters:
                if one.grad is not None:
                    one.grad.div_(share)
        norm = _norm(self.parameters)
        if not bool(torch.isfinite(norm)):
            self.put_aside(f"the norm of its gradient was {float(norm)}, after {self.updates} updates")
            return None
        most = self.pace.max_grad_norm
        share = math.inf if most is None else most / (float(norm) + 1e-6)  # as torch's `clip_grad_norm_`
        for one in self.parameters if share < 1 else ():
            if one.grad is not None:
                one.grad.mul_(share)
        self.optimizer.step()
        self.updates += 1
        self.forget()
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
        self.forget()

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

    def forget(self) -> None:
        """Drop the gradients of batches that it was not updated for."""
        self.due = False
        self._batches = self._unit = 0
        self._labels = Labels(0, 0)
        self.optimizer.zero_grad(set_to_none=True)

    def _adamw(self, pace: Pace) -> Optimizer:
        """AdamW as the Trainer makes it: biases and norms do not decay."""
        norms = {
            f"{at}.{name}.{leaf}".replace("..", ".")
            for at, held in self.copies.items()
            for name, module in held.named_modules()
            if isinstance(module, nn.LayerNorm)
            for leaf in module._parameters
        }
        named = self.named_parameters()
        decay = {
            name: pace.weight_decay for name in named if name not in norms and not _NOT_DECAYED.search(name.lower())
        }
        groups = [
            {"params": [one for name, one in named.items() if decay.get(name, 0.0) == rate], "weight_decay": rate}
            for rate in dict.fromkeys(decay.get(name, 0.0) for name in named)
        ]
        return AdamW(groups, lr=pace.learning_rate, fused=True)

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
    """A sibling's own seed, which does not depend on the other siblings."""
    return int.from_bytes(hashlib.sha256(f"{seed} {path} {what}".encode()).digest()[:8], "big") >> 1
