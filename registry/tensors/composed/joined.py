"""Factors of several modules as those of one that a file keeps in one piece: joined by rows, halves in its order.

ComfyUI's FLUX has one ``qkv`` where diffusers has three modules. Their pairs become one, A above A and B block by block
down a diagonal: exact, of the sum of their ranks. Where all have the very same A, which is so of a path whose files
had the joined module themselves, A is written once and the ranks do not add up. Rows of a module that the path does
not change are zeros.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from registry.images.outgoing import Joined
from registry.tensors.arithmetic.kernel import block_rows
from registry.tensors.composed.spelling import AdapterTensor, Rows


@dataclass(frozen=True)
class Factors:
    """The pair of one module: A (rank, in...), B (out, rank, 1...), and what shows that another's A is the same."""

    a: AdapterTensor
    b: AdapterTensor
    made_of: tuple[object, ...] | None = None  # equal: A is the same, number for number; None: it is not known

    @property
    def rank(self) -> int:
        """Rows of A."""
        return self.a.shape[0]


def any_rows(tensor: AdapterTensor, start: int, stop: int) -> torch.Tensor:
    """Any rows of a tensor, cut out of whole blocks of its grid."""
    rows, columns = tensor.matrix
    step = block_rows(rows, columns)
    first = start // step
    blocks = [tensor.rows(at * step, min((at + 1) * step, rows)) for at in range(first, -(-stop // step))]
    found = blocks[0] if len(blocks) == 1 else torch.cat(blocks)
    return found[start - first * step : stop - first * step]


def joined_pair(
    one: Joined, ends: tuple[str, str], parts: Mapping[str, Factors], heights: Mapping[str, int]
) -> tuple[AdapterTensor, AdapterTensor]:
    """The pair of a module of a file.

    Args:
        one: which of the base model's modules it is.
        ends: of the names of A and B.
        parts: the pairs of those that change.
        heights: rows of the weights of all of them.
    """
    changed = [parts[module] for module in one.modules if module in parts]
    first = changed[0]
    shared = first.made_of is not None and all(part.made_of == first.made_of for part in changed)
    above = [first] if shared else changed
    rank = sum(part.rank for part in above)
    a = _stacked(f"{one.name}.{ends[0]}", [part.a for part in above])
    columns, pieces = 0, []
    for module in one.modules:
        part = parts.get(module)
        pieces.append(_padded(None if part is None else part.b, columns, rank))
        columns += part.rank if part is not None and not shared else 0
    shape = (sum(heights[module] for module in one.modules), rank, *first.b.shape[2:])
    rows = piled([heights[module] for module in one.modules], pieces)
    return a, AdapterTensor(f"{one.name}.{ends[1]}", shape, in_file_order(rows, shape[0], swapped=one.swapped))


def _stacked(name: str, tensors: Sequence[AdapterTensor]) -> AdapterTensor:
    shape = (sum(tensor.shape[0] for tensor in tensors), *tensors[0].shape[1:])
    pieces: list[Rows] = [_of(tensor) for tensor in tensors]
    return AdapterTensor(name, shape, piled([tensor.shape[0] for tensor in tensors], pieces))


def _of(tensor: AdapterTensor) -> Rows:
    return lambda start, stop: any_rows(tensor, start, stop)


def _padded(b: AdapterTensor | None, before: int, rank: int) -> Rows:
    """Rows of B among the columns of the others; None: zeros."""

    def rows(start: int, stop: int) -> torch.Tensor:
        if b is None:
            return torch.zeros(stop - start, rank, dtype=torch.float64)
        found = any_rows(b, start, stop)
        return torch.nn.functional.pad(found, (before, rank - before - found.shape[1]))

    return rows


def piled(heights: Sequence[int], pieces: Sequence[Rows]) -> Rows:
    """The rows of matrices one below the other."""

    def rows(start: int, stop: int) -> torch.Tensor:
        found, at = [], 0
        for height, piece in zip(heights, pieces, strict=True):
            first, last = max(start, at), min(stop, at + height)
            if first < last:
                found.append(piece(first - at, last - at))
            at += height
        return found[0] if len(found) == 1 else torch.cat(found)

    return rows


def in_file_order(rows: Rows, count: int, *, swapped: bool) -> Rows:
    """The rows in the order of the file: of ``swapped`` the second half comes first."""
    if not swapped:
        return rows
    half = count // 2

    def turned(start: int, stop: int) -> torch.Tensor:
        parts = []
        if start < half:
            parts.append(rows(start + half, min(stop, half) + half))
        if stop > half:
            parts.append(rows(max(start, half) - half, stop - half))
        return torch.cat(parts)

    return turned
