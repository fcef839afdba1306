"""The fixed probe behind the numerics fingerprint: products and sums through the very kernels that artifacts use."""

from __future__ import annotations

import hashlib

import torch

from registry.tensors.arithmetic.blocks import add_product, rounded
from registry.tensors.path.slot_values import column_squares, row_norms
from registry.tensors.truncation.truncate import decompose


def _numbers(rows: int, columns: int, salt: int, dtype: torch.dtype) -> torch.Tensor:
    """A fixed matrix of irregular values between -1 and 1, made by integer arithmetic alone."""
    index = torch.arange(rows * columns, dtype=torch.int64) + salt
    mixed = ((index * 2654435761 + 12345) ^ ((index * 40503) << 7)) & 0xFFFFFF
    return (mixed.to(torch.float64) / 2**23 - 1).to(dtype).reshape(rows, columns)


def probe() -> str:
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
