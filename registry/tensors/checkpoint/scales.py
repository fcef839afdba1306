"""Rank and alpha of each module, from the configuration and its patterns.

Which of many names a path ends with, however many there are: names and paths come from strangers.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from typing import Final

from registry.files.strict_json import shown
from registry.tensors.checkpoint.adapter_config import LoraAdapterConfig
from registry.tensors.checkpoint.patterns import PatternBudget, PatternMap


class NameEnds:
    """A set of names, asked for those that end a path (as ``path.endswith(name)``, dots or not)."""

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


_TOLD: Final = 20  # notices are kept with the revision


class Scales:
    """Answers for one checkpoint, and remembers what a person should be told about its patterns."""

    def __init__(self, config: LoraAdapterConfig, budget: PatternBudget) -> None:
        self.config = config
        self._ranks = PatternMap(config.rank_pattern, field="rank_pattern", budget=budget)
        self._alphas = PatternMap(config.alpha_pattern, field="alpha_pattern", budget=budget)
        self._ambiguous: dict[tuple[str, tuple[str, ...]], list[str]] = {}

    def of(self, name: str) -> tuple[int, float, str]:
        """Rank and alpha of a module (its name as the checkpoint spells it), and which field gave the rank."""
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

    def notices(self) -> list[str]:
        """What is ambiguous or without effect in the patterns, once all modules were asked for."""
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
