"""A sketch of a delta: 256 numbers whose inner products are, about, those of the deltas.

Rows and columns of each matrix are hashed to 16 buckets with a sign each (Charikar, Chen, Farach-Colton 2002; of both
sides Pham and Pagh 2013), and the small matrices of all modules are added up: S = sum of P_m B_m A_m Q_m. As signs are
independent, the mean of <S, S'> is <D, D'>. The hashes are of names alone, so that sketches of all adapters of a base,
made at any time, can be compared. They only choose what is compared exactly.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from typing import Final

import numpy as np
import torch

from registry.tensors.analysis.matrices import ChangedMatrix, changed_matrices
from registry.tensors.arithmetic.blocks import block_rows
from registry.tensors.arithmetic.lanes import in_order
from registry.tensors.path.programs import BoundLink, path_programs
from registry.tensors.table.targets import TargetTable

BUCKETS: Final = 16


def sketch(links: Sequence[BoundLink], table: TargetTable) -> bytes:
    """The sketch of what the last link of a path adds, as 256 float32: of norm 1, or zeros where it adds nothing.

    Raises:
        InvalidAdapterError: what `registry.tensors.path.programs.path_programs` raises.
    """
    last = len(links) - 1
    changed = changed_matrices(links, path_programs(links, table), table, last)
    summed = [one for one in changed.by_pairs if not one.adds_after_scaling(last)]
    total = torch.zeros(BUCKETS, BUCKETS, dtype=torch.float64)
    for one in in_order(lambda matrix: _sketched(matrix, last), summed):
        total += one
    norm = torch.linalg.matrix_norm(total)
    direction = total / norm if 0 < norm < math.inf else torch.zeros_like(total)
    return direction.to(torch.float32).numpy().astype("<f4").tobytes()


def likeness(one: bytes, others: Sequence[bytes]) -> list[float]:
    """About the cosines of the deltas, from their sketches."""
    if not others:
        return []
    stacked = np.frombuffer(b"".join(others), "<f4").reshape(len(others), -1).astype(np.float64)
    found: list[float] = (stacked @ np.frombuffer(one, "<f4").astype(np.float64)).tolist()
    return found


def _sketched(matrix: ChangedMatrix, since: int) -> torch.Tensor:
    """Call it on a lane."""
    pairs = matrix.pairs(since)
    name = f"{matrix.module}\0{-1 if matrix.expert is None else matrix.expert}"
    a = pairs.a(torch.float32) @ _hashes(f"{name}\0in", pairs.in_features).T
    rows = _hashes(f"{name}\0out", pairs.out_features)
    b = torch.zeros(BUCKETS, pairs.rank)
    step = block_rows(pairs.out_features, pairs.rank)
    for start in range(0, pairs.out_features, step):
        stop = min(start + step, pairs.out_features)
        b += rows[:, start:stop] @ pairs.b_rows(start, stop, torch.float32)
    return b.to(torch.float64) @ a.to(torch.float64)


def _hashes(name: str, count: int) -> torch.Tensor:
    """The matrix (16, count) that adds each row or column to its bucket, with its sign."""
    bits = torch.frombuffer(bytearray(hashlib.shake_256(name.encode()).digest(count)), dtype=torch.uint8)
    found = torch.zeros(BUCKETS, count)
    found[(bits & (BUCKETS - 1)).to(torch.int64), torch.arange(count)] = 1.0 - 2.0 * ((bits >> 4) & 1)
    return found
