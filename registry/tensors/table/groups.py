"""Groups of names that are one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol


class Tied(Protocol):
    """A module that may share its weight with others (`registry.tensors.table.targets.Target`)."""

    @property
    def module(self) -> str: ...
    @property
    def kind(self) -> str: ...
    @property
    def tensor(self) -> str | None: ...
    @property
    def tie(self) -> str | None: ...


def joined(groups: Iterable[Sequence[str]]) -> list[list[str]]:
    """Groups that share a member, joined; the order of first mention is kept."""
    found: list[list[str]] = []
    for names in groups:
        touching = [group for group in found if any(name in group for name in names)]
        merged = list(dict.fromkeys([*(name for group in touching for name in group), *names]))
        found = [group for group in found if group not in touching]
        found.append(merged)
    return found


def tie_groups(targets: Mapping[str, Tied]) -> dict[str, tuple[str, ...]]:
    """Module -> the modules that share its weight, the one that holds it first, for all that are tied."""

    def holders_first(module: str) -> tuple[bool, bool, str]:
        return (targets[module].tensor is None, targets[module].kind != "embedding", module)

    pairs = ((one.module, one.tie) for one in targets.values() if one.tie is not None)
    groups = (tuple(sorted(group, key=holders_first)) for group in joined(pairs))
    return {module: group for group in groups for module in group}


def tied_parameters(ties: Mapping[str, str | None] | None, targets: Mapping[str, Tied]) -> dict[str, str]:
    """`TargetTable.ties` without the weights of modules, which `Target.tie` tells: these have changes of their own."""
    weights = {f"{one.module}.weight" for one in targets.values() if one.tie is not None}
    return {name: holder for name, holder in (ties or {}).items() if holder and name not in weights}
