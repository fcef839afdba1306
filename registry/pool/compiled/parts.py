"""What a path does to a module, in the one form that slots have: a scale, a shift and a product of low rank.

Rows of a weight that are set, and whole weights of few labels, have it as well: the base's output is scaled by zero
there, and the new rows are the factors of a product with ones.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from registry.pool.beside.effects import Effect, EmbeddingSum, LinearSum, Whole


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
