"""The plain files of a quantised base model: no byte of them is stored, a range is decoded when it is read.

To what reads weights they are files like any other: bytes in the plain dtype, rounded once. What computes asks for the
exact values instead, by `decoded_in`, so that nothing is rounded before a path is added.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Final

import torch

from registry.errors import IntegrityError
from registry.files.header import Header, TensorEntry
from registry.files.model_weights import ModelWeights, Tensors
from registry.files.source import ByteSource, BytesSource, JoinedSource
from registry.quantised.listing import PlainListing
from registry.quantised.mixed import MixedFile
from registry.tensors.elements.dtypes import FLOATS
from registry.tensors.quantised.decoding import DecodedTensor

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
