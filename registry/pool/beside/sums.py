"""From a change of low rank to the tensors that one kind of module adds with, on its device and in its dtype."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import nn

from registry.errors import InvalidAdapterError
from registry.pool.beside.effects import ConvSum, EmbeddingSum, LinearSum, Sum
from registry.pool.beside.forms import Form, is_scaled
from registry.tensors.arithmetic.kernel import holding, rounded
from registry.tensors.path.low_rank import LowRank


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
