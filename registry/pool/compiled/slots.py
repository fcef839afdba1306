"""Slots of one module: stacked tensors of fixed shapes, of which each row of a batch chooses one by its number.

What runs here is traced by ``torch.compile``: stacks and numbers are inputs of the graph, so that writing a slot, and
choosing another, compiles nothing. Slot 0 is the base.

What a path does to a module, in the one form that slots have: a scale, a shift and a product of low rank.

Rows of a weight that are set, and whole weights of few labels, have it as well: the base's output is scaled by zero
in them, and the new rows are the factors of a product with ones.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import nn

from registry.pool.per_call.dispatch import Chosen
from registry.pool.per_call.effects import Effect, EmbeddingSum, LinearSum, Whole, embedding_scale
from registry.pool.per_call.selection import first
from registry.pool.weight_readers import is_by_row


@dataclass(frozen=True, eq=False)
class Parts:
    """What goes into one slot of a module; None: as in the base."""

    a: torch.Tensor | None = None  # (rank, in_features); of an embedding (vocabulary, rank)
    b: torch.Tensor | None = None  # (rank, out_features)
    scale: torch.Tensor | None = None  # (out_features,)
    shift: torch.Tensor | None = None  # (out_features,)
    keep: torch.Tensor | None = None  # of an embedding (vocabulary,): 0 for rows that are set, else 1

    @property
    def rank(self) -> int:
        """That of the product."""
        return 0 if self.b is None else self.b.shape[0]


def linear_parts(module: nn.Module, effect: Effect) -> Parts:
    """Of ``nn.Linear`` and ``Conv1D``."""
    if isinstance(effect, Whole):
        return _whole_linear(module, effect)
    if not isinstance(effect, LinearSum):
        raise TypeError("a linear module has a linear effect")
    if effect.at is None or effect.values is None:
        return Parts(effect.a, effect.b, effect.scale, effect.shift)
    features = _oriented(module, tensors_of(module)["weight"]).shape[0]
    return _set_features(effect, effect.at, effect.values, features)


def embedding_parts(effect: Effect) -> Parts:
    """Of embeddings."""
    if isinstance(effect, Whole):
        weight = effect.values["weight"]
        zero = weight.new_zeros(weight.shape[0])
        return Parts(*_product(weight.T, turned=True), keep=zero)
    if not isinstance(effect, EmbeddingSum):
        raise TypeError("an embedding has the effect of one")
    if effect.at is None or effect.values is None:
        return Parts(effect.a, effect.b, effect.scale, effect.shift)
    rows = (effect.at >= 0).nonzero().squeeze(1)
    count, values = len(rows), effect.values[effect.at[rows]]
    ones = values.new_zeros(effect.at.shape[0], count)
    ones[rows, torch.arange(count, device=rows.device)] = 1
    keep = values.new_ones(effect.at.shape[0])
    keep[rows] = 0
    if effect.a is None or effect.b is None:
        return Parts(ones, values, effect.scale, effect.shift, keep)
    below = effect.a.clone()
    below[rows] = 0
    return Parts(torch.cat([below, ones], 1), torch.cat([effect.b, values]), effect.scale, effect.shift, keep)


def tensors_of(module: nn.Module) -> dict[str, torch.Tensor]:
    """The parameters and buffers of a module itself."""
    own = {**module._parameters, **module._buffers}
    return {leaf: tensor for leaf, tensor in own.items() if tensor is not None}


def _oriented(module: nn.Module, weight: torch.Tensor) -> torch.Tensor:
    """The weight (out, in) of ``nn.Linear`` or ``Conv1D``."""
    return weight if isinstance(module, nn.Linear) else weight.T


def _whole_linear(module: nn.Module, effect: Whole) -> Parts:
    own = {**tensors_of(module), **effect.values}
    weight, bias = _oriented(module, own["weight"]), own.get("bias")
    wide = torch.promote_types(weight.dtype, torch.float32)
    zero = torch.zeros(weight.shape[0], dtype=wide, device=weight.device)
    return Parts(*_product(weight), scale=zero, shift=zero if bias is None else bias.to(wide))


def _product(weight: torch.Tensor, *, turned: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    """A weight (out, in) as a product with ones, of the smaller of its two sizes."""
    out, into = weight.shape
    one = torch.eye(min(out, into), dtype=weight.dtype, device=weight.device)
    a, b = (weight, one) if out <= into else (one, weight.T)
    return (a.T if turned else a), b


def _set_features(effect: LinearSum, at: torch.Tensor, values: torch.Tensor, features: int) -> Parts:
    """Rows of the weight that are set are output features: the base's are scaled by zero."""
    wide = torch.promote_types(values.dtype, torch.float32)
    given = values.new_ones(features, dtype=wide) if effect.scale is None else effect.scale.clone()
    moved = values.new_zeros(features, dtype=wide) if effect.shift is None else effect.shift.clone()
    given[at] = 0
    moved[at] = 0 if effect.at_bias is None else effect.at_bias.to(wide)
    ones = values.new_zeros(len(at), features)
    ones[torch.arange(len(at), device=at.device), at] = 1
    if effect.a is None or effect.b is None:
        return Parts(values, ones, given, moved)
    above = effect.b.clone()
    above[:, at] = 0
    return Parts(torch.cat([effect.a, values]), torch.cat([above, ones]), given, moved)


class Lack(NamedTuple):
    """What slots don't have."""

    what: str
    nbytes: int  # that it would take


class ModuleSlots(Protocol):
    """The slots of one module."""

    @property
    def nbytes(self) -> int:
        """Memory that they take, on the model's device."""

    def lacks(self, effect: Effect | None) -> Lack | None:
        """What an effect needs that the slots don't have; None: nothing. Without one: what they begin with."""

    def grow(self, effect: Effect | None) -> None:
        """Make room for that; what is in the slots stays in them. No call may run in them meanwhile."""

    def write(self, slot: int, effect: Effect | None) -> None:
        """Put an effect into a slot; None: what the base does."""

    def run(self, chosen: Chosen, rows: torch.Tensor, forward: Any, args: Any, kwargs: Any) -> Any:
        """The module's output for the slots of the rows."""


class SumSlots(ABC):
    """Of a module that multiplies by its weight: ``a`` and ``b`` are padded with zeros to one rank.

    They take no memory for it before they grow.

    Args:
        name: the module's.
        module: the module.
        count: how many slots.
        rank: the rank that each has room for, at least.
    """

    def __init__(self, name: str, module: nn.Module, count: int, rank: int) -> None:
        self._name = name
        self._by_row = is_by_row(name, module, [torch.zeros(1, 1)])
        weight = tensors_of(module)["weight"].detach()
        wide = torch.promote_types(weight.dtype, torch.float32)
        self._module = module
        self._least = rank
        self._used = [0] * count  # the rank that is in each slot
        self._plain = [True] * count  # whether the rest of it is as in the base
        self.into, self.out = self._sizes(weight)
        self.rank = 0
        self.scale = fixed(torch.ones(count, self.out, dtype=wide, device=weight.device))
        self.shift = fixed(torch.zeros(count, self.out, dtype=wide, device=weight.device))
        self.a = weight.new_zeros(count, *self._shape_of_a(0))
        self.b = weight.new_zeros(count, 0, self.out)
        self.keep: torch.Tensor | None = None

    @property
    def nbytes(self) -> int:
        """Memory that they take."""
        return sum(one.nbytes for one in (self.a, self.b, self.scale, self.shift, self.keep) if one is not None)

    def lacks(self, effect: Effect | None) -> Lack | None:
        rank = self._room_for(effect)
        if rank <= self.rank:
            return None
        nbytes = self.a.shape[0] * (rank - self.rank) * (self.into + self.out) * self.a.itemsize
        return Lack(f"a rank of {rank}", nbytes)

    def grow(self, effect: Effect | None) -> None:
        rank = max(self.rank, self._room_for(effect))
        a = self.a.new_zeros(self.a.shape[0], *self._shape_of_a(rank))
        b = self.b.new_zeros(self.b.shape[0], rank, self.out)
        for slot, used in enumerate(self._used):
            self._first(a[slot], used).copy_(self._first(self.a[slot], used))
            b[slot, :used] = self.b[slot, :used]
        self.a, self.b, self.rank = fixed(a), fixed(b), rank

    def write(self, slot: int, effect: Effect | None) -> None:
        parts = Parts() if effect is None else self._parts(effect)
        rank, used = parts.rank, self._used[slot]
        self._used[slot] = max(rank, used)
        if parts.a is not None and parts.b is not None:
            self._first(self.a[slot], rank).copy_(parts.a)
            self.b[slot, :rank] = parts.b
        self.b[slot, rank:used] = 0
        self._used[slot] = rank
        plain = parts.scale is None and parts.shift is None and parts.keep is None
        if not (plain and self._plain[slot]):
            self._plain[slot] = False
            self._write_rest(slot, parts)
            self._plain[slot] = plain

    def run(self, chosen: Chosen, rows: torch.Tensor, forward: Any, args: Any, kwargs: Any) -> Any:
        x, y = first(args, kwargs), forward(*args, **kwargs)
        if rows.shape[0] != 1 and not (self._by_row and chosen.finds(rows, x)):
            chosen.lost.append(self._name)
            return y
        x = self._apart(rows.shape[0], x)
        added = self._product(rows, x)
        scale, shift = self.scale.index_select(0, rows), self.shift.index_select(0, rows)
        base = y.reshape(x.shape[0], -1, self.out)
        if self.keep is not None:
            base = base * self.keep[rows.unsqueeze(1), x].unsqueeze(-1)
        return (base * scale.unsqueeze(1) + shift.unsqueeze(1) + added).to(y.dtype).reshape(-1, *y.shape[1:])

    def _room_for(self, effect: Effect | None) -> int:
        rank = 0 if effect is None else self._parts(effect).rank
        return self._least if rank <= self._least else 1 << (rank - 1).bit_length()

    def _write_rest(self, slot: int, parts: Parts) -> None:
        self.scale[slot] = 1 if parts.scale is None else parts.scale
        self.shift[slot] = 0 if parts.shift is None else parts.shift
        if self.keep is not None:
            self.keep[slot] = 1 if parts.keep is None else parts.keep

    @abstractmethod
    def _sizes(self, weight: torch.Tensor) -> tuple[int, int]: ...

    @abstractmethod
    def _shape_of_a(self, rank: int) -> tuple[int, int]: ...

    @abstractmethod
    def _first(self, a: torch.Tensor, rank: int) -> torch.Tensor:
        """The part of one ``a`` for the first ranks: a view."""

    @abstractmethod
    def _parts(self, effect: Effect) -> Parts: ...

    @abstractmethod
    def _apart(self, count: int, x: torch.Tensor) -> torch.Tensor:
        """An input as (slots, what runs with each, ...)."""

    @abstractmethod
    def _product(self, rows: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """What is added, as (slots, what runs with each, features)."""


class LinearSlots(SumSlots):
    """Of ``nn.Linear`` and transformers' ``Conv1D``: a (slots, rank, in), b (slots, rank, out)."""

    def _sizes(self, weight: torch.Tensor) -> tuple[int, int]:
        out, into = weight.shape if isinstance(self._module, nn.Linear) else weight.T.shape
        return into, out

    def _shape_of_a(self, rank: int) -> tuple[int, int]:
        return rank, self.into

    def _first(self, a: torch.Tensor, rank: int) -> torch.Tensor:
        return a[:rank]

    def _parts(self, effect: Effect) -> Parts:
        return linear_parts(self._module, effect)

    def _apart(self, count: int, x: torch.Tensor) -> torch.Tensor:
        return x.reshape(count, -1, self.into)

    def _product(self, rows: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        inner = torch.bmm(x, self.a.index_select(0, rows).mT)
        return torch.bmm(inner, self.b.index_select(0, rows))


class EmbeddingSlots(SumSlots):
    """Of embeddings: a (slots, vocabulary, rank), b (slots, rank, features); `keep` is 0 for rows that are set."""

    def __init__(self, name: str, module: nn.Module, count: int, rank: int) -> None:
        super().__init__(name, module, count, rank)
        self.keep = fixed(self.a.new_ones(count, self.into))
        self._times = embedding_scale(module, self.a.dtype)

    def _sizes(self, weight: torch.Tensor) -> tuple[int, int]:
        return weight.shape[0], weight.shape[1]

    def _shape_of_a(self, rank: int) -> tuple[int, int]:
        return self.into, rank

    def _first(self, a: torch.Tensor, rank: int) -> torch.Tensor:
        return a[:, :rank]

    def _parts(self, effect: Effect) -> Parts:
        return embedding_parts(effect)

    def _apart(self, count: int, x: torch.Tensor) -> torch.Tensor:
        return x.reshape(1 if x.shape[0] == 1 else count, -1)

    def _product(self, rows: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        return torch.bmm(self.a[rows.unsqueeze(1), x], self.b.index_select(0, rows)) * self._times


def fixed(stack: torch.Tensor) -> torch.Tensor:
    """A stack whose shape is part of what is compiled, whatever else is dynamic."""
    torch._dynamo.mark_static(stack)
    return stack
