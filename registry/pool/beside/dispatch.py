"""The modules of a running model ask which path runs.

What a module is called with goes to its ``forward``, which is replaced on the instance: hooks could not keep it from
running with weights that are not used.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Callable, Hashable, Iterable
from contextvars import ContextVar
from typing import Any, Protocol

import torch
from torch import nn

from registry.errors import UsageError
from registry.pool.beside.again import Again
from registry.pool.beside.chosen import Chosen, OfThread
from registry.pool.beside.selection import Active

MERGED = "A path is merged into the model: `unmerge()` before other paths run beside its weights."


class Choices:
    """What runs: by the context of the call (a thread, a task), else the default of all."""

    def __init__(self) -> None:
        self.default: Active | None = None
        self.merged = False
        """Whether the weights are not the base's."""
        self.of_call: ContextVar[Active | None] = ContextVar("paths")
        self.of_thread = OfThread()
        self.for_gradients = False
        """Whether a path ever ran for a backward pass."""
        self.again = Again()
        """What ran in the calls that backward passes are of."""

    def active(self) -> Active | None:
        """What runs in this context; None: the base, or what is merged."""
        return self.of_call.get(self.default)

    def mark(self, found: object) -> None:
        """Mark what a call of the model gave with what ran in it, for its backward pass."""
        self.again.mark(found, _paths(self.active()))

    def check_again(self, active: Active | None) -> None:
        """Check that a backward pass which runs a module again runs what ran in its call; raises `UsageError`."""
        if active is not None or self.for_gradients:
            self.again.check(_paths(active))

    def check_unmerged(self, active: Active | None) -> None:
        """Check that what runs does not run on top of what is merged; raises `UsageError`."""
        if self.merged and active is not None:
            raise UsageError(MERGED)


def _paths(active: Active | None) -> Hashable:
    """Which paths run in which rows; None: none."""
    if active is None or active.selection.is_base:
        return None
    selection = active.selection
    return tuple(None if path is None else path.digest for path in selection.paths), selection.rows


class Slotted(Protocol):
    """What a module does in a call that is compiled."""

    def run(self, chosen: Chosen, rows: torch.Tensor, forward: Any, args: Any, kwargs: Any) -> Any:
        """The module's output for the slots of the rows."""


class Dispatched:
    """The ``forward`` of a module that some path changes. Copies and pickles of the module have its own alone."""

    def __init__(self, choices: Choices, name: str, module: nn.Module) -> None:
        self._choices = choices
        self._name = name
        self._module = module
        self._forward: Callable[..., Any] = types.MethodType(type(module).forward, module)
        self.slots: Slotted | None = None
        functools.update_wrapper(self, self._forward)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        chosen = self._choices.of_thread.chosen
        if chosen is not None:
            if chosen.rows is None or self.slots is None:
                return self._forward(*args, **kwargs)
            return self.slots.run(chosen, chosen.rows, self._forward, args, kwargs)
        active, again = self._choices.active(), torch._C._current_graph_task_id() != -1
        if again:
            self._choices.check_again(active)
        if active is None:
            return self._forward(*args, **kwargs)
        self._choices.check_unmerged(active)
        if not again and not self._choices.of_thread.inside:  # a checkpoint may have switched gradients off here
            self._choices.for_gradients = self._choices.again.unknown = True
        return active.run(self._name, self._module, self._forward, args, kwargs)

    def __reduce__(self) -> tuple[Any, ...]:
        return getattr, (self._module, "forward")


class Dispatch:
    """The modules of a model that ask; more of them with each path that is added."""

    def __init__(self, model: nn.Module, choices: Choices) -> None:
        self._choices = choices
        self.names: dict[nn.Module, str] = {module: name for name, module in model.named_modules()}
        """Of all modules."""
        self._added: dict[nn.Module, Dispatched] = {}

    def add(self, modules: Iterable[nn.Module]) -> None:
        """Have some modules ask, from their next call on."""
        for module in modules:
            if module not in self._added:
                module.forward = self._added[module] = Dispatched(self._choices, self.names[module], module)

    def slot(self, module: nn.Module, slots: Slotted | None) -> None:
        """Give a module slots for calls that are compiled, or none any more."""
        self.add([module])
        self._added[module].slots = slots

    def remove(self) -> None:
        """Give all of them back their own ``forward``."""
        while self._added:
            vars(self._added.popitem()[0]).pop("forward", None)
