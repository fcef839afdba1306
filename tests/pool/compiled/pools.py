"""A base, adapters of many ranks and targets, and two running models of it: one compiled, and one as it is."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Final

import torch
from safetensors.torch import load_file
from torch import nn
from torch._dynamo.utils import counters

from registry.pool import AdapterPool
from tests.kit.bases import Base
from tests.kit.peers import load_model
from tests.kit.recipes import Recipe, write_recipe
from tests.kit.shelf import Shelf

Refs = str | Sequence[str | None] | None

X: Final = torch.linspace(-1, 1, 96).view(3, 4, 8).cos()
IDS: Final = torch.tensor([[1, 2, 3, 4, 5], [6, 7, 8, 9, 3], [9, 8, 7, 6, 5]])

_NUMBERS = itertools.count(1)

SHAPES: Final = {
    "one.weight": (12, 8),
    "one.bias": (12,),
    "norm.weight": (12,),
    "norm.bias": (12,),
    "two.weight": (8, 12),
    "head.weight": (5, 8),
    "side.weight": (5, 8),
}


class Net(nn.Module):
    """A net with a norm, which lays the rows of its batch end to end before its second module, as OPT does.

    Its side never sees the batch.
    """

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Linear(8, 12)
        self.norm = nn.LayerNorm(12)
        self.two = nn.Linear(12, 8, bias=False)
        self.head = nn.Linear(8, 5, bias=False)
        self.side = nn.Linear(8, 5, bias=False)
        self.register_buffer("table", torch.linspace(0, 1, 56).view(7, 8), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        between = self.norm(torch.tanh(self.one(x)))
        found: torch.Tensor = self.head(self.two(between.reshape(-1, 12)).view(*x.shape[:-1], 8))
        beside: torch.Tensor = self.side(self.table).mean(0)
        return found + beside


def graphs() -> int:
    """How many graphs were compiled in this process."""
    return int(counters["stats"]["unique_graphs"])


class Models:
    """A base, its adapters, and running models of it."""

    def __init__(self, shelf: Shelf, name: str, make: Callable[..., Base], dtype: torch.dtype = torch.float32) -> None:
        self.shelf = shelf
        self.name = name
        self.base = shelf.base(name, make)
        self._dtype = dtype

    def publish(self, recipe: Recipe) -> str:
        """A new adapter on the base."""
        number = next(_NUMBERS)
        folder = write_recipe(self.shelf.folder(), self.base, replace(recipe, seed=number))
        return self.shelf.registry.publish(folder, f"{self.name}/c{number}").revision.reference

    def load(self) -> Any:
        """The base model, running."""
        if (self.base.architecture or "").startswith("Llama"):
            return load_model(self.base.folder, self._dtype)
        net = Net().to(self._dtype)
        net.load_state_dict(load_file(self.base.folder / "model.safetensors"))
        return net.eval()

    @contextmanager
    def pair(self, **options: Any) -> Iterator[Pair]:
        """Two of them, of which one is compiled by dynamo alone: no C++ compiler is needed."""
        model, eager = self.load(), self.load()
        with (
            torch.no_grad(),
            AdapterPool(model, self.shelf.registry) as pool,
            AdapterPool(eager, self.shelf.registry) as plain,
            torch._dynamo.config.patch(fail_on_recompile_limit_hit=True),
        ):
            pool.compile(**{"max_rank": 64, "backend": "eager", "fullgraph": True, **options})
            yield Pair(pool, model, plain, eager)


class Pair:
    """The same calls of a compiled model, and of the same as it is."""

    def __init__(self, pool: AdapterPool, model: Any, plain: AdapterPool, eager: Any) -> None:
        self.pool, self.model, self.plain, self.eager = pool, model, plain, eager

    def differ(self, refs: Refs, x: torch.Tensor = IDS) -> float:
        """By how much the compiled model's output is another, as a part of the largest."""
        return self._between(refs, refs, x)

    def changes(self, refs: Refs, x: torch.Tensor = IDS) -> float:
        """By how much the compiled model's output is another than the base's."""
        return self._between(refs, None, x)

    def merged(self, reference: str) -> float:
        """By how much the compiled model's output is another where a path is merged into both."""
        self.pool.merge(reference)
        self.plain.merge(reference)
        return _apart(_tensor(self.model(IDS)), _tensor(self.eager(IDS)))

    def unmerge(self) -> None:
        """Give both the base's weights back."""
        self.pool.unmerge()
        self.plain.unmerge()

    def _between(self, refs: Refs, others: Refs, x: torch.Tensor) -> float:
        with self.pool.use(refs):
            found = _tensor(self.model(x))
        with self.plain.use(others):
            return _apart(found, _tensor(self.eager(x)))


def _tensor(output: Any) -> torch.Tensor:
    found = output if isinstance(output, torch.Tensor) else output[0]
    assert isinstance(found, torch.Tensor)
    return found


def _apart(found: torch.Tensor, right: torch.Tensor) -> float:
    assert (found.shape, found.dtype) == (right.shape, right.dtype)
    return float((found.double() - right.double()).abs().max() / right.double().abs().max())
