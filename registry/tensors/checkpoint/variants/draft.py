"""A checkpoint while it is read: the tensors that no variant has claimed yet, and what the others came to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import NoReturn, TypeVar

from registry.errors import InvalidAdapterError
from registry.tensors.checkpoint.adapter import Checkpoint, LoraPair, NewValue, TokenRows, Twin
from registry.tensors.checkpoint.adapter_config import LoraAdapterConfig
from registry.tensors.checkpoint.coverage import saved_names
from registry.tensors.checkpoint.name_ends import NameEnds
from registry.tensors.checkpoint.patterns import PatternBudget
from registry.tensors.checkpoint.scales import Scales
from registry.tensors.files.header import TensorEntry
from registry.tensors.files.strict_json import shown
from registry.tensors.table.targets import TargetTable

Parts = dict[str, dict[str, TensorEntry]]
"""Module as the checkpoint spells it -> part, or name of a whole parameter -> tensor."""


Value = TypeVar("Value")


def refuse_tensor(entry: TensorEntry, why: str, code: str) -> NoReturn:
    """Raise the error for one tensor."""
    raise InvalidAdapterError(f"Tensor {shown(entry.name)} {why}", code=code)


@dataclass
class Draft:
    """What the variants work on, one after another."""

    config: LoraAdapterConfig
    table: TargetTable
    parts: Parts  # of adapters: lora_A.weight, lora_magnitude_vector, ...
    whole: Parts  # whole parameters: weight, bias, ...
    notices: list[str]
    budget: PatternBudget = field(default_factory=PatternBudget)
    pairs: dict[str, LoraPair] = field(default_factory=dict)
    values: dict[str, NewValue] = field(default_factory=dict)
    tokens: dict[str, TokenRows] = field(default_factory=dict)
    copies: dict[str, TensorEntry] = field(default_factory=dict)
    twins: list[Twin] = field(default_factory=list)
    spelled: dict[str, str] = field(default_factory=dict)  # `LoraPair.module` -> module as the checkpoint spells it
    adapted: dict[str, str] = field(default_factory=dict)  # module in the table -> as spelled; of `target_modules` only
    implied: set[str] = field(default_factory=set)  # of `adapted`: PEFT adds them without being told

    def __post_init__(self) -> None:
        self.scales = Scales(self.config, self.budget)
        self.saved = NameEnds(saved_names(self.config))

    @property
    def modules(self) -> set[str]:
        """Modules of the base that have a pair."""
        return {pair.target.module for pair in self.pairs.values()}

    def is_saved(self, module: str) -> bool:
        """Whether a module is, or lies in, one that is trained whole."""
        return self.saved.outermost(module) is not None

    def having(self, part: str) -> Iterator[str]:
        """Modules that have an unclaimed tensor of that part, sorted."""
        yield from sorted(module for module, found in self.parts.items() if part in found)

    def take(self, module: str, part: str) -> TensorEntry | None:
        """Claim a tensor; None where there is none."""
        found = self.parts.get(module, {})
        entry = found.pop(part, None)
        if entry is not None and not found:
            del self.parts[module]
        return entry

    def take_whole(self, module: str, parameter: str) -> TensorEntry:
        """Claim a whole parameter that is there."""
        found = self.whole[module]
        entry = found.pop(parameter)
        if not found:
            del self.whole[module]
        return entry

    def scaled(self, name: str, rank: int, a: TensorEntry) -> tuple[float, float]:
        """Alpha and scaling of the pair of that name, whose rank the tensors give.

        Raises:
            InvalidAdapterError: ``rank_mismatch`` where the configuration gives another rank.
        """
        expected, alpha, reason = self.scales.of(name)
        if rank != expected:
            raise InvalidAdapterError(
                f"Tensor {shown(a.name)} has rank {rank}, but adapter_config.json gives {expected} for {shown(name)} "
                f"({reason}). Save the adapter again with the configuration that it was trained with.",
                code="rank_mismatch",
            )
        return alpha, self.config.scaling(rank, alpha)

    def add_pair(self, spelled: str, pair: LoraPair, *, by_module: bool = True) -> None:
        """Keep a pair; ``by_module`` says that target_modules asked for it."""
        if pair.module in self.pairs:
            raise InvalidAdapterError(
                f"The modules {shown(self.spelled[pair.module])} and {shown(spelled)} of the adapter are the same "
                "module of the base model. Keep one of them.",
                code="unexpected_tensor",
            )
        self.pairs[pair.module] = pair
        self.spelled[pair.module] = spelled
        if by_module:
            self.adapted[pair.target.module] = spelled

    def change_pair(self, module: str, **fields: object) -> None:
        """Complete a pair."""
        self.pairs[module] = replace(self.pairs[module], **fields)  # type: ignore[arg-type] # the fields are LoraPair's

    def add_value(self, value: NewValue) -> None:
        """Keep an absolute value."""
        before = self.values.setdefault(value.parameter, value)
        if before is not value:
            refuse_tensor(
                value.entry,
                f"and {shown(before.entry.name)} are the same parameter {shown(value.parameter)}. Keep one of them.",
                "unexpected_tensor",
            )

    def add_copy(self, module: str, entry: TensorEntry) -> None:
        """Keep a copy of a whole weight."""
        before = self.copies.setdefault(module, entry)
        if before is not entry:
            refuse_tensor(
                entry,
                f"and {shown(before.name)} are copies of the same weight {shown(module)}. Keep one of them.",
                "unexpected_tensor",
            )

    def checkpoint(self) -> Checkpoint:
        """What the variants made of it.

        Raises:
            InvalidAdapterError: ``unexpected_tensor`` for a tensor that no variant claimed.
        """
        for left in (*self.parts.values(), *self.whole.values()):
            entry = min(left.values(), key=lambda one: one.name)
            refuse_tensor(
                entry,
                "has no place in this adapter: nothing in adapter_config.json asks for it. Remove it, or save the "
                "adapter with PEFT's save_pretrained.",
                "unexpected_tensor",
            )
        return Checkpoint(
            config=self.config,
            pairs=_sorted(self.pairs),
            values=_sorted(self.values),
            tokens=_sorted(self.tokens),
            copies=_sorted(self.copies),
            twins=tuple(self.twins),
            notices=tuple(self.notices),
        )


def _sorted(found: Mapping[str, Value]) -> Mapping[str, Value]:
    return MappingProxyType(dict(sorted(found.items())))
