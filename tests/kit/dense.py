"""What adapters changed, as dense matrices in float64: the slow way that figures from factors are judged by."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np

from tests.kit.bases import Base
from tests.kit.floats import Array
from tests.kit.states import State


def deltas(base: Base, before: Sequence[Path], after: Sequence[Path]) -> dict[str, list[Array]]:
    """What some adapters changed, by parameter: a matrix, of experts one each; tied sides once."""
    old, new = (base.simulate(path).state for path in (before, after))
    return changes(old, new, new.tied)


def changes(old: State, new: State, once: Collection[str]) -> dict[str, list[Array]]:
    """From one state to another, without the parameters ``once``, which are the other sides of ties."""
    found: dict[str, list[Array]] = {}
    for name, view in new.views.items():
        change = view.values - old.views[name].values
        if name in once or not np.any(change):
            continue
        is_experts = name.rpartition(".")[0] in new.layout.experts and change.ndim == 3
        matrices = list(change) if is_experts else [change]
        found[name] = [matrix.reshape(matrix.shape[0], -1) for matrix in matrices]
    return found
