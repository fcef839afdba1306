"""The right answer for one tensor of a merged model, and how far from it an output may be."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

from tests.kit.floats import Array, round_once, spacing
from tests.kit.tensor_files import RawTensor

SUM_ERROR: Final = 2.0**-20
"""Allowed error of the sum, relative to |w| + sum |s b a| (design point 6)."""


@dataclass(frozen=True)
class MergedTensor:
    """One tensor of the merged model."""

    base: RawTensor  # of a tensor that the base lacks: one of its form
    values: Array  # float64
    magnitude: Array  # |w| + sum |s b a| of each element; DoRA scales it along
    touched: bool  # whether a link changes it

    def bound(self, dtype: str | None = None) -> Array:
        """Largest allowed error of each element of an output in ``dtype`` (None: that of the base).

        Half a unit in the last place of the rounded sum, and the error of the sum itself.
        """
        slack = SUM_ERROR * self.magnitude
        return 0.5 * spacing(np.abs(self.values) + slack, dtype or self.base.dtype) + slack

    def rounded(self, dtype: str | None = None) -> Array:
        """The values rounded once."""
        return round_once(self.values, dtype or self.base.dtype)


def used_bound(merged: Mapping[str, MergedTensor], out: Mapping[str, RawTensor], dtype: str | None = None) -> float:
    """The largest error of a merged output as a share of its bound: right when at most 1.

    Infinite where a value is not finite, or a tensor has another shape or dtype than it should.
    """
    worst = 0.0
    for name, tensor in merged.items():
        found = out[name]
        if found.shape != tensor.base.shape or found.dtype != (dtype or tensor.base.dtype):
            return math.inf
        values = found.values
        if not np.isfinite(values).all():
            return math.inf
        error = np.abs(values - tensor.values)
        if error.size:
            worst = max(worst, float(np.max(np.where(error == 0, 0.0, error / tensor.bound(dtype)))))
    return worst
