"""Arithmetic of different machines: the probe that names this one's, and whether two renderings agree.

The probe sends fixed numbers through the very kernels that artifacts use. Of two renderings of a tensor each is within
0.5 ulp of the output and 2^-20 (|w| + sum |s b a|) of the exact value. The sum of magnitudes is not known from the
tensor alone; the largest magnitude of the tensor stands for it, which is generous for small elements and far below any
change of weights.
"""

from __future__ import annotations

import hashlib
from typing import Final

import torch

from registry.tensors.arithmetic.dtypes import FLOATS
from registry.tensors.arithmetic.kernel import add_product, rounded
from registry.tensors.path.slot_values import column_squares, row_norms
from registry.tensors.truncation.truncate import decompose


def _numbers(rows: int, columns: int, salt: int, dtype: torch.dtype) -> torch.Tensor:
    """A fixed matrix of irregular values between -1 and 1, made by integer arithmetic alone."""
    index = torch.arange(rows * columns, dtype=torch.int64) + salt
    mixed = ((index * 2654435761 + 12345) ^ ((index * 40503) << 7)) & 0xFFFFFF
    return (mixed.to(torch.float64) / 2**23 - 1).to(dtype).reshape(rows, columns)


def digest_of_arithmetic() -> str:
    """16 hex digits of its results; run it on a lane of one thread."""
    digest = hashlib.sha256()
    for dtype in (torch.float32, torch.float64):
        for rows, columns, rank in ((16, 384, 16), (64, 1000, 200), (256, 640, 24), (16, 33, 5)):
            sums = _numbers(rows, columns, 1, dtype)
            add_product(sums, _numbers(rows, rank, 2, dtype), _numbers(rank, columns, 3, dtype))
            for out_dtype in (dtype, torch.float16, torch.bfloat16):
                values = rounded(sums, out_dtype)
                if values is None:
                    raise AssertionError("the probe's values fit every dtype")
                digest.update(_bytes(values))
        b, a = _numbers(200, 12, 4, dtype), _numbers(12, 150, 5, dtype)
        digest.update(_bytes(row_norms(b)) + _bytes(column_squares(b)))
        kept = decompose(b, a).keep(7)
        digest.update(_bytes(kept.to_a) + _bytes(kept.to_b))
    return digest.hexdigest()[:16]


def _bytes(values: torch.Tensor) -> bytes:
    return values.contiguous().view(torch.uint8).numpy().tobytes()


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
