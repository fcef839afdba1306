"""The model of an exact node: the base's files with the tensors of an exact file in the place of the base's own.

It is a base model like any other to what reads it: files with headers, and every tensor with the file that holds it. No
byte of it is stored; a range of a file is made of ranges of the base's files and of frames.

A tensor of an exact file as bytes by range: only the frames that a range touches are read and decoded.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from itertools import accumulate
from typing import Final

from registry.errors import IntegrityError
from registry.files.header import Header, TensorEntry, write_header
from registry.files.model_weights import ModelWeights, Tensors
from registry.files.source import ByteSource, BytesSource, JoinedSource, look_at, read_range
from registry.files.strict_json import shown
from registry.tensors.exact.file_format import FRAME, ExactEntry, ExactIndex, decode_frame

_KEPT: Final = 16
"""Decoded frames that a file keeps: blocks of rows and frames end at different places."""


class RecentFrames:
    """The frames of one file that were decoded last."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[str, int], memoryview] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: tuple[str, int], decode: Callable[[], memoryview]) -> memoryview:
        """A frame, by tensor and number; nobody may change it."""
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        decoded = decode()
        with self._lock:
            self._kept[key] = decoded
            while len(self._kept) > _KEPT:
                self._kept.popitem(last=False)
        return decoded


class ExactTensor:
    """The bytes of one tensor.

    Args:
        source: the exact file.
        entry: the tensor in it.
        base: the base's file and tensor of that name, against which it is coded if it has the same dtype.
        recent: of the file.
    """

    def __init__(
        self, source: ByteSource, entry: ExactEntry, base: tuple[ByteSource, TensorEntry], recent: RecentFrames
    ) -> None:
        self._source, self._entry, self._recent = source, entry, recent
        self._base, (self._base_start, self._base_size) = base[0], coded_against(entry.dtype, base[1])
        self._starts = list(accumulate(entry.frames, initial=entry.start))

    @property
    def size(self) -> int:
        return self._entry.size

    def read_into(self, offset: int, buffer: memoryview) -> None:
        stop = offset + len(buffer)
        if offset < 0 or stop > self.size:
            raise IntegrityError(f"Bytes {offset} to {stop} of {self._what()} were requested, but it has {self.size}.")
        at = offset
        while at < stop:
            frame, inside = divmod(at, FRAME)
            piece = self._frame(frame)[inside : inside + stop - at]
            buffer[at - offset : at - offset + len(piece)] = piece
            at += len(piece)

    def _frame(self, number: int) -> memoryview:
        return self._recent.get((self._entry.name, number), partial(self._decoded, number))

    def _decoded(self, number: int) -> memoryview:
        size, first = self._entry.size_of(number), number * FRAME
        frame = look_at(self._source, self._starts[number], self._starts[number + 1])
        before = against(self._base, self._base_start, self._base_size, first, size)
        return decode_frame(frame, size, before, self._entry.element, f"Frame {number} of {self._what()}")

    def _what(self) -> str:
        return f"tensor {shown(self._entry.name)}"


def coded_against(dtype: str, base: TensorEntry) -> tuple[int, int]:
    """Where the bytes that a tensor of this dtype is coded against begin, and how many; of another dtype: none."""
    return (base.start, base.stop - base.start) if base.dtype == dtype else (0, 0)


def against(base: ByteSource, start: int, size: int, first: int, count: int) -> memoryview:
    """The base's bytes that ``count`` bytes from ``first`` on of a tensor are coded against; fewer where it ends."""
    stop = min(first + count, size)
    return look_at(base, start + first, start + stop) if first < stop else memoryview(b"")


def overlay(base: ModelWeights, index: ExactIndex, source: ByteSource) -> ModelWeights:
    """Lay the tensors of an exact file over a base's; that they fit was checked."""
    headers, tensors = base.headers, base.tensors
    recent = RecentFrames()
    found = dict(tensors)
    laid: dict[str, Header] = {}
    made: dict[str, ByteSource] = {}
    for path, header in headers.items():
        if not index.entries.keys() & header.entries.keys():
            laid[path] = header
            continue
        lead, out = _lead(header, tensors, index)
        joined = JoinedSource(path)
        joined.add(BytesSource(lead, path), 0, len(lead))
        for name, entry in header.entries.items():
            if name in index.entries:
                own = index.entries[name]
                joined.add(ExactTensor(source, own, tensors[name], recent), 0, own.size)
            else:
                joined.add(tensors[name][0], entry.start, entry.stop - entry.start)
        laid[path], made[path] = out, joined
        found.update({name: (joined, entry) for name, entry in out.entries.items()})
    return ModelWeights(laid, found, made)


def _lead(header: Header, tensors: Tensors, index: ExactIndex) -> tuple[bytes, Header]:
    """The bytes before the first tensor and the header they say: the base's own, unless a shape or a dtype changed."""
    said = [(name, entry.dtype, entry.shape) for name, entry in header.entries.items()]
    own = {name: (name, entry.dtype, entry.shape) for name, entry in index.entries.items()}
    wanted = [own.get(one[0], one) for one in said]
    if wanted == said:
        source = tensors[said[0][0]][0]
        return bytes(read_range(source, 0, header.size)), header
    return write_header(wanted, header.metadata)
