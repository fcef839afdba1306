"""Modules that a backward pass runs again, as gradient checkpointing does, have to run what ran in the call it is of.

What chooses a path is the context of the call, which may be another one when gradients are asked for: the block has
ended, or another path was merged. So what a call gives is marked in the graph with what ran. The marks are met before
anything else of the call, and a module that is run again looks whether the same runs now.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping
from typing import Any, Final, NamedTuple

import torch

from registry.errors import UsageError

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
    """What ran in the calls that backward passes are of; any thread may ask.

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
