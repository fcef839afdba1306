"""Calls of the model: does the list of paths fit the batch, and may the call have a list at all?"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

import torch

from registry.errors import UsageError
from registry.pool.beside.dispatch import Choices
from registry.pool.beside.selection import Active, RunningCall
from registry.pool.body import sorting_caller
from registry.pool.gate import Call

_SORTING: Final = ("encode", "predict")
_MAIN: Final = (
    "decoder_input_ids",
    "decoder_inputs_embeds",
    "input_ids",
    "inputs_embeds",
    "pixel_values",
    "input_features",
    "input_values",
    "attention_mask",
)


class Calls:
    """What stands around each call of the model.

    Args:
        choices: what runs.
        check_unchanged: raises where something else changed the weights.
    """

    def __init__(self, choices: Choices, check_unchanged: Callable[[], None]) -> None:
        self._choices = choices
        self._check_unchanged = check_unchanged

    @contextmanager
    def around(self, call: Call) -> Iterator[None]:
        """A call of the model.

        Raises:
            UsageError: other paths would run on top of what is merged, or the list does not fit the batch.
            IntegrityError: ``model_changed``: PyTorch could not run it, as something else changed the weights.
        """
        active = self._choices.active()
        if active is None:
            yield
            return
        of_thread = self._choices.of_thread
        before, of_thread.inside = of_thread.inside, True
        try:
            with self._with_paths(call, active):
                yield
        except RuntimeError:
            self._check_unchanged()  # factors of another dtype or device than the weights have now, say
            raise
        finally:
            of_thread.inside = before

    @contextmanager
    def _with_paths(self, call: Call, active: Active) -> Iterator[None]:
        self._choices.check_unmerged(active)
        self._choices.for_gradients |= torch.is_grad_enabled()
        if call.method in _SORTING and _elsewhere(call):
            raise UsageError(
                f"`{call.method}` in other processes runs copies of the model, which have no paths: merge one instead."
            )
        if active.selection.rows is None:
            yield
            return
        inner = self._inner(active, call, len(active.selection.rows))
        token = self._choices.of_call.set(inner)
        try:
            yield
        finally:
            self._choices.of_call.reset(token)

    def _inner(self, active: Active, call: Call, wanted: int) -> Active:
        outer = active.call
        sorting = call.method if call.method in _SORTING else sorting_caller()
        if sorting is not None:
            raise UsageError(
                f"`{sorting}` sorts its inputs, so a list of paths would go to other rows: use "
                "`pool.encode(texts, refs)`, or one reference for all."
            )
        if call.method == "generate":
            return Active(active.selection, RunningCall(_factors(call)))
        rows = _main_input(call)
        if rows is None:
            return Active(active.selection, RunningCall(outer.factors, set(outer.lengths)))
        size = rows.shape[0] if rows.dim() else 0
        factor, left = divmod(size, wanted)
        if left or factor not in outer.factors:
            raise UsageError(
                f"The list of paths has {wanted} rows, and the batch has {size}: give one "
                "reference for each row of the batch, or one for all."
            )
        lengths = {rows.shape[1]} if rows.dim() > 1 else set()
        return Active(active.selection, RunningCall(outer.factors, lengths, size))


def _factors(call: Call) -> frozenset[int]:
    """How many rows of the batch may stand for one, within ``generate``: beams, and sequences to be returned."""
    given = (call.kwargs.get("generation_config"), *call.args, getattr(call.model, "generation_config", None))
    config = next((one for one in given if hasattr(one, "num_beams")), None)
    found = {1}
    for name in ("num_beams", "num_return_sequences"):
        asked = call.kwargs.get(name)
        value = getattr(config, name, None) if asked is None else asked
        found |= {value} if isinstance(value, int) else set()
    return frozenset(found)


def _elsewhere(call: Call) -> bool:
    """Whether sentence-transformers is asked to work in other processes."""
    return call.kwargs.get("pool") is not None or isinstance(call.kwargs.get("device"), list | tuple)


def _main_input(call: Call) -> torch.Tensor | None:
    """The input whose first dimension is the batch."""
    if call.args and isinstance(call.args[0], torch.Tensor):
        return call.args[0]
    named: dict[str, Any] = dict(call.kwargs)
    if call.args and isinstance(call.args[0], Mapping):
        named |= call.args[0]
    for name in _MAIN:
        if isinstance(named.get(name), torch.Tensor):
            found: torch.Tensor = named[name]
            return found
    return next((one for one in named.values() if isinstance(one, torch.Tensor)), None)
