"""A PEFT LoRA checkpoint held against the base model that it belongs to.

From names, dtypes and shapes alone: no weight is read. What comes out is one pair (A, B) and its scale for each target
module, in the orientation of the base; whatever has no place there is refused by name (the order of the checks is
that of the publish checklist: names, pairs, dtypes, targets, shapes, ranks, coverage).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType
from typing import Final

from registry.errors import InvalidAdapterError
from registry.tensors.coverage import check_coverage
from registry.tensors.dtypes import FLOATS
from registry.tensors.fit import Modules, check_copy, fitted, resolve_modules
from registry.tensors.header import TensorEntry
from registry.tensors.key_grammar import ParsedKey, Part, parse_key
from registry.tensors.lora_config import LoraAdapterConfig
from registry.tensors.patterns import PatternBudget, PatternMap
from registry.tensors.strict_json import shown
from registry.tensors.targets import Target, TargetTable

_PAIRS: Final = ((Part.A, Part.B), (Part.EMBEDDING_A, Part.EMBEDDING_B))


@dataclass(frozen=True)
class LoraPair:
    """The pair of one target module: the module's weight changes by ``scaling`` B A in oriented space (out x in)."""

    module: str  # canonical name in the target table
    target: Target
    a: TensorEntry  # (rank, in_features); for an embedding lora_embedding_A (rank, vocabulary)
    b: TensorEntry  # (out_features, rank); for an embedding lora_embedding_B (features, rank)
    rank: int
    alpha: float
    scaling: float


@dataclass(frozen=True)
class Checkpoint:
    """What an adapter does to its base, from its headers."""

    config: LoraAdapterConfig
    pairs: Mapping[str, LoraPair]  # by canonical module name, sorted
    copies: Mapping[str, TensorEntry]  # canonical module name -> copy of the module's whole weight as it was trained on
    notices: tuple[str, ...]

    @cached_property
    def rank(self) -> int:
        """The largest rank of a pair."""
        return max(pair.rank for pair in self.pairs.values())

    @cached_property
    def parameters(self) -> int:
        """Elements of all pairs."""
        return sum(pair.a.elements + pair.b.elements for pair in self.pairs.values())


def read_checkpoint(
    config: LoraAdapterConfig, tensors: Mapping[str, TensorEntry], table: TargetTable
) -> Checkpoint:
    """Check an adapter's tensors against its configuration and its base.

    Args:
        config: the adapter's configuration.
        tensors: the tensors of adapter_model.safetensors by name.
        table: the target table of the base model.

    Raises:
        InvalidAdapterError: what is wrong, naming the tensor or the field; the code says which rule it was.
    """
    parts, notices = _by_module(config, tensors)
    _check_pairs(parts)
    _check_dora(config, parts)
    for entry in tensors.values():
        _check_dtype(entry)
    modules = resolve_modules(parts, table)
    copies = {
        modules.canonical[name]: check_copy(found[part], modules.target(name))
        for name, found in parts.items()
        for part in (Part.COPY, Part.PARAMETER)
        if part in found
    }
    budget = PatternBudget()
    scales = _Scales(config, budget)
    pairs = {}
    for name, found in parts.items():
        for first, second in _PAIRS:
            if first in found:
                canonical = modules.canonical[name]
                pairs[canonical] = _pair(config, scales, name, modules, found[first], found[second], first)
    if not pairs:
        raise InvalidAdapterError("The adapter holds no LoRA pair: there is nothing to add to the base.", code="incomplete_adapter")
    if config.use_dora:
        raise InvalidAdapterError(
            "adapter_config.json: use_dora is true; DoRA can't be composed by this version yet. Train a plain LoRA.",
            code="not_supported_yet",
        )
    spelled = {modules.canonical[name]: name for name in parts if modules.canonical[name] in pairs}
    notices += scales.notices() + check_coverage(config, table, spelled, budget)
    return Checkpoint(
        config=config,
        pairs=MappingProxyType(dict(sorted(pairs.items()))),
        copies=MappingProxyType(dict(sorted(copies.items()))),
        notices=tuple(notices),
    )
