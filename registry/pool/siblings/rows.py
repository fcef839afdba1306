"""Which rows of a batch belong to which sibling, and how they are cut out of what a module is given.

Rows are taken by slices and put together again by concatenation, never multiplied by masks: a NaN in the rows of one
sibling must not reach those of another. Where each sibling's rows lie beside each other, the parts are views.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any

import torch

from registry.errors import UsageError


@dataclass(frozen=True, eq=False)
class Group:
    """The rows of one sibling in a batch; None: those that run as the parent alone."""

    name: str | None
    rows: tuple[int, ...]
    window: slice | None = None
    """From the first to the last position that is not padding in any of its rows; None: all."""


@dataclass(frozen=True, eq=False)
class Rows:
    """The rows of a batch, by sibling."""

    count: int
    groups: tuple[Group, ...]
    order: torch.Tensor | None  # rows by group, where they do not lie so
    back: torch.Tensor | None
    length: int | None = None  # positions of a row, once the model was called

    @classmethod
    def of(cls, names: Sequence[str | None]) -> Rows:
        """The rows of a batch whose row ``i`` is of ``names[i]``."""
        found: dict[str | None, list[int]] = {}
        for row, name in enumerate(names):
            found.setdefault(name, []).append(row)
        order = torch.tensor([row for rows in found.values() for row in rows])
        sorted_already = bool((order == torch.arange(len(names))).all())
        groups = tuple(Group(name, tuple(rows)) for name, rows in found.items())
        if sorted_already:
            return cls(len(names), groups, None, None)
        return cls(len(names), groups, order, order.argsort())

    def of_call(self, inputs: Iterable[Any], mask: object) -> Rows:
        """The same for one call of the model, whose inputs say how long rows are and where they are padded.

        Raises:
            UsageError: the batch has another number of rows.
        """
        tensors = [one for one in inputs if isinstance(one, torch.Tensor) and one.dim() >= 2]
        if not any(one.shape[0] == self.count for one in tensors):
            counts = ", ".join(sorted({str(one.shape[0]) for one in tensors})) or "no"
            raise UsageError(f"rows names {self.count} rows, but the batch has {counts} rows.")
        length = next(one.shape[1] for one in tensors if one.shape[0] == self.count)
        device = next(one.device for one in tensors)
        moved = [None if one is None else one.to(device) for one in (self.order, self.back)]
        groups = self.groups
        if isinstance(mask, torch.Tensor) and mask.shape == (self.count, length):
            groups = tuple(replace(one, window=_window(mask[list(one.rows)])) for one in self.groups)
        return replace(self, groups=groups, order=moved[0], back=moved[1], length=length)

    @property
    def spans(self) -> tuple[tuple[int, int], ...]:
        """Where the rows of each group begin and end, in the order of groups."""
        stops = list(accumulate(len(group.rows) for group in self.groups))
        return tuple(zip([0, *stops], stops, strict=False))

    def sort(self, tensor: torch.Tensor) -> torch.Tensor:
        """The rows in the order of groups."""
        return tensor if self.order is None else tensor.index_select(0, self.order)

    def unsort(self, tensor: torch.Tensor) -> torch.Tensor:
        """Rows in the order of groups, in that of the batch again."""
        return tensor if self.back is None else tensor.index_select(0, self.back)

    def split(self, tensor: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """The rows of each group, of rows in the order of groups."""
        return (tensor,) if len(self.groups) == 1 else _split(tensor, [len(group.rows) for group in self.groups])

    def by_name(self, batch: Mapping[str, Any] | torch.Tensor) -> dict[str, Any]:
        """What each sibling has of a tensor, or of the tensors of a batch that have one entry a row."""
        if isinstance(batch, torch.Tensor):
            parts = self.split(self.sort(batch))
            return {group.name: part for group, part in zip(self.groups, parts, strict=True) if group.name is not None}
        whole = {
            field: one
            for field, one in batch.items()
            if isinstance(one, torch.Tensor) and one.shape[:1] == (self.count,)
        }
        split = {field: self.by_name(one) for field, one in whole.items()}
        names = [group.name for group in self.groups if group.name is not None]
        return {name: {field: parts[name] for field, parts in split.items()} for name in names}


def _split(tensor: torch.Tensor, sizes: list[int]) -> tuple[torch.Tensor, ...]:
    found: tuple[torch.Tensor, ...] = torch.split(tensor, sizes)
    return found


def join(parts: Sequence[torch.Tensor]) -> torch.Tensor:
    """Parts one after the other."""
    return parts[0] if len(parts) == 1 else torch.cat(list(parts))


def _window(mask: torch.Tensor) -> slice | None:
    used = mask.bool().any(0).nonzero()
    return None if used.numel() == 0 else slice(int(used[0]), int(used[-1]) + 1)


@dataclass(eq=False)
class Choice:
    """Rows, and whose they are: models of several pools may be trained by turns."""

    owner: object
    rows: Rows
    call: Rows | None = None  # the same for the call of the model that runs
    for_one_call: bool = False


CHOICE: ContextVar[Choice | None] = ContextVar("siblings", default=None)


def chosen(owner: object) -> Choice | None:
    """The choice that an owner's model runs for; None: the parent alone."""
    choice = CHOICE.get()
    return choice if choice is not None and choice.owner is owner else None
