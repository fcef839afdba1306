"""Factors of fused experts (PEFT's ``ParamWrapper``), per expert.

A is (rank * experts, in), expert-major; B is (out, rank * experts), rank-major with the expert fastest. Wrappers are
nested in the order of registration, not in that of ``target_parameters``: the first registered is innermost and has
the most ``.base_layer`` in its keys.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tests.kit.floats import Array


def split_a(a: Array, experts: int) -> list[Array]:
    """(rank * experts, in) -> one (rank, in) an expert."""
    rank = a.shape[0] // experts
    return [a[expert * rank : (expert + 1) * rank] for expert in range(experts)]


def split_b(b: Array, experts: int) -> list[Array]:
    """(out, rank * experts) -> one (out, rank) an expert."""
    return [b[:, expert::experts] for expert in range(experts)]


def join_a(parts: Sequence[Array]) -> Array:
    """The inverse of `split_a`."""
    return np.concatenate(parts, axis=0)


def join_b(parts: Sequence[Array]) -> Array:
    """The inverse of `split_b`."""
    out_features, rank = parts[0].shape
    return np.stack(parts, axis=2).reshape(out_features, rank * len(parts))


def nested_names(registered: Sequence[str], targeted: Sequence[str]) -> dict[int, str]:
    """Count of ``.base_layer`` in the keys -> parameter, of the targeted ones."""
    ordered = [name for name in registered if name in targeted]
    return {len(ordered) - 1 - position: name for position, name in enumerate(ordered)}
