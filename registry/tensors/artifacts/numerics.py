"""The numerics fingerprint: which arithmetic this machine has.

The same product can round differently on another make of CPU or another build of torch. A small fixed probe goes
through the very kernels that artifacts use; its digest is part of every rendering, so that bytes made by different
arithmetic never pass for each other.
"""

from __future__ import annotations

import hashlib
from functools import cache

import torch

from registry.tensors.arithmetic.blocks import add_product, rounded
from registry.tensors.arithmetic.lanes import run_alone
from registry.tensors.path.slot_values import column_squares, row_norms
from registry.tensors.truncation.truncate import decompose


def _numbers(rows: int, columns: int, salt: int, dtype: torch.dtype) -> torch.Tensor:
    """A fixed matrix of irregular values between -1 and 1, made by integer arithmetic alone."""
    index = torch.arange(rows * columns, dtype=torch.int64) + salt
    mixed = ((index * 2654435761 + 12345) ^ ((index * 40503) << 7)) & 0xFFFFFF
    return (mixed.to(torch.float64) / 2**23 - 1).to(dtype).reshape(rows, columns)


def _probe() -> str:
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


@cache
def fingerprint() -> str:
    """16 hex digits that name this machine's arithmetic."""
    return run_alone(_probe)
