"""What a path of adapters means, computed the slow and plain way in float64.

It shares no code with `registry` and uses neither torch nor PEFT, so that no mistake can be made in both.
W' = W + sum over the links of s * B @ A, with s = alpha / r or alpha / sqrt(r); the sum is transposed where the weight
is stored (in, out).
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from tests.kit.floats import Array, round_once, spacing
from tests.kit.tensor_files import RawTensor, read_model, read_tensors

SUM_ERROR: Final = 2.0**-20
"""Allowed error of the sum, relative to |w| + sum |s b a| (design point 6)."""

GPT2_CONV1D: Final = ("c_attn", "c_proj", "c_fc", "q_attn")
"""Leaf names of GPT-2 modules whose weight is stored (in, out)."""

ROOT: Final = "base_model.model."


@dataclass(frozen=True)
class MergedTensor:
    """One tensor of the merged model."""

    base: RawTensor
    values: Array  # float64
    magnitude: Array  # |w| + sum |s b a| of each element
    touched: bool  # whether a link has a pair for it

    def bound(self, dtype: str | None = None) -> Array:
        """Largest allowed error of each element of an output in ``dtype`` (None: that of the base).

        Half a unit in the last place of the rounded sum, and the error of the sum itself.
        """
        slack = SUM_ERROR * self.magnitude
        return 0.5 * spacing(np.abs(self.values) + slack, dtype or self.base.dtype) + slack

    def rounded(self, dtype: str | None = None) -> Array:
        """The values rounded once."""
        return round_once(self.values, dtype or self.base.dtype)


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


def tensor_name(module: str, prefixes: Mapping[str, str]) -> str:
    """File tensor of a module: the first prefix that it has, in the mapping's order, is replaced."""
    for old, new in prefixes.items():
        if module.startswith(old):
            return new + module.removeprefix(old) + ".weight"
    return module + ".weight"


def merge_reference(
    base: Path,
    adapters: Sequence[Path],
    *,
    conv1d: Sequence[str] = (),
    prefixes: Mapping[str, str] | None = None,
    tensors: Mapping[str, str] | None = None,
) -> dict[str, MergedTensor]:
    """The merged model: every float tensor of the base, by its name in the files.

    Args:
        base: Model folder.
        adapters: PEFT folders in path order, root first.
        conv1d: Leaf names of modules stored (in, out), see `GPT2_CONV1D`.
        prefixes: Lead of a module name -> lead of the tensor name, ``{"transformer.": ""}``.
        tensors: Module -> tensor name, where no rule helps (tied weights).
    """
    weights = {name: raw for name, raw in read_model(base).items() if raw.dtype in ("F64", "F32", "F16", "BF16")}
    values = {name: raw.values for name, raw in weights.items()}
    magnitude = {name: np.abs(array) for name, array in values.items()}
    touched = set()
    for folder in adapters:
        for module, pair in read_pairs(folder).items():
            name = (tensors or {}).get(module) or tensor_name(module, prefixes or {})
            turned = pair.embedding or module.rpartition(".")[2] in conv1d
            values[name] = values[name] + (pair.delta.T if turned else pair.delta)
            magnitude[name] = magnitude[name] + (pair.spread.T if turned else pair.spread)
            touched.add(name)
    return {name: MergedTensor(raw, values[name], magnitude[name], name in touched) for name, raw in weights.items()}


def used_bound(merged: Mapping[str, MergedTensor], out: Mapping[str, RawTensor], dtype: str | None = None) -> float:
    """The largest error of a merged output as a share of its bound: right when at most 1.

    Infinite where a value is not finite, or a tensor has another shape or dtype than it should.
    """
    worst = 0.0
    for name, tensor in merged.items():
        found = out[name]
        if found.shape != tensor.base.shape or found.dtype != (dtype or tensor.base.dtype):
            return math.inf
        values = found.values
        if not np.isfinite(values).all():
            return math.inf
        error = np.abs(values - tensor.values)
        if error.size:
            worst = max(worst, float(np.max(np.where(error == 0, 0.0, error / tensor.bound(dtype)))))
    return worst
