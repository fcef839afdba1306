"""Running forwards and changes of the weights keep out of each other's way.

Hooks would not do: `nn.Module` runs none of them where ``forward`` is called directly (sentence-transformers does), and
none after it where a KeyboardInterrupt ends it, so that what they count would stay. And between two steps of
``generate`` no forward runs. So the methods themselves are wrapped, on the instance.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Final, NamedTuple

from torch import nn

from registry.errors import IntegrityError, UsageError

GUARDED: Final = ("forward", "generate", "encode", "predict")
_LOOK_AGAIN: Final = 0.5  # seconds


class Call(NamedTuple):
    """A call of the model."""

    model: nn.Module
    method: str  # one of `GUARDED`
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]


Around = Callable[[Call], AbstractContextManager[object]]


class Gate:
    """Lets any number of calls of the model in, or one change. A change that waits is let in before new calls."""

    def __init__(self) -> None:
        self.refusal: str | None = None
        """Why no call is let in: the weights are half written."""
        self.around: Around = nullcontext
        """What runs around each call, and may refuse it."""
        self.leaving: Callable[[Any], object] = lambda _: None
        """Is given what each call gives, within what is around it."""
        self.instead: dict[str, Callable[..., Any]] = {}
        """By the name of a method, what runs in its place."""
        self._changed = threading.Condition()
        self._inside: dict[int, int] = {}  # thread -> how many calls of it, one in the other
        self._changes: list[int] = []  # threads of changes: the first is let in, the others wait

    @contextmanager
    def call(self) -> Iterator[None]:
        """A call of the model.

        Raises:
            IntegrityError: ``model_changed``: the weights are half written.
        """
        me = threading.get_ident()
        with self._changed:
            while self._changes and me not in self._inside and me not in self._changes:
                self._changed.wait(_LOOK_AGAIN)
            if self.refusal is not None:
                raise IntegrityError(self.refusal, code="model_changed")
            self._inside[me] = self._inside.get(me, 0) + 1
        try:
            yield
        finally:
            self._inside[me] -= 1
            if not self._inside[me]:
                del self._inside[me]
            with self._changed:
                self._changed.notify_all()

    def check_outside(self) -> None:
        """Check that this thread is in no call of the model, for whose end a change would wait; raises `UsageError`."""
        if threading.get_ident() in self._inside:
            raise UsageError("A path can't be merged from inside a call of the model: it waits for the call to end.")

    @contextmanager
    def change(self) -> Iterator[None]:
        """A change of the weights: waits for running calls, and keeps new ones out."""
        me = threading.get_ident()
        try:
            with self._changed:
                self._changes.append(me)
                while self._inside or self._changes[0] != me:
                    self._changed.wait(_LOOK_AGAIN)
            yield
        finally:
            self._changes.remove(me)
            with self._changed:
                self._changed.notify_all()


class Guarded:
    """A method of a model that goes through a gate. Copies and pickles of the model have the method alone."""

    def __init__(self, gate: Gate, model: nn.Module, name: str) -> None:
        self._gate = gate
        self._model = model
        self._name = name
        self.method: Callable[..., Any] = getattr(model, name)
        functools.update_wrapper(self, self.method)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        with self._gate.call(), self._gate.around(Call(self._model, self._name, args, kwargs)):
            found = self._gate.instead.get(self._name, self.method)(*args, **kwargs)
            self._gate.leaving(found)
            return found

    def __reduce__(self) -> tuple[Any, ...]:
        return getattr, (self._model, self._name)


def guard(gate: Gate, model: nn.Module) -> None:
    """Let calls of a model through a gate.

    Raises:
        UsageError: another pool has it.
    """
    if any(isinstance(vars(model).get(name), Guarded) for name in GUARDED):
        raise UsageError("Another pool has this model; close it first.")
    for name in GUARDED:
        if callable(getattr(model, name, None)):
            setattr(model, name, Guarded(gate, model, name))


def own_method(model: nn.Module, name: str) -> Callable[..., Any]:
    """A method of a model that goes through a gate, without it."""
    guarded: Guarded = vars(model)[name]
    return guarded.method


def unguard(model: nn.Module) -> None:
    """Take the gate away."""
    for name in GUARDED:
        if isinstance(vars(model).get(name), Guarded):
            delattr(model, name)
