"""A PEFT LoRA checkpoint held against the base model that it belongs to.

From names, dtypes and shapes alone: no weight is read. What comes out is one pair (A, B) and its scale for each target
module, in the orientation of the base; whatever has no place there is refused by name (in the order of the publish
checklist: names, pairs, dtypes, targets, shapes, ranks, coverage).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType

from registry.errors import InvalidAdapterError
from registry.tensors.adapter_parts import PAIRS, Parts, sort_parts
from registry.tensors.coverage import check_coverage
from registry.tensors.fit import as_folded, check_copy, check_factors, may_be_copied, resolve
from registry.tensors.header import TensorEntry
from registry.tensors.key_grammar import Part
from registry.tensors.lora_config import LoraAdapterConfig
from registry.tensors.patterns import PatternBudget
from registry.tensors.scales import Scales
from registry.tensors.strict_json import shown
from registry.tensors.targets import Target, TargetTable


@dataclass(frozen=True)
class LoraPair:
    """The pair of one target module: its weight changes by ``scaling`` B A in oriented space (out x in)."""

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
    copies: Mapping[str, TensorEntry]  # canonical module name -> copy of its whole weight, as it was trained on
    notices: tuple[str, ...]

    @cached_property
    def rank(self) -> int:
        """The largest rank of a pair."""
        return max(pair.rank for pair in self.pairs.values())

    @cached_property
    def parameters(self) -> int:
        """Elements of all pairs."""
        return sum(pair.a.elements + pair.b.elements for pair in self.pairs.values())


def read_checkpoint(config: LoraAdapterConfig, tensors: Mapping[str, TensorEntry], table: TargetTable) -> Checkpoint:
    """Check an adapter's tensors against its configuration and its base.

    Args:
        config: the adapter's configuration.
        tensors: the tensors of adapter_model.safetensors by name.
        table: the target table of the base model.

    Returns:
        The pairs, the copies of whole weights (that these equal the composed parent is for the caller to check), and
        notices for people.

    Raises:
        InvalidAdapterError: naming the tensor, module or field; the code says which rule it was.
    """
    parts, notices = sort_parts(config, tensors)
    targets = _targets(parts, table)
    budget = PatternBudget()
    scales = Scales(config, budget)
    copies: dict[str, TensorEntry] = {}
    pairs: dict[str, LoraPair] = {}
    spelled: dict[str, str] = {}
    for name, found in sorted(parts.items()):
        target = targets[name]
        copy = found.get(Part.COPY, found.get(Part.PARAMETER))
        if copy is not None:
            check_copy(copy, target)
            copies[target.module] = copy
        for first, second in PAIRS:
            if first in found:
                target = as_folded(name, target, embedding=first is Part.EMBEDDING_A, table=table)
                pairs[target.module] = _pair(scales, name, target, found[first], found[second])
                spelled[target.module] = name
    _check_whole(config, pairs)
    notices += scales.notices() + check_coverage(config, table, spelled, budget)
    return Checkpoint(
        config=config,
        pairs=MappingProxyType(dict(sorted(pairs.items()))),
        copies=MappingProxyType(dict(sorted(copies.items()))),
        notices=tuple(notices),
    )


def _targets(parts: Parts, table: TargetTable) -> dict[str, Target]:
    """The target of every module that the checkpoint names; two names for one target are refused."""
    targets: dict[str, Target] = {}
    named: dict[str, str] = {}
    for name, found in parts.items():
        whole = found.get(Part.PARAMETER)
        if whole is not None:
            meant = table.find(name)
            if meant is None or not may_be_copied(meant, table):
                raise InvalidAdapterError(
                    f"Tensor {shown(whole.name)} is a whole weight, but modules_to_save in adapter_config.json does "
                    "not name it. Save the adapter again, or remove the tensor.",
                    code="unexpected_tensor",
                )
        target = targets[name] = resolve(name, table)
        if target.module in named:
            raise InvalidAdapterError(
                f"The modules {shown(named[target.module])} and {shown(name)} of the adapter are the same module of "
                "the base model. Keep one of them.",
                code="unexpected_tensor",
            )
        named[target.module] = name
    return targets


def _pair(scales: Scales, name: str, target: Target, a: TensorEntry, b: TensorEntry) -> LoraPair:
    rank = check_factors(name, target, a, b)
    expected, alpha, reason = scales.of(name)
    if rank != expected:
        raise InvalidAdapterError(
            f"Tensor {shown(a.name)} has rank {rank}, but adapter_config.json gives {expected} for {shown(name)} "
            f"({reason}). Save the adapter again with the configuration that it was trained with.",
            code="rank_mismatch",
        )
    return LoraPair(target.module, target, a, b, rank, alpha, scales.config.scaling(rank, alpha))


def _check_whole(config: LoraAdapterConfig, pairs: Mapping[str, LoraPair]) -> None:
    if not pairs:
        raise InvalidAdapterError(
            "The adapter holds no LoRA pair, so there is nothing to add to the base. Save the adapter again.",
            code="incomplete_adapter",
        )
    if config.use_dora:
        raise InvalidAdapterError(
            "adapter_config.json: use_dora is true; DoRA can't be composed by this version yet. Train a plain LoRA.",
            code="not_supported_yet",
        )
