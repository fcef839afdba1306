"""Slots of a module that runs with whole weights of a path's, such as a norm."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.func import functional_call, vmap

from registry.pool.beside.chosen import Chosen
from registry.pool.beside.effects import ConvSum, Effect, Whole, twin
from registry.pool.beside.forms import is_by_row
from registry.pool.beside.selection import first
from registry.pool.compiled.parts import tensors_of
from registry.pool.compiled.slots import Lack, fixed


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
