"""Whether two renderings of a tensor, made by different arithmetic, say the same.

Each is within 0.5 ulp of the output and 2^-20 (|w| + sum |s b a|) of the exact value. The sum of magnitudes is not
known from the tensor alone; the largest magnitude of the tensor stands for it, which is generous for small elements
and far below any change of weights.
"""

from __future__ import annotations

from typing import Final

import torch

from registry.tensors.elements.dtypes import FLOATS

_SUM_ERROR: Final = 2.0**-18


class TensorComparison:
    """Fed with the bytes of both tensors, chunk by chunk."""

    def __init__(self, dtype: str) -> None:
        self._dtype = FLOATS.get(dtype)
        self._equal = True
        self._difference = 0.0
        self._magnitude = 0.0

    def add(self, ours: memoryview, theirs: bytearray) -> None:
        """Compare the same range of both."""
        if ours == theirs:
            if self._dtype is not None:
                self._magnitude = max(self._magnitude, self._largest(bytearray(ours)))
            return
        self._equal = False
        if self._dtype is None:
            return
        mine, other = self._values(bytearray(ours)), self._values(theirs)
        self._magnitude = max(self._magnitude, mine.abs().max().item())
        unit = torch.maximum(mine.abs(), other.abs()) * torch.finfo(self._dtype).eps
        excess = ((mine - other).abs() - unit).max().item()
        self._difference = max(self._difference, excess if excess == excess else float("inf"))  # noqa: PLR0124 - NaN

    def _values(self, data: bytearray) -> torch.Tensor:
        if self._dtype is None:
            raise AssertionError("only floats have values to compare")
        return torch.frombuffer(data, dtype=self._dtype).to(torch.float64)

    def _largest(self, data: bytearray) -> float:
        return self._values(data).abs().max().item() if data else 0.0

    @property
    def close(self) -> bool:
        """Whether everything so far agrees."""
        if self._equal:
            return True
        return self._dtype is not None and self._difference <= _SUM_ERROR * self._magnitude
