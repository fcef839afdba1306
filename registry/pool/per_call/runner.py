"""Paths beside the base for one running model: chosen as the default, for a block, or for each row.

Calls of the model: does the list of paths fit the batch, and may the call have a list at all?
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, Final

import torch
from torch import nn

from registry.errors import UsageError
from registry.pool.call_gate import Call, Gate
from registry.pool.checked_base import OpenBase, PoolRegistry
from registry.pool.live_weights import LiveWeights
from registry.pool.path_programs import AskedPath, asked, wanted
from registry.pool.per_call.compose import Composer
from registry.pool.per_call.dispatch import MERGED, Choices, Dispatch
from registry.pool.per_call.selection import Active, PoolStats, ResidentPath, Residents, RunningCall, Selection
from registry.pool.refusals import sorting_caller
from registry.pool.weight_readers import rows_elsewhere

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
    """Whether sentence-transformers is called to work in other processes."""
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


Refs = str | Sequence[str | None] | None
"""One reference for all rows, one for each, or None: the base."""


class BesidePaths:
    """Runs paths beside the weights of a running model, which are the base's. Threads may share it.

    Args:
        model: what is called.
        body: the part of it that is the base model.
    """

    def __init__(
        self, model: nn.Module, body: nn.Module, registry: PoolRegistry, base: OpenBase, live: LiveWeights, gate: Gate
    ) -> None:
        self.choices = Choices()
        self.model, self.body = model, body
        self._registry = registry
        self._base = base
        self.live = live
        self.gate = gate
        self.composer = Composer(body, live.layout, live.base)
        self.dispatch = Dispatch(body, self.choices)
        self.slots_bytes: Callable[[], int] = lambda: 0
        """What the slots of a compiled model take."""
        self._residents = Residents(lambda: self.room_for_slots() - self.slots_bytes())
        self._rows_elsewhere = rows_elsewhere(body)
        self._closed = False
        self._ahead = ThreadPoolExecutor(1, thread_name_prefix="registry-pool")  # starts no thread before it has work
        self.choices.again.weights = lambda: live.changes
        gate.leaving = self.choices.mark
        gate.around = Calls(self.choices, live.check_unchanged).around

    def set(self, ref: str | None) -> str | None:
        """Make a path the default of all calls; None: the base."""
        self._check_base()
        reference, path = self._ready(ref)
        self.choices.default = None if path is None else Active(Selection((path,)))
        return reference

    @contextmanager
    def use(self, refs: Refs) -> Iterator[str | tuple[str | None, ...] | None]:
        """Run a path for a block in this context, or one a row."""
        references, selection = self._selection(refs)
        token = self.choices.of_call.set(Active(selection))
        try:
            yield references
        finally:
            self.choices.of_call.reset(token)

    def prefetch(self, refs: Sequence[str]) -> Future[None]:
        """Compose paths in the background."""
        if isinstance(refs, str):
            raise UsageError("prefetch needs a list of references.")
        self._check_open()

        def compose() -> None:
            for ref in refs:
                self._resident(asked(self._registry, ref, self._base))

        return self._ahead.submit(compose)

    def encode(self, texts: Sequence[Any], refs: Sequence[str | None], options: dict[str, Any]) -> Any:
        """What the model's ``encode``, or ``predict``, makes of each text with its path."""
        if isinstance(texts, str) or isinstance(refs, str) or len(texts) != len(refs):
            raise UsageError(f"There are {len(texts)} texts and {len(refs)} references: give one for each.")
        method = getattr(self.model, "encode", None) or getattr(self.model, "predict", None)
        if method is None:
            raise UsageError(f"{type(self.model).__name__} has no `encode` or `predict`: call it within `pool.use`.")
        found: dict[int, Any] = {}
        for ref in dict.fromkeys(refs):
            mine = [number for number, one in enumerate(refs) if one == ref]
            with self.use(ref):
                found |= zip(mine, method([texts[number] for number in mine], **options), strict=True)
        return _together([found[number] for number in range(len(texts))])

    def stats(self) -> PoolStats:
        """What is cached, and how often it was enough."""
        kept = self.live.base
        return self._residents.stats(kept.kept_bytes, self.slots_bytes(), kept.memory)

    def room_for_slots(self) -> int:
        """How many bytes of the budget are left beside the base's rows, for composed paths and slots."""
        return self.live.base.memory - self.live.base.kept_bytes

    def close(self) -> None:
        """Let go of the model."""
        self._closed = True
        self._ahead.shutdown(cancel_futures=True)
        self.choices.default = None
        self.dispatch.remove()
        self._residents.clear()

    def _check_base(self) -> None:
        """Check that the weights are the base's now."""
        self._check_open()
        with self.gate.call():
            if self.choices.merged:
                raise UsageError(MERGED)
            self.live.check_unchanged()

    def _check_open(self) -> None:
        if self._closed:
            raise UsageError("The pool is closed: make a new one of the model.")

    def _selection(self, refs: Refs) -> tuple[str | tuple[str | None, ...] | None, Selection]:
        if refs is None or isinstance(refs, str):
            self._check_base()
            reference, path = self._ready(refs)
            return reference, Selection((path,))
        if not refs:
            raise UsageError("The list of paths is empty; None is the base.")
        if self._rows_elsewhere is not None:
            raise UsageError(
                f"The model's {self._rows_elsewhere} keeps the rows of a batch in another dimension than the first: "
                "give one reference for all rows.",
                code="unsupported_model",
            )
        self._check_base()
        ready = {ref: self._ready(ref) for ref in dict.fromkeys(refs)}
        return tuple(ready[ref][0] for ref in refs), Selection.of_rows(
            [ready[ref][1] for ref in refs], turned=self.composer.readers.turned
        )

    def _ready(self, ref: str | None) -> tuple[str | None, ResidentPath | None]:
        """A path that may be used now, and its revision."""
        if ref is None:
            return None, None
        named = asked(self._registry, ref, self._base)
        path = self._resident(named)
        self._registry.note_use(named.pinned)
        return named.reference, path

    def _resident(self, named: AskedPath) -> ResidentPath | None:
        if named.reference is None:
            return None

        def make() -> ResidentPath:
            path = wanted(self._registry, named, self._base, self.live.layout)
            try:
                effects = self.composer.effects(path)
            finally:
                path.close()
            self.dispatch.add(effects)
            return ResidentPath(effects, sum(effect.nbytes for effect in effects.values()), named.digest)

        return self._residents.get(named.digest, make)


def _together(results: list[Any]) -> Any:
    """Results as `encode` gives them for many texts."""
    if results and isinstance(results[0], torch.Tensor):
        return torch.stack(results)
    if results and hasattr(results[0], "__array__"):
        import numpy

        return numpy.stack(results)
    return results
