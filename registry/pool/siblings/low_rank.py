"""The low-rank products of all siblings of one module, forward and backward, in the order of PEFT's sums.

One node of the graph in place of a dozen a sibling: at a few tokens a sibling, passes over whole outputs cost as much
as the products. Values are those of ``out + lora_B(lora_A(x)) * scaling`` in PEFT 0.21, in bits if shapes are alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional


@dataclass(frozen=True)
class Part:
    """The rows of one sibling in a batch that is in their order."""

    start: int
    stop: int
    scaling: float


class _AddLowRank(torch.autograd.Function):
    """``out[rows] + s B A x[rows]`` for the rows of each part, in the dtype of ``out``."""

    @staticmethod
    def forward(
        context: Any, x: torch.Tensor, out: torch.Tensor, parts: Sequence[Part], *factors: torch.Tensor
    ) -> torch.Tensor:
        total, inner = out.clone(), []
        for part, a, b in _zipped(parts, factors):  # a part's values stay in the cache from one line to the next
            rows = slice(part.start, part.stop)
            inner.append(functional.linear(x[rows].to(a.dtype), a))
            total[rows] = functional.linear(inner[-1], b).mul_(part.scaling).add_(out[rows].to(a.dtype))
        context.save_for_backward(x, *inner, *factors)
        context.parts = parts
        return total

    @staticmethod
    def backward(context: Any, *gradients: torch.Tensor) -> Any:
        (gradient,), parts = gradients, context.parts
        x, *rest = context.saved_tensors
        inner, factors = rest[: len(parts)], rest[len(parts) :]
        of_x = torch.zeros_like(x) if context.needs_input_grad[0] else None
        of_factors = []
        for (part, a, b), low in zip(_zipped(parts, factors), inner, strict=True):
            rows = slice(part.start, part.stop)
            scaled = gradient[rows].to(b.dtype, copy=True).mul_(part.scaling)
            of_low = scaled @ b
            of_a = of_low.flatten(0, -2).T @ x[rows].to(a.dtype).flatten(0, -2)
            of_factors += [of_a, scaled.flatten(0, -2).T @ low.flatten(0, -2)]
            if of_x is not None:
                of_x[rows] = of_low @ a
        return (of_x, gradient, None, *of_factors)


def _zipped(parts: Sequence[Part], factors: Sequence[torch.Tensor]) -> list[tuple[Part, torch.Tensor, torch.Tensor]]:
    return list(zip(parts, factors[::2], factors[1::2], strict=True))


def add_low_rank(
    x: torch.Tensor, out: torch.Tensor, parts: Sequence[Part], factors: Sequence[tuple[torch.Tensor, torch.Tensor]]
) -> torch.Tensor:
    """A linear module's output with the products of some siblings added to their rows.

    Args:
        x: the module's input (rows, ..., in), in the order of the parts.
        out: its output (rows, ..., out), in the same order; other rows stay as they are.
        parts: which rows are of which sibling.
        factors: A (rank, in) and B (out, rank) of each part.
    """
    found: torch.Tensor = _AddLowRank.apply(x, out, parts, *(one for pair in factors for one in pair))  # type: ignore[no-untyped-call]
    return found
