"""The weights of a running model, and what is known of each: the base's, those after some steps, or half written.

Rounds of work on several threads: a round that was given up writes nothing once the next one has begun.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import CancelledError
from contextlib import contextmanager
from typing import Final

import torch
from torch import nn

from registry.pool.layout import Layout, Place, PristineTensors, plain_rows
from registry.pool.wanted import BASE, Key, Wanted
from registry.pool.watch import Watch
from registry.tensors.arithmetic.kernel import block_rows
from registry.tensors.arithmetic.threads import in_order
from registry.tensors.artifacts.merged import RoundedSlot
from registry.tensors.path.slot_values import MatrixRows, RecentFactors


class Rounds:
    """Counts who works in a round, as threads go on for a moment after the one that waits for them was interrupted."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._round = 0
        self._working = 0

    def begin(self) -> int:
        """End the round before: nobody begins to work in it any more, and who does so now is waited for.

        Returns:
            The new round.
        """
        with self._changed:
            self._round += 1
            while self._working:
                self._changed.wait()
            return self._round

    @contextmanager
    def work(self, of: int) -> Iterator[None]:
        """Work of a round; raises `CancelledError` where that has ended."""
        with self._changed:
            if of != self._round:
                raise CancelledError
            self._working += 1
        try:
            yield
        finally:
            with self._changed:
                self._working -= 1
                self._changed.notify_all()


_TORN: Final[Key] = (("half written", ""),)


class _Rows:
    """What goes into a place, by blocks of its rows; any thread may make and write one."""

    def __init__(self, place: Place, key: Key, tensor: torch.Tensor, values: RoundedSlot | MatrixRows) -> None:
        self.place = place
        self.key = key
        self._tensor = tensor
        self._values = values
        slot = place.slot
        self._step = (
            values.values.rows_a_block if isinstance(values, RoundedSlot) else block_rows(slot.rows, slot.columns)
        )
        self.blocks = -(-slot.rows // self._step)

    def write(self, index: int) -> None:
        """Make the rows of a block, in the dtype of the model, and write them."""
        start, stop = index * self._step, min((index + 1) * self._step, self.place.slot.rows)
        block = self._values.block(index) if isinstance(self._values, RoundedSlot) else self._values(start, stop)
        target = self.place.rows(self._tensor, start, stop)
        target.copy_(block.reshape(target.shape))


class LiveWeights:
    """The tensors of a running model. One thread at a time may use it, and none may run the model meanwhile.

    A place is marked before its first element is written, and again after its last one. So what is known of it is never
    wrong, wherever an exception comes; `become` with any path then writes it anew.
    """

    def __init__(self, model: nn.Module, layout: Layout, base: PristineTensors) -> None:
        self.base = base
        self.layout = layout
        self.changes = 0
        """How often they were written."""
        self._now: dict[Place, Key] = {}  # what is not as in the base
        self._apart: set[str] = set()  # names with a tensor of their own that share one in the base
        self._own: dict[Place, torch.Tensor] = {}  # what was in places that the base lacks
        self._at_origin = {
            place.slot: place for one in layout.values() for place in one.places if one.first == one.name
        }
        self._rounds = Rounds()
        self._inference = any(one.get().is_inference() for one in layout.values())
        self._watch = Watch(model, layout)
        self._watch.take(self._own_names())

    @property
    def changed(self) -> int:
        """How many places are not as in the base."""
        return len(self._now)

    def check_unchanged(self, *, values: bool = False) -> None:
        """Check that nobody else changed the weights, or put other modules in the place of those that hold them.

        Args:
            values: compare some elements of each tensor, too: the only trace of what is written through ``.data``.

        Raises:
            IntegrityError: ``model_changed``.
        """
        self._watch.check(self._is_torn)
        if values:
            self._watch.check_samples(self._is_torn)

    def become(self, path: Wanted) -> None:
        """Make the weights those of a path.

        Raises:
            InvalidAdapterError: ``overflow``, ``zero_norm``: the path has no weights in this dtype.
            IntegrityError, UnavailableError: stored bytes are wrong, or can't be read.
        """
        self.changes += path.apart != self._apart
        with self._writing():
            for name in sorted(self._apart - path.apart):
                self._join(name)
            for name in sorted(path.apart - self._apart):
                self._part(name)
        wanted = [
            place
            for name in self._own_names()
            for place in self.layout[name].places
            if self._now.get(place, BASE) != path.key(place)
        ]
        self.changes += bool(wanted)
        with self._writing():
            self._restore_own([place for place in wanted if place.origin is None and path.key(place) == BASE])
            self._write(path, [place for place in wanted if place.origin is not None or path.key(place) != BASE])
        self._watch.take(self._own_names())
        torch.clear_autocast_cache()  # copies of weights in 16 bits, which a caller's autocast keeps

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Tensors that are made or written are of the kind that the model's are, whatever mode the caller is in."""
        with torch.inference_mode(self._inference), torch.no_grad():
            yield

    def _part(self, name: str) -> None:
        """Give a name that shares a tensor one of its own, to be written."""
        one = self.layout[name]
        shared = one.get()
        for place in one.places:
            self._now[place] = _TORN
        own = torch.empty_like(shared, requires_grad=False)
        one.set(nn.Parameter(own, requires_grad=shared.requires_grad) if isinstance(shared, nn.Parameter) else own)
        self._apart.add(name)
        self._see(name)

    def _join(self, name: str) -> None:
        """Let a name share its tensor again."""
        one = self.layout[name]
        for place in one.places:
            self._now[place] = _TORN
        one.set(self.layout[one.first].get())
        self._apart.discard(name)
        self._watch.forget(name)
        for place in one.places:
            self._now.pop(place, None)

    def _restore_own(self, places: list[Place]) -> None:
        for place in places:
            before, self._now[place] = self._own[place], _TORN
            place.rows(self.layout[place.tensor].get(), 0, place.slot.rows).copy_(before)
            self._see(place.tensor)
            self._now.pop(place, None)

    def _write(self, path: Wanted, places: list[Place]) -> None:
        """Write places, each block on the thread that makes it: it is in that one's cache, and no other waits."""
        factors = RecentFactors()
        this = self._rounds.begin()

        def blocks() -> Iterator[tuple[_Rows, int]]:
            for place in places:
                rows = self._rows(path, place, factors)
                self._now[place] = _TORN
                for index in range(rows.blocks):
                    yield rows, index

        def write(item: tuple[_Rows, int]) -> tuple[_Rows, int]:
            rows, index = item
            with self._rounds.work(this), self._writing():
                rows.write(index)
            return item

        try:
            for rows, index in in_order(write, blocks()):
                if index == rows.blocks - 1:
                    self._done(rows.place, rows.key)
        finally:
            self._rounds.begin()

    def _done(self, place: Place, key: Key) -> None:
        self._see(place.tensor)
        if key == BASE:
            self._now.pop(place, None)
        else:
            self._now[place] = key

    def _see(self, name: str) -> None:
        """Take note of what was written."""
        self._watch.see(name)

    def _own_names(self) -> list[str]:
        """The names that have a tensor of their own now."""
        return [one.name for one in self.layout.values() if one.first == one.name or one.name in self._apart]

    def _is_torn(self, name: str) -> bool:
        """Whether a tensor, or one in the same storage, is half written."""
        near = {name, *self._watch.together.get(name, ())}
        return any(self._now.get(place) is _TORN for one in near for place in self.layout[one].places)

    def _rows(self, path: Wanted, place: Place, factors: RecentFactors) -> _Rows:
        tensor = self.layout[place.tensor].get()
        self._keep(place)
        if place not in path.programs:
            return _Rows(place, BASE, tensor, plain_rows(self.base, place, tensor.dtype))
        key, program = path.programs[place]
        values = self.base.values(program, tensor.dtype, kept=factors)
        return _Rows(place, key, tensor, RoundedSlot(values, tensor.dtype))

    def _keep(self, place: Place) -> None:
        """Keep what a place holds before it is written, as far as it can't be had again or there is memory for it."""
        origin = place.origin
        if origin is None:
            if place not in self._own:
                tensor = self.layout[place.tensor].get()
                self._own[place] = place.rows(tensor, 0, place.slot.rows).detach().cpu().clone()
            return
        held = self._at_origin.get(origin)
        if held is not None and self._now.get(held, BASE) == BASE:
            tensor = self.layout[held.tensor].get()
            if tensor.dtype == self.base.exact_dtype(origin):
                self.base.keep(origin, lambda: held.matrix(tensor, 0, origin.rows).clone())
                return
        self.base.keep(origin, lambda: self.base.rows(origin)(0, origin.rows).clone())
