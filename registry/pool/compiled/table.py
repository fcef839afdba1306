"""Which path is in which slot: written when it is chosen, in the place of the least recently used that is free.

Slots of a module that runs with whole weights of a path's, such as a norm.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final, NamedTuple

import torch
from torch import nn
from torch.func import functional_call, vmap

from registry.errors import UsageError
from registry.figures import size
from registry.pool.compiled.slots import EmbeddingSlots, Lack, LinearSlots, ModuleSlots, SumSlots, fixed, tensors_of
from registry.pool.per_call.dispatch import Chosen, Dispatch
from registry.pool.per_call.effects import ConvSum, Effect, Whole, twin
from registry.pool.per_call.selection import ResidentPath, first
from registry.pool.weight_readers import Form, form_of, is_by_row


class WholeSlots:
    """Copies of the weights that paths change, by slot. A slot without some runs with the model's.

    Args:
        name: the module's.
        module: the module.
        count: how many slots.
    """

    def __init__(self, name: str, module: nn.Module, count: int) -> None:
        self._name = name
        self._module = module
        self._count = count
        dimensions = len(module.kernel_size) + 2 if isinstance(module, nn.modules.conv._ConvNd) else 2
        self._by_row = is_by_row(name, module, [torch.zeros([1] * dimensions)])
        self._filled = [False] * count
        self._shell = _shell(module, {})
        device = next(iter(module.state_dict().values())).device
        self.own = fixed(torch.zeros(count, dtype=torch.bool, device=device))
        self.stacks: dict[str, torch.Tensor] = {}  # by name in the module, or of modules below it

    @property
    def nbytes(self) -> int:
        """Memory that they take."""
        return self.own.nbytes + sum(one.nbytes for one in self.stacks.values())

    def lacks(self, effect: Effect | None) -> Lack | None:
        new = self._new(effect)
        if not new:
            return None
        return Lack(f"a whole {' and '.join(new)}", self._count * sum(one.nbytes for one in new.values()))

    def grow(self, effect: Effect | None) -> None:
        stacks = dict(self.stacks)
        for name in self._new(effect):
            live = self._live(name).detach()
            stacks[name] = fixed(live.expand(self._count, *live.shape).clone())
        self._shell = _shell(self._module, {name: self._live(name) for name in stacks})
        self.stacks = stacks

    def write(self, slot: int, effect: Effect | None) -> None:
        if effect is None and not self._filled[slot]:
            return
        self._filled[slot] = True
        changed = self._changed(effect)
        for name, stack in self.stacks.items():
            stack[slot] = changed[name] if name in changed else self._live(name)
        self.own[slot] = effect is not None
        self._filled[slot] = effect is not None

    def run(self, chosen: Chosen, rows: torch.Tensor, forward: Any, args: Any, kwargs: Any) -> Any:
        if rows.shape[0] == 1:
            weights = {leaf: one[0] for leaf, one in self._weights(rows).items()}
            return functional_call(self._shell, weights, args, kwargs)
        x = first(args, kwargs)
        training = isinstance(self._module, nn.modules.batchnorm._BatchNorm) and self._module.training
        if training or not self._by_row or not chosen.finds(rows, x) or _has_more(x, args, kwargs):
            chosen.lost.append(self._name)
            return forward(*args, **kwargs)
        name = None if args else next(iter(kwargs))

        def one(weights: dict[str, torch.Tensor], part: torch.Tensor) -> torch.Tensor:
            mine, named = ((part, *args[1:]), kwargs) if name is None else ((), {**kwargs, name: part})
            found: torch.Tensor = functional_call(self._shell, weights, mine, named)
            return found

        return vmap(one)(self._weights(rows), x.reshape(rows.shape[0], -1, *x.shape[1:])).flatten(0, 1)

    def _new(self, effect: Effect | None) -> dict[str, torch.Tensor]:
        return {leaf: one for leaf, one in self._changed(effect).items() if leaf not in self.stacks}

    def _changed(self, effect: Effect | None) -> Mapping[str, torch.Tensor]:
        """What an effect changes of the module's tensors, which are the base's now."""
        if isinstance(effect, ConvSum):
            return _convolution(tensors_of(self._module), effect)
        return effect.values if isinstance(effect, Whole) else {}

    def _live(self, name: str) -> torch.Tensor:
        """The model's tensor of a name."""
        inner, _, leaf = name.rpartition(".")
        return tensors_of(self._module.get_submodule(inner))[leaf]

    def _weights(self, rows: torch.Tensor) -> dict[str, torch.Tensor]:
        """Those of each row, or those of all as one."""
        own, found = self.own.index_select(0, rows), {}
        for name, stack in self.stacks.items():
            live = self._live(name)
            found[name] = torch.where(own.view(-1, *[1] * live.dim()), stack.index_select(0, rows), live)
        return found


def _shell(module: nn.Module, values: Mapping[str, torch.Tensor]) -> nn.Module:
    """A module to run with other tensors: it shares all but these, and has no hooks, as those of the other run."""
    made = twin(module, values)
    vars(made).update({key: OrderedDict() for key in vars(made) if key.endswith("_hooks") or "_hooks_" in key})
    return made


def _has_more(x: torch.Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether other inputs have rows, too."""
    others = [one for one in (*args, *kwargs.values()) if isinstance(one, torch.Tensor) and one is not x]
    return any(one.dim() > 0 for one in others)


def _convolution(base: dict[str, torch.Tensor], effect: ConvSum) -> dict[str, torch.Tensor]:
    """A convolution has no slots of low rank: its kernels are small."""
    weight, scale = base["weight"], effect.scale
    wide = torch.promote_types(weight.dtype, torch.float32)
    changed = weight.to(wide)
    if scale is not None:
        changed = changed * scale.view(-1, *[1] * (weight.dim() - 1))
    if effect.a is not None and effect.b is not None:
        changed = changed + (effect.b.flatten(1).to(wide) @ effect.a.flatten(1).to(wide)).view(weight.shape)
    found = {"weight": changed.to(weight.dtype)}
    if effect.shift is not None:
        bias = base["bias"].to(wide)
        found["bias"] = ((bias if scale is None else bias * scale) + effect.shift).to(weight.dtype)
    return found


log = logging.getLogger(__name__)

_LOOK_AGAIN: Final = 0.5  # seconds
_KINDS: Final[Mapping[Form | None, type[SumSlots]]] = {Form.LINEAR: LinearSlots, Form.EMBEDDING: EmbeddingSlots}


class Lacking(NamedTuple):
    """What an effect needs that a module has no room for; without an effect: what slots begin with."""

    module: nn.Module
    slots: ModuleSlots
    effect: Effect | None
    lack: Lack


class SlotTable:
    """The slots of all modules of a model; any thread may use them.

    Args:
        dispatch: the modules.
        device: the model's.
        paths: how many paths have slots at once.
        max_rank: the rank that has room.
        room: how many bytes the slots may take.
    """

    def __init__(
        self, dispatch: Dispatch, device: torch.device, paths: int, max_rank: int, room: Callable[[], int]
    ) -> None:
        self._device = device
        self._dispatch = dispatch
        self._count = paths + 1
        self._rank = max_rank
        self._room = room
        self._of: dict[nn.Module, ModuleSlots] = {}
        self._changed = threading.Condition()
        self._held: OrderedDict[str, int] = OrderedDict()  # digest -> slot, the least recently used first
        self._users: Counter[int] = Counter()
        self._grower: int | None = None  # the thread that waits for running calls to end

    @property
    def nbytes(self) -> int:
        """Memory that the slots take, on the model's device."""
        return sum(slots.nbytes for slots in list(self._of.values()))

    def name(self, module: nn.Module) -> str:
        """That of a module."""
        return self._dispatch.names[module]

    def fix(self, ranks: Mapping[nn.Module, int]) -> None:
        """Make the slots of some modules that multiply by their weight, with room for some rank.

        Raises:
            UsageError: they would take more than the room that is left.
        """
        made = [(module, self._slots(module, rank)) for module, rank in ranks.items()]
        lacks = [(module, slots, slots.lacks(None)) for module, slots in made]
        self._grow([Lacking(module, slots, None, lack) for module, slots, lack in lacks if lack is not None])

    def clear(self) -> None:
        """Take all slots away."""
        for module in self._of:
            self._dispatch.slot(module, None)
        self._of.clear()

    @contextmanager
    def hold(self, paths: Sequence[ResidentPath | None]) -> Iterator[list[int]]:
        """The slot of each path for the length of a call; waits where other calls need all slots.

        Raises:
            UsageError: these are more paths than slots, or they need more than the available memory.
        """
        wanted = {path.digest: path for path in paths if path is not None}
        if len(wanted) >= self._count:
            raise UsageError(
                f"The list has {len(wanted)} paths, and the model was compiled for {self._count - 1} at once: compile "
                f"with `paths={len(wanted)}`."
            )
        with self._changed:
            free = self._wait(wanted)
            for digest, path in wanted.items():
                if digest not in self._held:
                    self._write(free.pop(0), path)
                self._held.move_to_end(digest)
            numbers = [0 if path is None else self._held[path.digest] for path in paths]
            self._users.update(set(numbers))
        try:
            yield numbers
        finally:
            with self._changed:
                self._users.subtract(set(numbers))
                self._changed.notify_all()

    def _wait(self, wanted: Mapping[str, ResidentPath]) -> list[int]:
        """Wait until slots for paths are free, with enough room: the slots that may be written."""
        me = threading.get_ident()
        try:
            while True:
                free = self._free(wanted)
                lacking = list(self._lacking([path for digest, path in wanted.items() if digest not in self._held]))
                if self._grower in (None, me) and free is not None and not (lacking and self._users.total()):
                    break
                if lacking and self._grower is None:
                    self._grower = me  # others wait, so that running calls come to an end
                self._changed.wait(_LOOK_AGAIN)
            if lacking:
                self._say(lacking)
                self._grow(lacking)
            return free
        finally:
            self._grower = None if self._grower == me else self._grower
            self._changed.notify_all()

    def _free(self, wanted: Mapping[str, ResidentPath]) -> list[int] | None:
        """Slots for what is not in one yet, empty ones first; None: calls that run need them."""
        used = set(self._held.values())
        empty = [slot for slot in range(1, self._count) if slot not in used]
        old = [slot for digest, slot in self._held.items() if digest not in wanted and not self._users[slot]]
        missing = sum(digest not in self._held for digest in wanted)
        return [*empty, *old] if len(empty) + len(old) >= missing else None

    def _write(self, slot: int, path: ResidentPath) -> None:
        for digest, held in list(self._held.items()):
            if held == slot:
                del self._held[digest]
        self._await_device()
        with torch.inference_mode(False), torch.no_grad():
            for module, slots in self._of.items():
                slots.write(slot, path.effects.get(module))
        self._await_device()
        self._held[path.digest] = slot

    def _await_device(self) -> None:
        """Wait for what runs on the device: calls that have returned may still read a slot, on streams of their own."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)

    def _lacking(self, paths: Iterable[ResidentPath]) -> Iterator[Lacking]:
        """What paths need that the slots of modules don't have."""
        new: dict[nn.Module, ModuleSlots] = {}
        for path in paths:
            for module, effect in path.effects.items():
                slots = self._of.get(module) or new.get(module)
                if slots is None:
                    slots = new[module] = self._slots(module, self._rank)
                lack = slots.lacks(effect)
                if lack is not None:
                    yield Lacking(module, slots, effect, lack)

    def _grow(self, lacking: Sequence[Lacking]) -> None:
        """Make room in slots; what is compiled is compiled again at its next call."""
        needed = self.nbytes + sum(one.lack.nbytes for one in lacking)
        if needed > self._room():
            raise UsageError(
                f"Slots for {self._count - 1} paths would take {size(needed)}, and the pool has {size(self._room())} "
                "for them: give it more `memory`, or compile with a lower `max_rank`, fewer `paths` or `modules`."
            )
        with torch.inference_mode(False), torch.no_grad():
            for module, slots, effect, _ in lacking:
                slots.grow(effect)
                self._of[module] = slots
                self._dispatch.slot(module, slots)

    def _say(self, lacking: Sequence[Lacking]) -> None:
        first = lacking[0]
        more = f" and {len(lacking) - 1} more" if len(lacking) > 1 else ""
        log.warning(
            "a path needs more than the model was compiled for: %s in %s%s; the next call compiles again",
            first.lack.what,
            self._dispatch.names[first.module],
            more,
        )

    def _slots(self, module: nn.Module, rank: int) -> ModuleSlots:
        """Slots for a module, which have room for nothing yet."""
        name, kind = self._dispatch.names[module], _KINDS.get(form_of(module))
        return WholeSlots(name, module, self._count) if kind is None else kind(name, module, self._count, rank)
