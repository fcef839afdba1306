"""A look at the values of a tensor: figures and first values, from a bounded range of a file that may not exist yet."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from registry.files.header import SIZES, TensorEntry
from registry.http.artifacts import ArtifactHandle
from registry.http.dependencies import Service
from registry.tensors.artifacts.pieces import SharedPieces
from registry.tensors.elements.summary import Summary, Values, summarised, values_of

MOST_READ: Final = 4 << 20
"""Bytes of values that one look reads at most."""
_GRID: Final = 8  # rows and columns of first values


@dataclass(frozen=True)
class Look:
    """What is seen of a tensor.

    Args:
        sampled: of how many of its elements the figures are: the first ones.
        stop: where in the file the last of these ends.
        is_computed: whether the bytes were computed, and are not stored.
        summary: figures; None of complex values.
        rows: the first values, each row with its index; a vector is written in lines.
    """

    sampled: int
    stop: int
    is_computed: bool
    summary: Summary | None
    rows: tuple[tuple[str, list[str]], ...]


def look_at(service: Service, handle: ArtifactHandle, path: str, entry: TensorEntry) -> Look:
    """Look at a tensor of a file of an open artifact.

    Raises:
        UnavailableError: ``busy``, too many look at tensors now.
    """
    sampled = min(entry.elements, MOST_READ // SIZES[entry.dtype])
    stop = entry.start + sampled * SIZES[entry.dtype]
    shared = SharedPieces(service.memory, handle.artifact.rendering, path)
    with service.looks.slot():
        values = values_of(entry.dtype, b"".join(handle.chunks(path, entry.start, stop, shared=shared)))
        summary = summarised(values)
    is_computed = handle.artifact.file(path).is_costly(entry.start, stop)
    return Look(sampled, stop, is_computed, summary, tuple(_rows(values, entry.shape)))


def _rows(values: Values, shape: tuple[int, ...]) -> Iterator[tuple[str, list[str]]]:
    is_vector = len(shape) < 2
    outer, width = ((-(-len(values) // _GRID),), _GRID) if is_vector else (shape[:-1], shape[-1])
    for row in range(min(_GRID, math.prod(outer))):
        some = values[row * width : row * width + min(width, _GRID)]
        if len(some):
            index = str(row * width) if is_vector else ", ".join(str(at) for at in np.unravel_index(row, outer))
            yield index, [_told(value) for value in some.tolist()]


def _told(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
