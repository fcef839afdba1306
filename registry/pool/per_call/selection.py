"""Which path runs in which row of a batch, and how that reads in the dimensions of one module's input.

Paths that are ready to run: composed once, cached within a budget, the least recently used dropped first.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from registry.errors import UsageError
from registry.pool.per_call.effects import Effect, Sum, Whole
from registry.pool.weight_readers import is_by_row

Where = slice | torch.Tensor
"""Rows of a batch: a slice, where they lie together."""


@dataclass(frozen=True, eq=False)
class ResidentPath:
    """A path that is composed and ready to run; any holder may run it."""

    effects: Mapping[nn.Module, Effect]
    nbytes: int  # memory that it takes, on the model's device
    digest: str  # of its revision, which pins what it does


@dataclass(eq=False)
class RunningCall:
    """What is known of the batch of a call that runs."""

    factors: frozenset[int] = frozenset({1})  # how many rows of the batch may stand for one of the list, as beams do
    lengths: set[int] = field(default_factory=set)  # of sequences: (rows * length, features) has these rows in order
    rows: int | None = None  # how many rows the batch of the innermost call has


@dataclass(frozen=True, eq=False)
class Selection:
    """The paths of a call: one for all rows, or one for each.

    Args:
        paths: the distinct ones; None is the base.
        rows: by row of the list, which of `paths` it is; None: the only one is for all rows.
        turned: whether some module of the model may get the rows of a batch in another dimension than the first.
    """

    paths: tuple[ResidentPath | None, ...]
    rows: tuple[int, ...] | None = None
    turned: bool = False
    _groups: dict[tuple[int, torch.device], tuple[tuple[int, Where], ...]] = field(default_factory=dict)

    @classmethod
    def of_rows(cls, chosen: Sequence[ResidentPath | None], *, turned: bool = False) -> Selection:
        """One path a row."""
        paths = tuple(dict.fromkeys(chosen))
        return cls(paths, tuple(paths.index(one) for one in chosen), turned)

    @property
    def is_base(self) -> bool:
        """Whether nothing but the base runs."""
        return all(path is None for path in self.paths)

    def effects(self, module: nn.Module) -> list[Effect | None]:
        """What each of the paths does to a module."""
        return [None if path is None else path.effects.get(module) for path in self.paths]

    def groups(self, factor: int, device: torch.device) -> tuple[tuple[int, Where], ...]:
        """By path, its rows in a batch where ``factor`` rows after each other stand for one of the list."""
        key = factor, device
        if key not in self._groups:  # a race makes it twice
            with torch.inference_mode(mode=False):  # whatever mode later calls are in
                self._groups[key] = tuple(self._group(factor, device))
        return self._groups[key]

    def _group(self, factor: int, device: torch.device) -> Iterator[tuple[int, Where]]:
        for number in range(len(self.paths)):
            mine = [row for row, path in enumerate(self.rows or ()) if path == number]
            if mine == list(range(mine[0], mine[-1] + 1)):
                yield number, slice(mine[0] * factor, (mine[-1] + 1) * factor)
            else:
                wide = [row * factor + one for row in mine for one in range(factor)]
                yield number, torch.tensor(wide, device=device)


@dataclass(frozen=True, eq=False)
class Active:
    """A selection, and the call of the model in which it runs."""

    selection: Selection
    call: RunningCall = field(default_factory=RunningCall)

    def run(self, name: str, module: nn.Module, forward: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The output of a module of the model, with what the paths do to it.

        Args:
            name: the module's.
            module: the module.
            forward: its own way to run.
            args: its inputs.
            kwargs: its inputs by name.

        Raises:
            UsageError: the rows of the list are not to be found in its input.
        """
        effects = self.selection.effects(module)
        if not any(effects):
            self._note(args)
            return forward(*args, **kwargs)
        if self.selection.rows is None or len(effects) == 1:
            effect = effects[0]
            if isinstance(effect, Whole):
                return effect.run(args, kwargs)
            if not isinstance(effect, Sum):
                raise AssertionError("an effect is a sum or whole")
            return effect.put_on(first(args, kwargs), forward(*args, **kwargs))
        return self._by_row(name, module, effects, forward, args, kwargs)

    def _note(self, args: tuple[Any, ...]) -> None:
        """Note the length of the sequences, where an input has them."""
        if self.selection.rows is not None and args and isinstance(args[0], torch.Tensor) and args[0].dim() > 2:
            self.call.lengths.add(args[0].shape[1])

    def _by_row(
        self,
        name: str,
        module: nn.Module,
        effects: list[Effect | None],
        forward: Any,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        x = first(args, kwargs)
        if x.dim() and x.shape[0] == 1 and isinstance(module, nn.Embedding) and self._rows() > 1:
            x = x.expand(self._rows(), *x.shape[1:])  # positions, which are the same in all rows
            args, kwargs = ((x, *args[1:]), kwargs) if args else (args, {**kwargs, next(iter(kwargs)): x})
        if not is_by_row(name, module, (*args, *kwargs.values())):
            raise UsageError(
                f"The paths of the list change {name!r} ({type(module).__name__}) differently, and it is not known to "
                "treat rows apart: run them one after the other, each with a reference for all rows.",
                code="unsupported_model",
            )
        groups = self.selection.groups(self._factor(name, module, x), x.device)
        if all(effect is None or isinstance(effect, Sum) for effect in effects):
            return _sums(groups, effects, x, forward(*args, **kwargs))
        return _apart(groups, effects, x, forward, args, kwargs)

    def _rows(self) -> int:
        return self.call.rows or len(self.selection.rows or ())

    def _factor(self, name: str, module: nn.Module, x: torch.Tensor) -> int:
        """How many rows of an input stand for one of the list."""
        wanted, call = len(self.selection.rows or ()), self.call
        if x.dim() > 2:
            call.lengths.add(x.shape[1])
        factor, left = divmod(x.shape[0] if x.dim() else 0, wanted)
        flat = x.dim() == 2 and not isinstance(module, nn.Embedding) and not self.selection.turned
        if left or not (
            factor in call.factors
            or (flat and any(one * length == factor for one in call.factors for length in call.lengths))
        ):
            raise UsageError(
                f"The list of paths has {wanted} rows, and the input of {name!r} has {list(x.shape)}: give one "
                "reference for each row of the batch, or one for all."
            )
        positions = x.dim() == 1 and isinstance(module, nn.Embedding) and x.shape[0] in call.lengths
        turned = self.selection.turned and x.dim() > 2 and x.shape[1] in {wanted * one for one in call.factors}
        if positions or turned:
            raise UsageError(
                f"In the input of {name!r}, {list(x.shape)}, the rows of the batch can't be told from positions, as "
                "there are as many: pad the batch to another length, or give one reference for all rows."
            )
        return factor


def first(args: tuple[Any, ...], kwargs: dict[str, Any]) -> torch.Tensor:
    """The input that a module multiplies by its weight."""
    found = args[0] if args else next(iter(kwargs.values()))
    if not isinstance(found, torch.Tensor):
        raise UsageError(f"A module got a {type(found).__name__} where a tensor is expected.")
    return found


def _sums(
    groups: tuple[tuple[int, Where], ...], effects: list[Effect | None], x: torch.Tensor, y: torch.Tensor
) -> torch.Tensor:
    """Sums are put on the rows of each path in the output of the base's weights."""
    for number, where in groups:
        effect = effects[number]
        if isinstance(effect, Sum):
            before = y[where]
            after = effect.put_on(x[where], before)
            if after is not before or not isinstance(where, slice):
                y[where] = after
    return y


def _apart(
    groups: tuple[tuple[int, Where], ...],
    effects: list[Effect | None],
    x: torch.Tensor,
    forward: Any,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> torch.Tensor:
    """The rows of each path by themselves."""
    out: torch.Tensor | None = None
    for number, where in groups:
        effect = effects[number]
        mine = tuple(_part(one, x, where) for one in args)
        named = {key: _part(one, x, where) for key, one in kwargs.items()}
        if isinstance(effect, Whole):
            y = effect.run(mine, named)
        else:
            y = forward(*mine, **named)
            y = effect.put_on(first(mine, named), y) if isinstance(effect, Sum) else y
        out = y.new_empty((x.shape[0], *y.shape[1:])) if out is None else out
        out[where] = y
    if out is None:
        raise AssertionError("a batch has rows")
    return out


def _part(given: Any, x: torch.Tensor, where: Where) -> Any:
    """Some rows of an input, where it has rows."""
    return given[where] if isinstance(given, torch.Tensor) and given.dim() and given.shape[0] == x.shape[0] else given


@dataclass(frozen=True)
class PoolStats:
    """What a pool keeps, and how often that was enough."""

    resident: int  # paths that are ready to run
    resident_bytes: int  # what they take, on the model's device
    kept_bytes: int  # rows of the base that are held on the CPU
    slot_bytes: int  # slots of a compiled model, on its device
    memory: int  # the budget of all three
    hits: int  # uses of a path that was ready
    misses: int  # uses of a path that had to be composed
    dropped: int  # paths that were composed, and made room for others


class Residents:
    """Composed paths by the digest of their revision; any thread may use them.

    Args:
        room: how many bytes they may take now.
    """

    def __init__(self, room: Callable[[], int]) -> None:
        self._room = room
        self._lock = threading.Lock()
        self._making = threading.Lock()  # one is composed at a time: it takes all cores
        self._kept: OrderedDict[str, ResidentPath] = OrderedDict()
        self._bytes = self._hits = self._misses = self._dropped = 0

    def get(self, digest: str, make: Callable[[], ResidentPath]) -> ResidentPath:
        """The path of a revision, composed where it is not ready."""
        found = self._find(digest)
        if found is None:
            with self._making:
                found = self._find(digest)
                if found is None:
                    found = make()
                    self._keep(digest, found)
        return found

    def clear(self) -> None:
        """Drop all of them."""
        with self._lock:
            self._kept.clear()
            self._bytes = 0

    def stats(self, kept_bytes: int, slot_bytes: int, memory: int) -> PoolStats:
        """What is cached, with some bytes of the base and of slots, and how often it was enough."""
        with self._lock:
            counts = self._hits, self._misses, self._dropped
            return PoolStats(len(self._kept), self._bytes, kept_bytes, slot_bytes, memory, *counts)

    def _find(self, digest: str) -> ResidentPath | None:
        with self._lock:
            found = self._kept.get(digest)
            if found is not None:
                self._kept.move_to_end(digest)
                self._hits += 1
            return found

    def _keep(self, digest: str, path: ResidentPath) -> None:
        room = self._room()
        with self._lock:
            self._misses += 1
            self._kept[digest] = path
            self._bytes += path.nbytes
            while self._bytes > room and self._kept:
                _, dropped = self._kept.popitem(last=False)
                self._bytes -= dropped.nbytes
                self._dropped += 1
