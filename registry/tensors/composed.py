"""Composed adapters: one PEFT LoRA that equals a whole path.

Scale-1 normal form: the links' factors side by side with the scales folded into B, ``lora_alpha == r``,
``use_rslora = false``, and per-module ranks and alphas that are equal, so that alpha / r is 1 for readers that honour
the patterns and for those that ignore them (PEFT's ``LoraLayer.update_layer``; vLLM scales with one alpha / r).
Where the sum of ranks passes the matrix, one factor is the identity and the other the delta itself: exact, and no SVD
whose bits would depend on the machine.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch

from registry.tensors.artifact import ArtifactFile, Buffer, Region, bytes_region, generated_file
from registry.tensors.blocks import add_product, block_rows, pad_rows, rounded
from registry.tensors.dtypes import FLOATS
from registry.tensors.factors import TargetLinks
from registry.tensors.header import write_header
from registry.tensors.merged import as_buffer, overflow
from registry.tensors.rounding import sum_dtype
from registry.tensors.targets import TargetKind, TargetTable

WEIGHTS: Final = "adapter_model.safetensors"
CONFIG: Final = "adapter_config.json"
_PREFIX: Final = "base_model.model."

Rows = Callable[[int, int], torch.Tensor]  # rows start to stop of a factor, in the precision of sums


@dataclass(frozen=True)
class ComposedPair:
    """The one pair that stands for all links on a target."""

    module: str
    links: TargetLinks

    @property
    def dense(self) -> bool:
        """Whether the links' ranks together pass the matrix, so that the delta itself is smaller."""
        return self.links.rank > min(self.links.target.in_features, self.links.target.out_features)

    @property
    def rank(self) -> int:
        """Rank of the composed pair."""
        target = self.links.target
        return min(target.in_features, target.out_features) if self.dense else self.links.rank

    def tensors(self) -> tuple[tuple[str, tuple[int, int], Rows], tuple[str, tuple[int, int], Rows]]:
        """Name, shape and rows of A (rank, in_features) and of B (out_features, rank)."""
        target = self.links.target
        kind = "embedding" if target.kind is TargetKind.EMBEDDING else "linear"
        name_a, name_b = (
            _PREFIX + self.module + tail
            for tail in {
                "embedding": (".lora_embedding_A", ".lora_embedding_B"),
                "linear": (".lora_A.weight", ".lora_B.weight"),
            }[kind]
        )
        rows_a, rows_b = self._rows()
        return (
            (name_a, (self.rank, target.in_features), rows_a),
            (name_b, (target.out_features, self.rank), rows_b),
        )

    def _rows(self) -> tuple[Rows, Rows]:
        dtype = sum_dtype(*self.links.dtypes)
        if not self.dense:
            return self._links_a(dtype), lambda start, stop: self.links.b(dtype, start, stop)
        target = self.links.target
        identity: Rows = lambda start, stop: torch.eye(self.rank, dtype=dtype)[start:stop]  # noqa: E731 - a row source like the others
        if target.in_features <= target.out_features:
            return identity, self._delta(dtype)
        return self._delta(dtype), identity

    def _links_a(self, dtype: torch.dtype) -> Rows:
        def rows(start: int, stop: int) -> torch.Tensor:
            parts, at = [], 0
            for link in self.links.links:
                rank = link.pair.rank
                first, last = max(start, at), min(stop, at + rank)
                if first < last:
                    parts.append(link.a_rows(first - at, last - at, dtype))
                at += rank
            return torch.cat(parts)

        return rows

    def _delta(self, dtype: torch.dtype) -> Rows:
        """Rows of the delta, always computed in whole blocks of the grid."""

        def rows(start: int, stop: int) -> torch.Tensor:
            right = self.links.a(dtype)
            step = block_rows(self.links.target.out_features, right.shape[1])
            if start % step:
                raise AssertionError("deltas are read on the grid of their blocks")
            left = pad_rows(self.links.b(dtype, start, stop), step)
            sums = torch.zeros(left.shape[0], right.shape[1], dtype=dtype)
            for first in range(0, left.shape[0], step):
                add_product(sums[first : first + step], left[first : first + step], right)
            return sums[: stop - start]

        return rows


def composed_files(
    targets: Mapping[str, TargetLinks],
    table: TargetTable,
    *,
    dtype: str,
    base_repo: str | None,
    hints: Mapping[str, Any],
) -> tuple[ArtifactFile, ArtifactFile]:
    """The two files of the composed adapter.

    Args:
        targets: links by target module.
        table: the base's target table.
        dtype: of the factors (``F32``).
        base_repo: what the config calls the model that the adapter belongs on.
        hints: fields that do not change the maths (``task_type``, ``auto_mapping``), from the youngest link.
    """
    pairs = [ComposedPair(module, links) for module, links in targets.items()]
    return _weights(pairs, dtype), generated_file(CONFIG, _config(pairs, table, base_repo, hints))


def _weights(pairs: Sequence[ComposedPair], dtype: str) -> ArtifactFile:
    tensors = sorted((tensor for pair in pairs for tensor in pair.tensors()), key=lambda tensor: tensor[0])
    lead, header = write_header(((name, dtype, shape) for name, shape, _ in tensors), {"format": "pt"})
    regions = [bytes_region(0, lead)]
    for name, shape, rows in tensors:
        entry = header.entries[name]
        step = block_rows(*shape)
        row_bytes = shape[1] * FLOATS[dtype].itemsize
        make = _maker(name, shape[0], step, rows, FLOATS[dtype])
        regions.append(Region(entry.start, entry.stop, step * row_bytes, make))
    return ArtifactFile(WEIGHTS, regions, header)


def _maker(name: str, rows: int, step: int, source: Rows, dtype: torch.dtype) -> Callable[[int], Buffer]:
    def make(index: int) -> Buffer:
        values = rounded(source(index * step, min((index + 1) * step, rows)), dtype)
        if values is None:
            raise overflow(name, dtype)
        return as_buffer(values)

    return make


def _config(
    pairs: Sequence[ComposedPair], table: TargetTable, base_repo: str | None, hints: Mapping[str, Any]
) -> bytes:
    rank = max(pair.rank for pair in pairs)
    # A pattern is a regex that PEFT matches as (.*\.)?(key)$; anchored full names can't match another module.
    pattern = {"^" + re.escape(pair.module): pair.rank for pair in pairs if pair.rank != rank}
    document = {
        "peft_type": "LORA",
        "task_type": hints.get("task_type"),
        "auto_mapping": hints.get("auto_mapping"),
        "base_model_name_or_path": base_repo,
        "revision": None,
        "inference_mode": True,
        "r": rank,
        "lora_alpha": rank,
        "rank_pattern": pattern,
        "alpha_pattern": pattern,
        "use_rslora": False,
        "use_dora": False,
        "lora_dropout": 0.0,
        "bias": "none",
        "init_lora_weights": True,
        "fan_in_fan_out": any(pair.links.target.kind is TargetKind.CONV1D for pair in pairs),
        "modules_to_save": None,
        "target_modules": _target_modules([pair.module for pair in pairs], table),
    }
    return (json.dumps(document, indent=2, sort_keys=True) + "\n").encode("utf-8")


def _target_modules(modules: Sequence[str], table: TargetTable) -> list[str] | str:
    """Full names; as a regex where a name is also the end of another module's name, which PEFT would match too."""
    others = set(table.targets) - set(modules)
    if any(other.endswith("." + module) for other in others for module in modules):
        return "(" + "|".join(re.escape(module) for module in modules) + ")"
    return list(modules)
