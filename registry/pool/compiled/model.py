"""A pool's model that runs compiled: which modules get slots, and how large they are.

The compiled forward of a model: it reads what runs outside of the graph, and gives it the numbers of slots.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from types import FunctionType
from typing import Any

import torch
from torch import nn

from registry.errors import UsageError
from registry.pool.call_gate import own_method
from registry.pool.compiled.table import SlotTable
from registry.pool.per_call.dispatch import Choices, Chosen, Dispatched
from registry.pool.per_call.runner import BesidePaths
from registry.pool.per_call.selection import Active, ResidentPath
from registry.pool.weight_readers import Form, form_of


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


class CompiledModel:
    """Has a model run compiled until it is closed. No call of the model may run while it is made.

    Args:
        beside: the model, and the paths that run beside its weights.
        max_rank: the rank that slots have room for.
        paths: how many paths have slots at once.
        modules: names of modules, or ends of them; None: all that multiply by their weight.
        options: those of ``torch.compile``.

    Raises:
        UsageError: the slots would take more than the available memory; or no module has such a name.
    """

    def __init__(
        self, beside: BesidePaths, max_rank: int, paths: int, modules: Sequence[str] | None, options: dict[str, Any]
    ) -> None:
        if max_rank < 1 or paths < 1:
            raise UsageError("A compiled model has room for one path of rank 1 at least.")
        self._beside = beside
        device = next(iter(beside.live.layout.values())).get().device
        self.table = SlotTable(beside.dispatch, device, paths, max_rank, beside.room_for_slots)
        own = own_method(beside.model, "forward")
        forward = CompiledForward(own, beside.choices, self.table, device, options)
        self.table.fix({module: _rank(beside, name, max_rank) for name, module in self._modules(modules)})
        beside.slots_bytes = lambda: self.table.nbytes
        beside.gate.instead["forward"] = forward

    def close(self) -> None:
        """Have the model run as it is. No call of it may run meanwhile."""
        self._beside.gate.instead.pop("forward", None)
        self.table.clear()
        self._beside.slots_bytes = lambda: 0

    def _modules(self, asked: Sequence[str] | None) -> Iterator[tuple[str, nn.Module]]:
        """The modules that get slots at once."""
        found = {
            name: module
            for name, module in self._beside.body.named_modules()
            if _multiplies(self._beside, name, module)
        }
        if asked is None:
            yield from found.items()
            return
        for end in asked:
            mine = {name: one for name, one in found.items() if f".{name}".endswith(f".{end}")}
            if not mine:
                raise UsageError(f"No module that multiplies by its weight is called {end!r}.")
            yield from mine.items()


def _multiplies(beside: BesidePaths, name: str, module: nn.Module) -> bool:
    """Whether what a path does to a module can be a product: it is called, and no other reads its weight."""
    own = vars(module).get("forward")
    if not name or f"{name}.weight" not in beside.live.layout or not (own is None or isinstance(own, Dispatched)):
        return False
    known = form_of(module) in (Form.LINEAR, Form.EMBEDDING)
    return known and not beside.composer.readers.of(module, "weight")


def _rank(beside: BesidePaths, name: str, rank: int) -> int:
    """That of a module's slots: what the base lacks, such as a classifier's head, is brought as a whole."""
    tensor = beside.live.layout[f"{name}.weight"]
    brought = all(place.origin is None for place in tensor.places)
    return max(rank, min(tensor.get().shape)) if brought else rank
