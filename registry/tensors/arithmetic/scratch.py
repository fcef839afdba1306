"""Tensors in memory that is used again once nobody holds any of it: `registry.files.buffers`."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from registry.files.buffers import used_again


def scratch(shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
    """A tensor of arbitrary values, aligned as torch aligns its own: products may depend on that."""
    found = used_again(math.prod(shape) * dtype.itemsize)
    if found is None:
        return torch.empty(tuple(shape), dtype=dtype)
    return torch.frombuffer(found, dtype=dtype).view(tuple(shape))
