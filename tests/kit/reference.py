"""The pairs of a plain LoRA folder in float64: rank, scaling, delta. Of every variant: `tests.kit.simulate`."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from tests.kit.floats import Array
from tests.kit.merged_tensor import SUM_ERROR
from tests.kit.tensor_files import read_tensors

__all__ = ["GPT2_CONV1D", "ROOT", "SUM_ERROR", "Pair", "from_pattern", "read_pairs", "scaling_of"]

GPT2_CONV1D: Final = ("c_attn", "c_proj", "c_fc", "q_attn")
"""Leaf names of GPT-2 modules whose weight is stored (in, out)."""

ROOT: Final = "base_model.model."


@dataclass(frozen=True)
class Pair:
    """One A/B pair of an adapter: ``delta`` and ``spread`` (sum |s b a|) are (out, in)."""

    module: str
    rank: int
    scaling: float
    a: Array
    b: Array
    embedding: bool

    @property
    def delta(self) -> Array:
        return self.scaling * (self.b @ self.a)

    @property
    def spread(self) -> Array:
        return abs(self.scaling) * (np.abs(self.b) @ np.abs(self.a))


def from_pattern(patterns: Mapping[str, float], module: str, default: float) -> float:
    """The value of the first pattern, in file order, that names the module (PEFT's rule), else the default."""
    for pattern, value in patterns.items():
        if re.match(rf"(.*\.)?({pattern})$", module):
            return value
    return default


def scaling_of(config: Mapping[str, Any], module: str) -> tuple[int, float]:
    """Rank and scaling of a module."""
    rank = int(from_pattern(config.get("rank_pattern") or {}, module, config["r"]))
    alpha = from_pattern(config.get("alpha_pattern") or {}, module, config["lora_alpha"])
    return rank, alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)


def read_pairs(folder: Path) -> dict[str, Pair]:
    """All pairs of a PEFT folder, by module (without the leading ``base_model.model.``)."""
    config = json.loads((folder / "adapter_config.json").read_text())
    tensors = read_tensors(folder / "adapter_model.safetensors")
    found = {}
    for key, tensor in tensors.items():
        for tail_a, tail_b in ((".lora_A.weight", ".lora_B.weight"), (".lora_embedding_A", ".lora_embedding_B")):
            if key.endswith(tail_a):
                stem = key.removesuffix(tail_a)
                module = stem.removeprefix(ROOT)
                rank, scaling = scaling_of(config, module)
                b = tensors[stem + tail_b].values
                found[module] = Pair(module, rank, scaling, tensor.values, b, "embedding" in tail_a)
    return found
