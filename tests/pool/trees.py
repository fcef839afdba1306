"""Trees of adapters over one base, running models of it, and the weights they should have, bit for bit."""

from __future__ import annotations

import hashlib
import itertools
import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import torch

from registry.schemas import Dtype
from tests.kit.peers import load_model
from tests.kit.recipes import write_recipe
from tests.kit.shelf import Shelf
from tests.kit.variants import MAKERS, VARIANTS

DTYPES: Final[Mapping[torch.dtype, Dtype]] = {torch.bfloat16: "bf16", torch.float16: "fp16", torch.float32: "fp32"}

_NUMBERS = itertools.count()

Bits = Mapping[str, str]


def bits(model: torch.nn.Module) -> Bits:
    """The digest of every tensor of a model."""
    return {name: _digest(tensor) for name, tensor in model.state_dict().items()}


def _digest(tensor: torch.Tensor) -> str:
    data = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    return f"{tensor.dtype} {tuple(tensor.shape)} {hashlib.sha256(data).hexdigest()}"


class Tree:
    """Adapters over one base; the bits are those of models that transformers loads from the fetched merged files."""

    def __init__(self, shelf: Shelf, kind: str, dtype: torch.dtype = torch.float32, stored: str = "F32") -> None:
        self.shelf = shelf
        self.registry = shelf.registry
        self.dtype = dtype
        self.name = f"{kind.replace(' ', '-').replace('_', '-')}-{stored.lower()}"
        # no two bases alike: of two with the same weights either would be right
        self.base = shelf.base(self.name, MAKERS[kind], dtype=stored)
        self.references: list[str] = []
        self._kind = kind
        self._parents: dict[str, str | None] = {}
        self._folders: dict[str, Path] = {}
        self._bits: dict[str | None, Bits] = {}

    def load(self) -> Any:
        """The base model, running."""
        return load_model(self.base.folder, self.dtype)

    def publish(self, variant: str, parent: str | None = None) -> str:
        """A new adapter on a revision, or on the base."""
        number = len(self.references) + 1
        recipe = replace(VARIANTS[self._kind][variant], seed=number)
        folder = write_recipe(self.shelf.folder(), self.base, recipe, self._above(parent))
        path = f"{(parent or self.name).partition('@')[0]}/a{next(_NUMBERS)}"
        options: dict[str, Any] = {} if parent is None else {"parent": parent, "skip_parent_check": True}
        found = self.registry.publish(folder, path, **options).revision.reference
        self._folders[found], self._parents[found] = folder, parent
        self.references.append(found)
        return found

    def _above(self, parent: str | None) -> list[Path]:
        return [] if parent is None else [*self._above(self._parents[parent]), self._folders[parent]]

    def grow(self, variants: Sequence[str], chance: random.Random) -> None:
        """One adapter of each variant, each on the base or on an earlier one."""
        for variant in variants:
            self.publish(variant, chance.choice([None, *self.references]))

    def bits(self, reference: str | None) -> Bits:
        """Those of the merged model; None: of the base."""
        if reference not in self._bits:
            folder = self.base.folder
            if reference is not None:
                folder = self.shelf.folder()
                self.registry.fetch(reference, folder, kind="merged", dtype=DTYPES[self.dtype])
            self._bits[reference] = bits(load_model(folder, self.dtype))
        return self._bits[reference]
