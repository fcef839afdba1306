"""One pass over what a quantised base model means: digests of its plain tensors, energies of their rows, and no NaN."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch

from registry.digest import PREFIX
from registry.errors import InvalidBaseError
from registry.files.header import TensorEntry
from registry.files.strict_json import shown
from registry.tensors.arithmetic.lanes import in_order
from registry.tensors.elements.dtypes import FLOATS
from registry.tensors.elements.energies import RowEnergies
from registry.tensors.quantised.decoding import DecodedTensor

_ELEMENTS: Final = 1 << 20


@dataclass(frozen=True)
class Passed:
    """What the values of a decoded tensor are, all of them read."""

    digest: str  # of its bytes in the plain dtype
    energies: RowEnergies  # of the exact values


@dataclass(frozen=True)
class _Block:
    first: int
    data: memoryview  # the bytes of the plain dtype
    energies: torch.Tensor  # of the rows that the block touches, in float64


def pass_by(tensor: DecodedTensor, entry: TensorEntry, advance: Callable[[int], None]) -> Passed:
    """Decode a whole tensor, by blocks on several threads.

    Args:
        tensor: how it is made.
        entry: the plain tensor.
        advance: gets the bytes of the plain dtype that were made.

    Raises:
        InvalidBaseError: ``non_finite``, naming the element; ``quantised_base``, a value is too large for the dtype.
    """
    columns = math.prod(entry.shape[1:])
    rows = np.zeros(entry.shape[0] if entry.shape else 1)
    hashed = hashlib.sha256()
    for block in in_order(lambda part: _block(tensor, entry, *part), _parts(entry.elements, columns)):
        at = block.first // columns if columns else 0
        rows[at : at + len(block.energies)] += block.energies.numpy()
        hashed.update(block.data)
        advance(len(block.data))
    return Passed(PREFIX + hashed.hexdigest(), RowEnergies(columns, rows))


def _parts(elements: int, columns: int) -> Iterator[tuple[int, int]]:
    """Whole rows, as many as fit, or parts of a long one; energies do not depend on who reads what."""
    if columns and columns <= _ELEMENTS:
        step = _ELEMENTS // columns * columns
        yield from ((first, min(first + step, elements)) for first in range(0, elements, step))
        return
    for row in range(0, elements, columns or 1):
        yield from ((first, min(first + _ELEMENTS, row + columns)) for first in range(row, row + columns, _ELEMENTS))


def _block(tensor: DecodedTensor, entry: TensorEntry, first: int, last: int) -> _Block:
    values = tensor.values(first, last)
    finite = values.isfinite()
    if not bool(finite.all()):
        raise _not_finite(entry, first + int(torch.nonzero(~finite)[0, 0]))
    dtype = FLOATS[entry.dtype]
    out = tensor.rounded(first, last, dtype)
    if not bool(out.isfinite().all()):
        raise InvalidBaseError(
            f"Tensor {shown(entry.name)} has quantised values too large for {str(dtype).removeprefix('torch.')}, the "
            "dtype that config.json gives its weights, and values that fit are expected. Add the model that it was "
            "made from.",
            code="quantised_base",
        )
    columns = max(1, math.prod(entry.shape[1:]))
    width = min(columns, last - first)
    energies = values.to(torch.float64).square().view(-1, width).sum(dim=1)
    return _Block(first, out.view(torch.uint8).numpy().data, energies)


def _not_finite(entry: TensorEntry, element: int) -> InvalidBaseError:
    index = [int(one) for one in np.unravel_index(element, entry.shape)] if entry.shape else []
    return InvalidBaseError(
        f"The quantised tensor {shown(entry.name)} is not finite at {index}: its code or its scale there is NaN or "
        "infinity. Add an intact copy of the model.",
        code="non_finite",
    )
