"""The modules of a running model look up which path runs.

What a module is called with goes to its ``forward``, which is replaced on the instance: hooks could not keep it from
running with weights that are not used.

Modules that a backward pass runs again, as gradient checkpointing does, have to run what ran in the call it is of.

What chooses a path is the context of the call, which may be another one when gradients are computed: the block has
ended, or another path was merged. So what a call gives is marked in the graph with what ran. The marks are met before
anything else of the call, and a module that is run again looks whether the same runs now.

Which slots run in a call that is compiled. `torch.compile` reads what a thread has, but no context.
"""

from __future__ import annotations

import functools
import threading
import types
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from contextvars import ContextVar
from typing import Any, Final, NamedTuple, Protocol

import torch
from torch import nn

from registry.errors import UsageError
from registry.pool.per_call.selection import Active


class Chosen:
    """The slots of one call; whether they are read or written in it, it is traced.

    Args:
        rows: the slot of each row of the batch, or one for all; None: the base alone.
        turned: whether some module may get the rows of the batch in another dimension than the first.
    """

    def __init__(self, rows: torch.Tensor | None, *, turned: bool = False) -> None:
        self.rows = rows
        self.turned = turned
        self.length: int | None = None
        """Of the sequences in the batch, once it is known."""
        self.lost: list[str] = []
        """Modules that ran with the base's weights, as the rows of the batch were not found in their input."""

    def finds(self, rows: torch.Tensor, x: torch.Tensor) -> bool:
        """Whether a module's input has the rows of the batch, in order; numbers to look up may have one for all."""
        count = rows.shape[0]
        if not x.is_floating_point():
            # positions are the same in all rows; without a dimension for rows nothing distinguishes them from rows, and
            # dynamo gets `in` wrong for sizes that vary
            return x.dim() > 1 and (x.shape[0] == 1 or x.shape[0] == count)
        if x.dim() > 2:
            self.length = x.shape[1]
            return x.shape[0] == count and not (self.turned and x.shape[1] == count)
        if x.dim() == 0 or x.shape[0] == count:
            return x.dim() > 0
        return x.dim() == 2 and not self.turned and self.length is not None and x.shape[0] == count * self.length


class OfThread(threading.local):
    """What runs in this thread."""

    chosen: Chosen | None = None
    """In a call that is compiled, its slots."""
    inside: bool = False
    """Whether a call of the model runs, in which paths were chosen."""


_RUN_AGAIN: Final = (
    "The model is run again in a backward pass, and what runs now is not known to be what ran in the call: turn off "
    "gradient checkpointing, or ask for gradients within the block of `use`, on the CPU, or merge the path instead."
)
_WRITTEN: Final = (
    "Another path was merged, or the base unmerged, since the call whose gradients are asked for: ask for them before "
    "the weights change."
)
_MOST: Final = 256  # backward passes that are remembered: those that run now, in all threads
_DEPTH: Final = 4  # of outputs in outputs


class Ran(NamedTuple):
    """What runs in a call."""

    weights: int  # how often the weights had been changed
    paths: Hashable  # beside them; None: none


class Again:
    """What ran in the calls that backward passes are of; any thread may query it.

    Args:
        weights: how often the weights were changed.
    """

    def __init__(self, weights: Callable[[], int] = lambda: 0) -> None:
        self.weights = weights
        self.unknown = False
        """Whether a part of the model was called by itself with a path: its graph has no mark."""
        self._passes: dict[int, set[Ran]] = {}

    def mark(self, found: Any, paths: Hashable) -> None:
        """Mark what a call of the model gave with what ran in it."""
        if not torch.is_grad_enabled() or torch.compiler.is_compiling():
            return
        ran = Ran(self.weights(), paths)
        for node in {one.grad_fn for one in _tensors(found, _DEPTH) if one.grad_fn is not None}:
            node.register_prehook(lambda *_: self._begin(ran))

    def check(self, paths: Hashable) -> None:
        """Check that what runs now is what ran in all calls that this backward pass has come to.

        Raises:
            UsageError: it is something else, or not known.
        """
        ran = self._passes.get(torch._C._current_graph_task_id())
        if self.unknown or ran != {Ran(self.weights(), paths)}:
            raise UsageError(_RUN_AGAIN)

    def _begin(self, ran: Ran) -> None:
        if ran.weights != self.weights():
            raise UsageError(_WRITTEN)
        self._passes.setdefault(torch._C._current_graph_task_id(), set()).add(ran)
        while len(self._passes) > _MOST:
            self._passes.pop(next(iter(self._passes)), None)


def _tensors(found: Any, depth: int) -> Iterator[torch.Tensor]:
    """The tensors in what a model gave: outputs by name, lists, and objects such as caches."""
    if isinstance(found, torch.Tensor):
        if not torch._C._functorch.is_functorch_wrapped_tensor(found):
            yield found
    elif depth:
        if isinstance(found, Mapping):
            inner = list(found.values())
        elif isinstance(found, list | tuple | set):
            inner = list(found)
        else:
            inner = list(getattr(found, "__dict__", {}).values())
        for one in inner:
            yield from _tensors(one, depth - 1)


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
    """The modules of a model that look up their path; more of them with each path that is added."""

    def __init__(self, model: nn.Module, choices: Choices) -> None:
        self._choices = choices
        self.names: dict[nn.Module, str] = {module: name for name, module in model.named_modules()}
        """Of all modules."""
        self._added: dict[nn.Module, Dispatched] = {}

    def add(self, modules: Iterable[nn.Module]) -> None:
        """Have some modules look up their path, from their next call on."""
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
