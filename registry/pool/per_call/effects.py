"""What a path does to the output of one module.

Where the module multiplies by its weight, what the path adds to the weight is added to the output as a product of low
rank: ``x (s W + B A)^T = s (x W^T) + (x A^T) B^T``. Every other module runs with whole weights of the path's.

From a change of low rank to the tensors that one kind of module adds with, on its device and in its dtype.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol

import torch
from torch import nn
from torch.nn import functional

from registry.errors import InvalidAdapterError
from registry.pool.weight_readers import Form, is_scaled
from registry.tensors.arithmetic.kernel import holding, rounded
from registry.tensors.path.low_rank import LowRank


class Effect(Protocol):
    """What a path does to the output of one module."""

    @property
    def nbytes(self) -> int:
        """Memory that it takes, on the model's device."""


@dataclass(frozen=True, eq=False)
class Whole:
    """The module with weights of the path's."""

    owner: nn.Module
    values: Mapping[str, torch.Tensor]  # by name: of its own, or of modules below it whose weights it reads itself

    @property
    def nbytes(self) -> int:
        """Memory that it takes."""
        return sum(one.nbytes for one in self.values.values())

    @property
    def module(self) -> nn.Module:
        """A module that shares all with that of the model, as it is now, but these."""
        return twin(self.owner, self.values)

    def run(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Its output."""
        return self.module.forward(*args, **kwargs)


def twin(owner: nn.Module, values: Mapping[str, torch.Tensor]) -> nn.Module:
    """A module that shares all with another, as it is now, but some tensors of it and of modules below it."""
    parameters, buffers, modules = dict(owner._parameters), dict(owner._buffers), dict(owner._modules)
    below: dict[str, dict[str, torch.Tensor]] = {}
    for name, value in values.items():
        first, _, rest = name.partition(".")
        if rest:
            below.setdefault(first, {})[rest] = value
        elif isinstance(value, nn.Parameter):
            parameters[name] = value
        else:
            buffers[name] = value
    for name, inner in below.items():
        modules[name] = twin(owner.get_submodule(name), inner)
    made = type(owner).__new__(type(owner))
    vars(made).update(vars(owner), _parameters=parameters, _buffers=buffers, _modules=modules)
    vars(made).pop("forward", None)
    return made


@dataclass(frozen=True, eq=False)
class Sum(ABC):
    """A change of low rank, of one kind of module.

    `scale` and `shift` are in float32 at least: they are factors of whole features, whose rounding would not average
    out.
    """

    scale: torch.Tensor | None  # of output features
    shift: torch.Tensor | None  # added after the scale: the change of the bias, and what the scale did to it
    a: torch.Tensor | None  # as the kind of module reads it
    b: torch.Tensor | None
    at: torch.Tensor | None  # which rows of the weight are set, and to what
    values: torch.Tensor | None

    @property
    def nbytes(self) -> int:
        """Memory that it takes."""
        held = (self.scale, self.shift, self.a, self.b, self.at, self.values)
        return sum(one.nbytes for one in held if one is not None)

    def put_on(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """The output for the input ``x``, from that of the base's weights, which is changed in place if it can be."""
        if self.scale is not None:
            y.mul_(self.of_features(self.scale))
        if self.shift is not None:
            y.add_(self.of_features(self.shift))
        if self.a is not None and self.b is not None:
            y = self.add_product(x, y, self.a, self.b)
        if self.at is not None and self.values is not None:
            y = self.set_rows(x, y, self.at, self.values)
        return y

    def of_features(self, vector: torch.Tensor) -> torch.Tensor:
        """A vector over output features, to be broadcast over the output."""
        return vector

    @abstractmethod
    def add_product(self, x: torch.Tensor, y: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        """``y`` and the product of low rank."""

    @abstractmethod
    def set_rows(self, x: torch.Tensor, y: torch.Tensor, at: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        """``y`` where some rows of the weight are set."""


@dataclass(frozen=True, eq=False)
class LinearSum(Sum):
    """Of ``nn.Linear`` and transformers' ``Conv1D``: a (rank, in), b (rank, out); set rows are output features."""

    at_bias: torch.Tensor | None = None  # the bias of the features that are set

    def add_product(self, x: torch.Tensor, y: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        inner = functional.linear(x, a)
        if inner.dtype is y.dtype and y.dtype is b.dtype and y.is_contiguous():
            y.view(-1, b.shape[1]).addmm_(inner.reshape(-1, b.shape[0]), b)  # rounds once, and makes no copy
            return y
        return y + functional.linear(inner, b.T)

    def set_rows(self, x: torch.Tensor, y: torch.Tensor, at: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        return y.index_copy(-1, at, functional.linear(x, values, self.at_bias).to(y.dtype))


@dataclass(frozen=True, eq=False)
class EmbeddingSum(Sum):
    """Of embeddings: a (vocabulary, rank), b (rank, features), at (vocabulary,) numbers rows of ``values``, -1 none."""

    times: torch.Tensor | float = 1.0  # what the module multiplies what it looks up with, in the dtype that it does it

    def add_product(self, x: torch.Tensor, y: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return y.add_(functional.embedding(x, a) @ b * self.times)

    def set_rows(self, x: torch.Tensor, y: torch.Tensor, at: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        found = at[x]
        new = functional.embedding(found.clamp(min=0), values) * self.times
        return torch.where((found >= 0).unsqueeze(-1), new.to(y.dtype), y)


@dataclass(frozen=True, eq=False)
class ConvSum(Sum):
    """Of convolutions without groups: a is the kernel (rank, in, ...), b (out, rank, 1, ...)."""

    stride: tuple[int, ...] = (1,)
    padding: tuple[int, ...] | str = (0,)
    dilation: tuple[int, ...] = (1,)

    def of_features(self, vector: torch.Tensor) -> torch.Tensor:
        return vector.view(-1, *[1] * (len(self.stride)))

    def add_product(self, x: torch.Tensor, y: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        convolve = (functional.conv1d, functional.conv2d, functional.conv3d)[len(self.stride) - 1]
        inner = convolve(x, a, None, self.stride, self.padding, self.dilation)
        return y.add_(convolve(inner, b))

    def set_rows(self, x: torch.Tensor, y: torch.Tensor, at: torch.Tensor, values: torch.Tensor) -> torch.Tensor:  # noqa: ARG002
        raise AssertionError("rows are set of embeddings, and of what is tied to them")


@dataclass(frozen=True)
class SumParts:
    """What a path does to a module that multiplies by its weight."""

    name: str
    owner: nn.Module
    form: Form
    live: torch.Tensor  # its weight in the model
    change: LowRank | None  # None: the path changes the bias alone
    before: torch.Tensor | None  # the base's bias, where the module has one
    bias: torch.Tensor | None  # the path's

    def made(self) -> Sum:
        """The effect.

        Raises:
            InvalidAdapterError: ``overflow``.
        """
        make, change = _MAKERS[self.form], self.change
        scale = None if change is None or change.scale is None else self._wide(change.scale)
        return make(self, {"scale": scale, "shift": self._shift(scale)})

    def product(self) -> tuple[torch.Tensor, torch.Tensor] | None:
        """A (rank, in_features) and B (out_features, rank), rounded; None where nothing is added."""
        if self.change is None or not self.change.a.shape[0]:
            return None
        return self.on(self.change.a), self.on(self.change.b)

    def on(self, values: torch.Tensor) -> torch.Tensor:
        """Some values rounded to the weight's dtype, on its device."""
        found = rounded(values, self.live.dtype)
        if found is None:
            raise InvalidAdapterError(
                f"What the path adds to {self.name!r} is too large for {str(self.live.dtype).removeprefix('torch.')}"
                f"{f': load the model in {held}' if (held := holding(values)) else ', and for every other dtype'}.",
                code="overflow",
            )
        return found.to(self.live.device).contiguous()

    def _wide(self, values: torch.Tensor) -> torch.Tensor:
        return values.to(self.live.device, torch.promote_types(self.live.dtype, torch.float32))

    def _shift(self, scale: torch.Tensor | None) -> torch.Tensor | None:
        if self.bias is None or self.before is None or (scale is None and self.bias is self.before):
            return None
        before, bias = self._wide(self.before), self._wide(self.bias)
        return bias - (before if scale is None else scale * before)


def _linear(parts: SumParts, common: dict[str, Any]) -> Sum:
    pair = parts.product()
    at = values = bias = None
    change = parts.change
    if change is not None and change.rows:
        at = torch.tensor(change.rows, device=parts.live.device)
        values = parts.on(change.values)
        bias = None if parts.bias is None else parts.bias.to(at.device)[at]
    a, b = (None, None) if pair is None else (pair[0], pair[1].T.contiguous())
    return LinearSum(**common, a=a, b=b, at=at, values=values, at_bias=bias)


def _embedding(parts: SumParts, common: dict[str, Any]) -> Sum:
    pair, change = parts.product(), parts.change
    at = values = None
    if change is not None and change.rows:
        at = torch.full((parts.live.shape[0],), -1, device=parts.live.device)
        at[torch.tensor(change.rows, device=at.device)] = torch.arange(len(change.rows), device=at.device)
        values = parts.on(change.values)
    a, b = (None, None) if pair is None else (pair[0].T.contiguous(), pair[1].T.contiguous())
    return EmbeddingSum(**common, a=a, b=b, at=at, values=values, times=embedding_scale(parts.owner, parts.live.dtype))


def embedding_scale(owner: nn.Module, dtype: torch.dtype) -> torch.Tensor | float:
    """What embeddings are multiplied with; where it is a tensor, transformers rounds it to the weight's dtype first."""
    found: Any = getattr(owner, "embed_scale", 1.0) if is_scaled(type(owner)) else 1.0
    return found.detach().to(dtype) if isinstance(found, torch.Tensor) else float(found)


def _convolution(parts: SumParts, common: dict[str, Any]) -> Sum:
    pair = parts.product()
    a = b = None
    if pair is not None:
        kernel = parts.live.shape[2:]
        a = pair[0].view(-1, *parts.live.shape[1:])
        b = pair[1].view(*pair[1].shape, *[1] * len(kernel))
    owner: Any = parts.owner
    geometry = {"stride": owner.stride, "padding": owner.padding, "dilation": owner.dilation}
    return ConvSum(**common, a=a, b=b, at=None, values=None, **geometry)


_MAKERS: Final[Mapping[Form, Callable[[SumParts, dict[str, Any]], Sum]]] = {
    Form.LINEAR: _linear,
    Form.EMBEDDING: _embedding,
    Form.CONV: _convolution,
}
