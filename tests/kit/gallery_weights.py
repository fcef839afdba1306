"""Adapters whose deltas have a shape: some modules and depths change more than others, and singular values fall.

Adapters drawn at random change every module alike, by directions that have nothing in common: no figure shows anything.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from tests.kit.adapters import write_adapter
from tests.kit.bases import Base
from tests.kit.floats import Array
from tests.kit.recipes import Recipe, write_recipe
from tests.kit.tensor_files import RawTensor, read_tensors, write_tensors

WEIGHTS: Final = "adapter_model.safetensors"
_DEPTH: Final = re.compile(r"\.(?:layers|h)\.(\d+)\.")
_LEAVES: Final = {"q_proj": 0.8, "k_proj": 0.5, "v_proj": 1.5, "o_proj": 1.1, "gate_proj": 0.7, "down_proj": 1.3}
"""How much the modules of a name change beside the others."""


@dataclass(frozen=True)
class Shape:
    """How a trained adapter differs from one that was drawn."""

    own: int  # seed of what is its own; the recipe's seed draws what it has in common with others of that seed
    share: float = 0.6  # of its direction that it has in common
    size: float = 0.12  # of its deltas, beside those that `write_recipe` draws
    peak: float = 0.6  # the depth that changes most, as a share of all layers
    width: float = 0.3  # how far around it
    decay: float = 3.0  # the last singular value is about exp(-decay) of the first


def write_shaped(folder: Path, base: Base, recipe: Recipe, shape: Shape) -> Path:
    """Write the adapter of a recipe with deltas of a shape; returns its folder."""
    write_recipe(folder, base, recipe)
    tensors = read_tensors(folder / WEIGHTS)
    random = np.random.default_rng([shape.own, 41])
    depths = [int(found[1]) for name in base.modules if (found := _DEPTH.search(f".{name}."))]
    last = max(depths, default=1) or 1
    for name, raw in tensors.items():
        if name.endswith("lora_B.weight"):
            tensors[name] = RawTensor.of(_shaped(raw.values, name, shape, last, random), raw.dtype)
    write_tensors(folder / WEIGHTS, tensors)
    return folder


def _shaped(b: Array, name: str, shape: Shape, last: int, random: np.random.Generator) -> Array:
    own = random.standard_normal(b.shape) * float(np.std(b))
    mixed = shape.share * b + np.sqrt(1 - shape.share**2) * own
    columns = np.exp(-shape.decay * np.arange(b.shape[1]) / b.shape[1])
    found = _DEPTH.search(name)
    depth = 0.5 if found is None else int(found[1]) / last
    by_depth = 0.25 + np.exp(-(((depth - shape.peak) / shape.width) ** 2))
    by_leaf = next((one for leaf, one in _LEAVES.items() if f".{leaf}." in name), 1.0)
    shaped: Array = mixed * columns * (shape.size * by_depth * by_leaf * random.uniform(0.85, 1.15))
    return shaped


def write_changed(folder: Path, source: Path, factor: float, noise: float = 0.0, seed: int = 0) -> Path:
    """A copy of an adapter with its deltas times a factor, and some noise beside them."""
    random = np.random.default_rng([seed, 43])
    tensors = read_tensors(source / WEIGHTS)
    for name, raw in tensors.items():
        if name.endswith("lora_B.weight"):
            values = raw.values * factor * (1 + noise * random.standard_normal(raw.shape))
            tensors[name] = RawTensor.of(values, raw.dtype)
    write_tensors(folder / WEIGHTS, tensors)
    (folder / "adapter_config.json").write_bytes((source / "adapter_config.json").read_bytes())
    return folder


def write_untrained(folder: Path, base: Base, targets: tuple[str, ...], r: int) -> Path:
    """An adapter as it is before its first step: every delta is zero."""
    return write_adapter(folder, base, targets, r=r, fill="zero")
