"""The compiled forward of a model: it reads what runs outside of the graph, and gives it the numbers of slots."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import FunctionType
from typing import Any

import torch

from registry.errors import UsageError
from registry.pool.beside.chosen import Chosen
from registry.pool.beside.dispatch import Choices
from registry.pool.beside.selection import Active, ResidentPath
from registry.pool.compiled.table import SlotTable


class CompiledForward:
    """Runs in place of a model's ``forward``.

    Args:
        forward: the model's own.
        choices: what runs.
        table: the slots.
        device: the model's.
        options: those of ``torch.compile``.
    """

    def __init__(
        self,
        forward: Callable[..., Any],
        choices: Choices,
        table: SlotTable,
        device: torch.device,
        options: dict[str, Any],
    ) -> None:
        self._choices = choices
        self._table = table
        self._device = device
        self._base, self._one, self._each = (torch.compile(_traced(forward), **options) for _ in range(3))

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        active, of_thread = self._choices.active(), self._choices.of_thread
        before = of_thread.chosen
        try:
            if active is None or active.selection.is_base:
                of_thread.chosen = Chosen(None)
                return self._base(*args, **kwargs)
            paths = active.selection.paths
            with self._table.hold(paths) as slots:
                rows = _by_row(active, slots)
                run = self._one if len(rows) == 1 else self._each
                chosen = Chosen(torch.tensor(rows, device=self._device), turned=active.selection.turned)
                of_thread.chosen = chosen
                found = run(*args, **kwargs)
            self._check_found(paths, chosen.lost)
            return found
        finally:
            of_thread.chosen = before

    def _check_found(self, paths: Sequence[ResidentPath | None], lost: Sequence[str]) -> None:
        """Check that no path does something to a module in whose input the rows of the batch were not found."""
        for path in paths if lost else ():
            for module in path.effects if path is not None else ():
                if self._table.name(module) in lost:
                    raise UsageError(
                        f"The paths of the list change {self._table.name(module)!r} ({type(module).__name__}), where "
                        "the rows of the batch are not known: give one reference for all rows.",
                        code="unsupported_model",
                    )


def _by_row(active: Active, slots: Sequence[int]) -> list[int]:
    """The slot of each row of the batch, or one for all."""
    rows, size = active.selection.rows, active.call.rows
    if rows is None or len(slots) == 1:
        return [slots[0]]
    if size is None:
        raise UsageError("It is not known which input of the call is the batch: give one reference for all rows.")
    return [slots[row] for row in rows for _ in range(size // len(rows))]


def _traced(forward: Callable[..., Any]) -> Callable[..., Any]:
    """What is compiled: it has code of its own, by which dynamo keeps what it compiles and limits how much that is."""

    def run(*args: Any, **kwargs: Any) -> Any:
        return forward(*args, **kwargs)

    return FunctionType(run.__code__.replace(), globals(), run.__name__, None, run.__closure__)
