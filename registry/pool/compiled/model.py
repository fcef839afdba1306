"""A pool's model that runs compiled: which modules get slots, and how large they are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from torch import nn

from registry.errors import UsageError
from registry.pool.beside.dispatch import Dispatched
from registry.pool.beside.forms import Form, form_of
from registry.pool.beside.runner import BesidePaths
from registry.pool.compiled.forward import CompiledForward
from registry.pool.compiled.table import SlotTable
from registry.pool.gate import own_method


class CompiledModel:
    """Has a model run compiled until it is closed. No call of the model may run while it is made.

    Args:
        beside: the model, and the paths that run beside its weights.
        max_rank: the rank that slots have room for.
        paths: how many paths have slots at once.
        modules: names of modules, or ends of them; None: all that multiply by their weight.
        options: those of ``torch.compile``.

    Raises:
        UsageError: the slots would take more memory than there is; or no module has such a name.
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
