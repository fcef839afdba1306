"""The weights of a running model: what each is now, who may write them, and whether something else changed them.

Rounds of work on several threads: a round that was given up writes nothing once the next one has begun.

Did something else than the pool change the weights? What each tensor was when the pool last wrote or checked it.

A look at all tensors costs less than a microsecond each, and finds what PyTorch counts (most writes in place), other
objects in a tensor's place, and what ``.data = `` does: other memory, another dtype, another view. Writes through
``.data`` and by fused optimizers are not counted. They leave no trace but the values, so that at each change of the
weights some elements of all tensors are compared, too, and at each look on the CPU those of one tensor, in rotation.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import CancelledError
from contextlib import contextmanager
from typing import Final, NamedTuple

import torch
from torch import nn

from registry.errors import IntegrityError
from registry.pool.layout import Layout, Place, PristineTensors, plain_rows
from registry.pool.path_programs import BASE, Key, Wanted
from registry.tensors.arithmetic.kernel import block_rows
from registry.tensors.arithmetic.threads import in_order
from registry.tensors.artifacts.merged import RoundedSlot
from registry.tensors.path.slot_values import MatrixRows, RecentFactors

SAMPLES: Final = 2048
"""How many elements of a tensor are compared; smaller tensors are compared as a whole."""


class _Seen(NamedTuple):
    """A tensor as it was."""

    held: Mapping[str, torch.Tensor | None]  # the parameters or buffers of its module
    leaf: str
    tensor: torch.Tensor
    version: int | None  # counts writes; None: a tensor of inference mode, which does not count
    dtype: torch.dtype
    address: int
    alias: torch.Tensor  # keeps the memory, so that no other tensor can come to the same address

    def difference(self) -> str | None:
        """How the tensor is another one now; None: it is not."""
        now = self.held.get(self.leaf)
        if now is not self.tensor:
            return "it is another tensor now" if now is not None else "it is gone"
        if now.dtype is not self.dtype:
            was, is_now = (str(one).removeprefix("torch.") for one in (self.dtype, now.dtype))
            return f"it was {was} and is {is_now} now, as .half() and .to() make it"
        if now.data_ptr() != self.address or not now.is_set_to(self.alias):
            return "it lies elsewhere in memory now, as an assignment to .data, .to() and .share_memory() make it"
        if self.version is not None and now._version != self.version:
            return "it was written to, as training does"
        return None


class Watch:
    """What the tensors of a running model were when the pool last wrote or checked them.

    Args:
        model: the model, whose modules have to stay.
        layout: its tensors.
        seed: of the elements that are compared. None: others for each pool.
    """

    def __init__(self, model: nn.Module, layout: Layout, seed: int | None = None) -> None:
        self._modules = [
            (name, parent._modules, key, module)
            for name, parent in model.named_modules()
            for key, module in parent._modules.items()
        ]
        self._layout = layout
        self.together = _in_one_storage(layout)
        """By name, the tensors in one storage, as tied ones are and those that loaders cut out of one; itself too."""
        self._seen: dict[str, _Seen] = {}
        chosen = random.SystemRandom().getrandbits(62) if seed is None else seed
        self._chance = torch.Generator().manual_seed(chosen)  # its own: the caller's random numbers stay as they are
        self._turn = 0
        self._waits = any(one.get().is_cuda for one in layout.values())  # for the device, where values are compared
        self._at: dict[str, torch.Tensor] = {}  # which elements are compared of those that are not compared as a whole
        self._values: dict[str, torch.Tensor] = {}  # their bytes

    def see(self, name: str) -> None:
        """Take note of a tensor that was written; those in one storage with it count together."""
        self._values.pop(name, None)
        for near in (name, *self.together.get(name, ())):
            if near == name or near in self._seen:
                one = self._layout[near]
                tensor = one.get()
                held: Mapping[str, torch.Tensor | None] = (
                    one.owner._parameters if one.leaf in one.owner._parameters else one.owner._buffers
                )
                version = None if tensor.is_inference() else tensor._version
                self._seen[near] = _Seen(held, one.leaf, tensor, version, tensor.dtype, tensor.data_ptr(), tensor.data)

    def forget(self, name: str) -> None:
        """Know nothing of a tensor, which is to be another one."""
        self._seen.pop(name, None)
        self._values.pop(name, None)

    @torch.no_grad()
    def take(self, own: Iterable[str]) -> None:
        """Take note of all tensors that were written, or forgotten, since.

        Args:
            own: the names with a tensor of their own: some elements of each are stored.
        """
        for name in self._layout.keys() - self._seen.keys():
            self.see(name)
        for name in own:
            if name not in self._values:
                self._values[name] = self._elements(name).clone()

    def check(self, is_torn: Callable[[str], bool]) -> None:
        """Check that all tensors and modules are those that they were; a microsecond a tensor.

        Args:
            is_torn: whether it is known that a tensor is half written.

        Raises:
            IntegrityError: ``model_changed``.
        """
        for name, modules, key, module in self._modules:
            if modules.get(key) is not module:
                raise IntegrityError(
                    f"{key!r} in {name or 'the model'!r} is another module than when the model was checked: make a new "
                    "pool of the model.",
                    code="model_changed",
                )
        for name, (held, leaf, tensor, version, dtype, address, alias) in self._seen.items():
            if (  # spelled out: it is the larger part of what `use` costs
                held.get(leaf) is not tensor
                or tensor.dtype is not dtype
                or tensor.data_ptr() != address
                or not tensor.is_set_to(alias)
                or (version is not None and tensor._version != version)
            ) and not is_torn(name):
                raise _changed(name, self._seen[name].difference() or "it was written to")
        if not self._waits and self._values:
            names = list(self._values)
            self._turn = (self._turn + 1) % len(names)
            self._compare(names[self._turn], is_torn)

    def check_samples(self, is_torn: Callable[[str], bool]) -> None:
        """Check that the elements that were taken note of have the same bytes.

        Of ``n`` elements of a tensor, ``k`` that were changed are found with a probability of ``1 - (1 - k/n) **
        SAMPLES`` or more, and always where they are all, more than ``2 n / SAMPLES`` in a row, or n is at most SAMPLES.

        Raises:
            IntegrityError: ``model_changed``.
        """
        for name in self._values:
            self._compare(name, is_torn)

    @torch.no_grad()
    def _compare(self, name: str, is_torn: Callable[[str], bool]) -> None:
        if not torch.equal(self._elements(name), self._values[name]) and not is_torn(name):
            raise _changed(name, "it holds other values")

    def _elements(self, name: str) -> torch.Tensor:
        """The bytes of the elements of a tensor that are compared."""
        tensor = self._layout[name].get().detach()
        count = tensor.numel()
        if count <= SAMPLES:
            return tensor.reshape(-1).contiguous().view(torch.uint8)
        if name not in self._at:
            self._at[name] = self._drawn(count).to(tensor.device)
        return torch.take(tensor, self._at[name]).view(torch.uint8)

    def _drawn(self, count: int) -> torch.Tensor:
        """One element out of each of `SAMPLES` pieces of the same length: what lies in a row is found surely."""
        where = torch.rand(SAMPLES, generator=self._chance, dtype=torch.float64) + torch.arange(SAMPLES)
        return (where * (count / SAMPLES)).long().clamp_(max=count - 1)


def _in_one_storage(layout: Layout) -> dict[str, tuple[str, ...]]:
    found: dict[int, list[str]] = {}
    for one in layout.values():
        found.setdefault(one.get().untyped_storage().data_ptr(), []).append(one.name)
    return {name: tuple(names) for names in found.values() for name in names}


def _changed(name: str, how: str) -> IntegrityError:
    return IntegrityError(
        f"{name!r} was changed by something else than the pool since the model was checked ({how}): load the base "
        "model again, and make a new pool.",
        code="model_changed",
    )


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
        """Keep what a place holds before it is written, if it can't be read again or memory is left for it."""
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
