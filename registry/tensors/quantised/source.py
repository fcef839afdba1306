"""The plain files of a quantised base model: no byte of them is stored, a range is decoded when it is read.

To what reads weights they are files like any other: bytes in the plain dtype, rounded once. What computes requests the
exact values instead, by `decoded_in`, so that nothing is rounded before a path is added.

One pass over them gives the digests of the plain tensors and the energies of their rows, and finds NaN.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch

from registry.digest import PREFIX
from registry.errors import IntegrityError, InvalidBaseError
from registry.files.header import Header, ModelWeights, TensorEntry, Tensors
from registry.files.source import ByteSource, BytesSource, JoinedSource
from registry.files.strict_json import shown
from registry.quantised.listing import MixedFile, PlainListing
from registry.tensors.arithmetic.dtypes import FLOATS
from registry.tensors.arithmetic.streamed import RowEnergies
from registry.tensors.arithmetic.threads import in_order
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


_STEP: Final = 1 << 20
"""Elements that are decoded at a time."""


class PlainFile(JoinedSource):
    """A plain file; `decoded` has the tensors in it that are decoded, by name."""

    def __init__(self, what: str) -> None:
        super().__init__(what)
        self.decoded: dict[str, DecodedTensor] = {}


def decoded_in(source: ByteSource, tensor: str) -> DecodedTensor | None:
    """The exact values of a tensor of a file; None where its bytes are its values."""
    decoded: Mapping[str, DecodedTensor] = getattr(source, "decoded", {})
    return decoded.get(tensor)


class RoundedFile(JoinedSource):
    """A plain file whose bytes are its values, for what compares weights with those of a folder as it is written."""

    def __init__(self, file: PlainFile, what: str) -> None:
        super().__init__(what)
        self.add(file, 0, file.size)


def is_decoded(source: ByteSource) -> bool:
    """Whether a file is a plain one of a quantised model."""
    return isinstance(source, PlainFile | RoundedFile)


def rounded_tensors(weights: ModelWeights) -> dict[str, tuple[ByteSource, TensorEntry]]:
    """The tensors of `plain_weights` as bytes in the plain dtype, and nothing more exact."""
    files: dict[int, ByteSource] = {}
    found: dict[str, tuple[ByteSource, TensorEntry]] = {}
    for name, (source, entry) in weights.tensors.items():
        rounded = RoundedFile(source, name) if isinstance(source, PlainFile) else source
        found[name] = files.setdefault(id(source), rounded), entry
    return found


class RoundedBytes:
    """The bytes of a decoded tensor in a dtype, each value rounded once."""

    def __init__(self, tensor: DecodedTensor, entry: TensorEntry) -> None:
        self._tensor = tensor
        self._dtype = FLOATS[entry.dtype]
        self._name = entry.name
        self.size = entry.stop - entry.start

    def read_into(self, offset: int, buffer: memoryview) -> None:
        stop = offset + len(buffer)
        if offset < 0 or stop > self.size:
            raise IntegrityError(f"Bytes {offset} to {stop} of {self._name!r} were requested, but it has {self.size}.")
        width = self._dtype.itemsize
        first, last = offset // width, -(-stop // width)
        for at in range(first, last, _STEP):
            end = min(at + _STEP, last)
            data = self._tensor.rounded(at, end, self._dtype).view(torch.uint8).numpy().data
            low, high = max(offset, at * width), min(stop, end * width)
            buffer[low - offset : high - offset] = data[low - at * width : high - at * width]


def plain_weights(listing: PlainListing, stored: Tensors, files: Iterable[str] = ()) -> ModelWeights:
    """The weights of a quantised base model as plain files.

    Args:
        listing: its plain listing.
        stored: its stored tensors, and the open files that hold them.
        files: the names of those.
    """
    laid = {path: (lead, header, listing.decoded.keys()) for path, (lead, header) in listing.files.items()}
    return _weights(listing, stored, laid, files)


def mixed_weights(listing: PlainListing, stored: Tensors, mixed: Mapping[str, MixedFile]) -> ModelWeights:
    """The weights of a quantised base model, some of which are plain and all others as they are stored."""
    laid = {path: (one.lead, one.header, one.dense) for path, one in mixed.items()}
    return _weights(listing, stored, laid, mixed)


def _weights(
    listing: PlainListing,
    stored: Tensors,
    laid: Mapping[str, tuple[bytes, Header, Collection[str]]],
    files: Iterable[str],
) -> ModelWeights:
    """Files of these layouts: those of their tensors that are named are decoded, the others are stored ones."""
    tensors: dict[str, tuple[ByteSource, TensorEntry]] = {}
    made: dict[str, ByteSource] = {}
    for path, (lead, header, decoded) in laid.items():
        file = PlainFile(path)
        file.add(BytesSource(lead, path), 0, len(lead))
        for name, entry in header.entries.items():
            if name in decoded:
                file.decoded[name] = DecodedTensor(listing.decoded[name], stored)
                rounded = RoundedBytes(file.decoded[name], entry)
                file.add(rounded, 0, rounded.size)
            else:
                source, own = stored[name]
                file.add(source, own.start, own.stop - own.start)
            tensors[name] = (file, entry)
        made[path] = file
    headers = {path: header for path, (_, header, _) in laid.items()}
    return ModelWeights(headers, tensors, made, frozenset(files))
