"""A checkpoint while variants read it: the tensors that none has claimed yet, and what the others came to.

Rank and alpha of each module come from the configuration and its patterns. A `Variant` is one idea of PEFT's, with all
that the registry knows about it. To add one, write a file, or extend the one on its idea, that makes a `Variant` and
name it in `registry.tensors.checkpoint.variants.table`.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Final, NoReturn, TypeVar

from registry.errors import InvalidAdapterError
from registry.files.header import TensorEntry
from registry.files.strict_json import shown
from registry.images.normal_form import Scale
from registry.tensors.arithmetic.dtypes import FLOATS, WHOLE_NUMBERS
from registry.tensors.checkpoint.adapter import (
    AddedValue,
    Checkpoint,
    Diagonal,
    LoraAdapterConfig,
    LoraPair,
    NewValue,
    TokenRows,
    Twin,
)
from registry.tensors.checkpoint.coverage import saved_names
from registry.tensors.checkpoint.field_rules import Rule
from registry.tensors.checkpoint.patterns import PatternBudget, PatternMap
from registry.tensors.table.targets import TargetTable


class NameEnds:
    """A set of names, queried for those that end a path (as ``path.endswith(name)``, dots or not)."""

    def __init__(self, names: Iterable[str]) -> None:
        # reversed, ends are beginnings; without those that begin with another, only the name sorted before a path can
        # be its beginning
        kept: list[str] = []
        for turned in sorted(name[::-1] for name in names):
            if not kept or not turned.startswith(kept[-1]):
                kept.append(turned)
        self._turned = kept

    def __bool__(self) -> bool:
        return bool(self._turned)

    def end(self, path: str) -> bool:
        """Whether one of the names ends the path."""
        turned = path[::-1]
        at = bisect_right(self._turned, turned)
        return at > 0 and turned.startswith(self._turned[at - 1])

    def outermost(self, path: str) -> str | None:
        """The shortest beginning of a dotted path, up to a dot or whole, that one of the names ends; else None."""
        if not self._turned:
            return None
        at = path.find(".")
        while at >= 0:
            if self.end(path[:at]):
                return path[:at]
            at = path.find(".", at + 1)
        return path if self.end(path) else None


_TOLD: Final = 20  # notices are stored with the revision


class Scales:
    """Rank and alpha of the modules of one checkpoint; collects the notices about its patterns."""

    def __init__(
        self, config: LoraAdapterConfig, budget: PatternBudget, given: Mapping[str, Scale] | None = None
    ) -> None:
        self.config = config
        self._given = dict(given or {})
        self._ranks = PatternMap(config.rank_pattern, field="rank_pattern", budget=budget)
        self._alphas = PatternMap(config.alpha_pattern, field="alpha_pattern", budget=budget)
        self._ambiguous: dict[tuple[str, tuple[str, ...]], list[str]] = {}

    def of(self, name: str) -> tuple[int, float, str]:
        """Rank and alpha of a module (its name as the checkpoint spells it), and which field gave the rank."""
        given = self._given.get(name)
        if given is not None:
            return given.rank, given.alpha, "its tensors"
        rank, rank_keys = self._ranks.resolve(name)
        alpha, alpha_keys = self._alphas.resolve(name)
        for patterns, keys in ((self._ranks, rank_keys), (self._alphas, alpha_keys)):
            if len(keys) > 1 and patterns.conflict(keys):
                self._ambiguous.setdefault((patterns.field, keys), []).append(name)
        reason = f"rank_pattern {shown(rank_keys[0])}" if rank_keys else "r"
        return (
            self.config.r if rank is None else rank,
            float(self.config.lora_alpha if alpha is None else alpha),
            reason,
        )

    def give(self, name: str, scale: Scale) -> None:
        """Keep that of a module, in place of what the configuration says of its rank."""
        self._given[name] = scale

    def scaling(self, name: str, rank: int, alpha: float) -> float:
        """What the product of a module's pair is multiplied by."""
        given = self._given.get(name)
        return self.config.scaling(rank, alpha) if given is None else given.scaling

    def notices(self) -> list[str]:
        """What is ambiguous or without effect in the patterns, once all modules were queried."""
        told = [
            f"ambiguous_pattern: {' and '.join(shown(key) for key in keys[:4])} of {field} give {shown(names[0])}"
            f"{f' and {len(names) - 1} more modules' if len(names) > 1 else ''} different values; the first in the "
            "file counts, as in PEFT after loading, even if training used another order."
            for (field, keys), names in list(self._ambiguous.items())[:_TOLD]
        ]
        if len(self._ambiguous) > _TOLD:
            told.append(f"ambiguous_pattern: so do {len(self._ambiguous) - _TOLD} more sets of patterns.")
        for patterns in (self._ranks, self._alphas):
            unused = patterns.unused
            if unused:
                more = f" and {len(unused) - 1} more keys of {patterns.field} match" if len(unused) > 1 else ""
                told.append(f"{shown(unused[0])}{more or f' of {patterns.field} matches'} no module of the adapter.")
        return told


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
    constants: dict[str, TensorEntry] = field(default_factory=dict)  # parameter -> whole numbers, as the base has them
    whole_modules: list[str] = field(default_factory=list)  # trained whole, by their names in the table
    spelled: dict[str, str] = field(default_factory=dict)  # `LoraPair.module` -> module as the checkpoint spells it
    adapted: dict[str, str] = field(default_factory=dict)  # module in the table -> as spelled; of `target_modules` only
    named: dict[str, dict[str, TensorEntry]] = field(default_factory=dict)  # parameter -> names of it that have a value
    asked: dict[str, LoraPair] = field(default_factory=dict)  # as spelled: what `target_modules` has to mean
    implied: set[str] = field(default_factory=set)  # of `adapted`: PEFT adds them without any setting
    added: dict[str, AddedValue] = field(default_factory=dict)
    diagonals: dict[str, Diagonal] = field(default_factory=dict)
    given: Mapping[str, Scale] | None = None  # rank and alpha of every module, if no pattern gives them
    alphas: tuple[tuple[TensorEntry, float], ...] = ()

    def __post_init__(self) -> None:
        self.scales = Scales(self.config, self.budget, self.given)
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
        """Claim a tensor; None if the module lacks it."""
        found = self.parts.get(module, {})
        entry = found.pop(part, None)
        if entry is not None and not found:
            del self.parts[module]
        return entry

    def take_whole(self, module: str, parameter: str) -> TensorEntry:
        """Claim a whole parameter, which must exist."""
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
        return alpha, self.scales.scaling(name, rank, alpha)

    def add_pair(self, spelled: str, pair: LoraPair, *, by_module: bool = True, by_file: bool = False) -> None:
        """Keep a pair; ``by_module``: target_modules names it; ``by_file``: by a name of the files."""
        if pair.module in self.pairs:
            raise InvalidAdapterError(
                f"The modules {shown(self.spelled[pair.module])} and {shown(spelled)} of the adapter are the same "
                "module of the base model. Keep one of them.",
                code="unexpected_tensor",
            )
        self.pairs[pair.module] = pair
        self.spelled[pair.module] = spelled
        if by_module or by_file:
            self.asked[spelled] = pair
        if by_module:
            self.adapted[pair.target.module] = spelled

    def change_pair(self, module: str, **fields: object) -> None:
        """Complete a pair."""
        self.pairs[module] = replace(self.pairs[module], **fields)  # type: ignore[arg-type] # the fields are LoraPair's

    def add_value(self, value: NewValue, tied: str | None = None) -> None:
        """Keep an absolute value; ``tied`` is its own name, where ``value.parameter`` is what it is tied to.

        PEFT saves a value for each name: they have to be the same. Whole numbers have to be those of the base.
        """
        if value.entry.dtype in WHOLE_NUMBERS:
            self._add_constant(value)
            return
        before = self.values.setdefault(value.parameter, value)
        named = self.named.setdefault(value.parameter, {})
        if before is not value and (tied or value.parameter) not in named:
            self.twins.append(Twin(before.entry, value.entry))
        elif before is not value:
            refuse_tensor(
                value.entry,
                f"and {shown(before.entry.name)} are the same parameter {shown(value.parameter)}. Keep one of them.",
                "unexpected_tensor",
            )
        named[tied or value.parameter] = value.entry

    def _add_constant(self, value: NewValue) -> None:
        before = self.constants.setdefault(value.parameter, value.entry)
        if before is not value.entry:
            refuse_tensor(
                value.entry,
                f"and {shown(before.name)} are the same parameter {shown(value.parameter)}. Keep one of them.",
                "unexpected_tensor",
            )

    def add_copy(self, module: str, entry: TensorEntry) -> None:
        """Keep a copy of a whole weight."""
        if entry.dtype not in FLOATS:
            refuse_tensor(entry, f"has dtype {entry.dtype}, expected one of {', '.join(FLOATS)}.", "bad_dtype")
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
            values=_sorted({name: self._with_names(value) for name, value in self.values.items()}),
            tokens=_sorted(self.tokens),
            copies=_sorted(self.copies),
            constants=_sorted(self.constants),
            twins=tuple(self.twins),
            saved=tuple(sorted(self.whole_modules)),
            notices=tuple(self.notices),
            alphas=self.alphas,
            added=_sorted(self.added),
            diagonals=_sorted(self.diagonals),
        )

    def _with_names(self, value: NewValue) -> NewValue:
        return replace(value, names=tuple(sorted(self.named.get(value.parameter, (value.parameter,)))))


def _sorted(found: Mapping[str, Value]) -> Mapping[str, Value]:
    return MappingProxyType(dict(sorted(found.items())))


@dataclass(frozen=True)
class Variant:
    """One idea.

    ``fields`` are its fields of adapter_config.json with the rule of each, in the order of the checks. ``tails`` are
    the ends of its tensors' names, after the module, with the part that each stands for. ``fold`` checks its tensors
    against the base and brings what they mean into the normal form; it claims every tensor that it understands.
    ``finish`` checks the whole, once every variant has folded.
    """

    name: str
    fields: Mapping[str, Rule] = field(default_factory=dict)
    tails: Mapping[str, str] = field(default_factory=dict)
    fold: Callable[[Draft], None] | None = None
    finish: Callable[[Draft], None] | None = None
