"""Which elements of a base model's tensors stand for it: the same for whoever looks, without reading anything.

Of every float tensor two runs, at places that are hashed from its name and its shape. They only strike candidates out
(`.narrowing`); what is proven is proven by whole tensors (`.compare`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import numpy as np
import torch

from registry.files.header import TensorEntry
from registry.files.source import ByteSource
from registry.tensors.elements.dtypes import FLOATS

Array = np.ndarray[Any, Any]
_MOST: Final = 64  # elements of one tensor
_LEAST: Final = 4
_ALL: Final = 1 << 14  # elements of a model, where its tensors are not so many that the least of each are more


@dataclass(frozen=True)
class Spot:
    """The elements of one tensor: runs of ``length``, which begin at ``starts`` (counted in the flat tensor)."""

    tensor: str
    starts: tuple[int, ...]
    length: int
    of: int  # elements of the whole tensor

    @property
    def elements(self) -> int:
        """How many numbers it has."""
        return len(self.starts) * self.length

    @property
    def offsets(self) -> list[int]:
        """Where each of its elements is in the flat tensor."""
        return [start + at for start in self.starts for at in range(self.length)]


@dataclass(frozen=True)
class Spots:
    """The elements of a base model that stand for it, one vector of ``elements`` numbers, tensor by tensor."""

    spots: tuple[Spot, ...]

    @cached_property
    def slices(self) -> dict[str, slice]:
        """Where the elements of each tensor are in the vector."""
        found, at = {}, 0
        for spot in self.spots:
            found[spot.tensor] = slice(at, at + spot.elements)
            at += spot.elements
        return found

    @cached_property
    def elements(self) -> int:
        """How many numbers there are."""
        return sum(spot.elements for spot in self.spots)

    @cached_property
    def owners(self) -> torch.Tensor:
        """The number of the spot that each element belongs to."""
        counts = torch.tensor([spot.elements for spot in self.spots], dtype=torch.int64)
        return torch.repeat_interleave(torch.arange(len(self.spots)), counts)

    @cached_property
    def stands_for(self) -> torch.Tensor:
        """How many elements of its tensor each one stands for."""
        counts = torch.tensor([spot.of / spot.elements for spot in self.spots], dtype=torch.float32)
        return counts[self.owners]

    @cached_property
    def _starts(self) -> Array:
        return np.cumsum([0, *(spot.elements for spot in self.spots)])[:-1]

    def summed(self, values: torch.Tensor) -> torch.Tensor:
        """The sum over the elements of each spot, of rows of values."""
        sums: Array = np.add.reduceat(values.numpy(), self._starts, axis=1)
        return torch.from_numpy(sums)

    @cached_property
    def _of_some(self) -> dict[bytes, torch.Tensor]:
        return {}

    def elements_of(self, numbers: bytes) -> torch.Tensor:
        """Where the elements of some spots are, given by their numbers (uint32, least byte first), rising."""
        if numbers not in self._of_some:
            changed = torch.zeros(len(self.spots), dtype=torch.bool)
            changed[torch.from_numpy(np.frombuffer(numbers, "<u4").astype(np.int64))] = True
            self._of_some[numbers] = changed[self.owners].nonzero().flatten()
        return self._of_some[numbers]

    @cached_property
    def digest(self) -> bytes:
        """Eight bytes that say which elements these are."""
        text = "\n".join(f"{spot.tensor} {spot.starts} {spot.length}" for spot in self.spots)
        return hashlib.sha256(text.encode()).digest()[:8]

    @cached_property
    def replaced_digest(self) -> bytes:
        """The same, of what replaces the base's own elements: versions that only know what adds leave that alone."""
        return hashlib.sha256(b"replaced " + self.digest).digest()[:8]


def spots_of(entries: Mapping[str, TensorEntry]) -> Spots:
    """The elements that stand for a base model, by the headers of its files."""
    held = {name: entry for name, entry in sorted(entries.items()) if entry.dtype in FLOATS and entry.elements}
    each = max(_LEAST, min(_MOST, _ALL // max(1, len(held))))
    return Spots(tuple(_spot(entry, each) for entry in held.values()))


def _spot(entry: TensorEntry, elements: int) -> Spot:
    if entry.elements <= elements:
        return Spot(entry.name, (0,), entry.elements, entry.elements)
    length, half = elements // 2, entry.elements // 2
    drawn = hashlib.sha256(f"{entry.name} {list(entry.shape)}".encode()).digest()
    first, second = (int.from_bytes(drawn[at : at + 8], "big") for at in (0, 8))
    starts = first % (half - length + 1), half + second % (entry.elements - half - length + 1)
    return Spot(entry.name, starts, length, entry.elements)


@dataclass(frozen=True)
class Sampled:
    """What some weights have there."""

    values: torch.Tensor  # float64, a vector as `Spots` says; NaN where the tensor is not there
    dtypes: Sequence[torch.dtype | None]  # that each tensor is kept in; None: it is not there


def sampled(spots: Spots, tensors: Mapping[str, tuple[ByteSource, TensorEntry]]) -> Sampled:
    """Read some weights, given by the names of the base's files, where these stand for the base.

    A tensor may have grown by rows at its end: the base's elements are where they were.
    """
    values = torch.full((spots.elements,), torch.nan, dtype=torch.float64)
    dtypes: list[torch.dtype | None] = []
    for spot in spots.spots:
        if spot.tensor not in tensors or tensors[spot.tensor][1].dtype not in FLOATS:
            dtypes.append(None)
            continue
        source, entry = tensors[spot.tensor]
        dtype = FLOATS[entry.dtype]
        found = torch.empty(spot.elements, dtype=dtype)
        room = found.view(torch.uint8).numpy().data
        for number, start in enumerate(spot.starts):
            size = spot.length * dtype.itemsize
            source.read_into(entry.start + start * dtype.itemsize, room[number * size : (number + 1) * size])
        values[spots.slices[spot.tensor]] = found.to(torch.float64)
        dtypes.append(dtype)
    return Sampled(values, dtypes)
