"""The tensors of an exact node, read and written: the base's files with those of an exact file in their place.

The model that they make is a base model like any other to what reads it: files with headers, and every tensor with the
file that holds it. No byte of it is stored; a range of a file is made of ranges of the base's files and of frames.

Of a tensor only the frames that a range touches are read and decoded.

The bytes that are written are those of one version of zstd: the same model gives the same file again on the same
machine, so that an interrupted upload goes on.
"""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from typing import BinaryIO, Final

from registry.errors import IntegrityError
from registry.files.header import SIZES, Header, ModelWeights, TensorEntry, Tensors, write_header
from registry.files.source import ByteSource, BytesSource, JoinedSource, look_at, read_range
from registry.files.strict_json import shown
from registry.tensors.arithmetic.threads import in_order
from registry.tensors.exact.file_format import (
    FRAME,
    ExactEntry,
    ExactIndex,
    decode_frame,
    encode_frame,
    frames_of,
    largest_frame,
    write_index,
)

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


def with_exact_tensors(base: ModelWeights, index: ExactIndex, source: ByteSource) -> ModelWeights:
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
    """The bytes before the first tensor and their parsed header: the base's own, unless a shape or a dtype changed."""
    said = [(name, entry.dtype, entry.shape) for name, entry in header.entries.items()]
    own = {name: (name, entry.dtype, entry.shape) for name, entry in index.entries.items()}
    wanted = [own.get(one[0], one) for one in said]
    if wanted == said:
        source = tensors[said[0][0]][0]
        return bytes(read_range(source, 0, header.size)), header
    return write_header(wanted, header.metadata, header.lead)


_SAMPLED: Final = 64
_COMPARED: Final = 4 << 20


@dataclass(frozen=True)
class Changed:
    """A tensor of a model that is not the base's, bit for bit."""

    name: str
    entry: TensorEntry  # in the model's file
    source: ByteSource
    base: tuple[ByteSource, TensorEntry]

    @property
    def size(self) -> int:
        """Bytes."""
        return self.entry.stop - self.entry.start

    def frame(self, number: int) -> bytes:
        """One frame of it."""
        first = number * FRAME
        count = min(FRAME, self.size - first)
        start, size = coded_against(self.entry.dtype, self.base[1])
        values = look_at(self.source, self.entry.start + first, self.entry.start + first + count)
        before = against(self.base[0], start, size, first, count)
        return encode_frame(values, before, SIZES[self.entry.dtype])


def changed_tensors(model: Tensors, base: Tensors, advance: Callable[[int], None]) -> Iterator[Changed]:
    """The tensors of a model that differ from the base's of the same name, in the order of their names."""
    for name in sorted(model):
        source, entry = model[name]
        if not _are_equal(model[name], base[name], advance):
            yield Changed(name, entry, source, base[name])


def _are_equal(
    one: tuple[ByteSource, TensorEntry], other: tuple[ByteSource, TensorEntry], advance: Callable[[int], None]
) -> bool:
    (source, entry), (base, there) = one, other
    size = entry.stop - entry.start
    advance(size)
    if (entry.dtype, entry.shape) != (there.dtype, there.shape):
        return False
    steps = ((at, min(at + _COMPARED, size)) for at in range(0, size, _COMPARED))
    return all(
        look_at(source, entry.start + first, entry.start + stop)
        == look_at(base, there.start + first, there.start + stop)
        for first, stop in steps
    )


def estimated_size(changed: Sequence[Changed]) -> int:
    """What the frames of some tensors will take: the mean of some of them, drawn evenly over all bytes."""
    total = sum(one.size for one in changed)
    if total == 0:
        return 0  # empty tensors of another dtype
    ends = list(accumulate(one.size for one in changed))
    shares = []
    for number in range(_SAMPLED):
        at = total * (2 * number + 1) // (2 * _SAMPLED)
        index = bisect_right(ends, at)
        one = changed[index]
        frame = (at - ends[index] + one.size) // FRAME
        shares.append(len(one.frame(frame)) / min(FRAME, one.size - frame * FRAME))
    return round(total * sum(shares) / _SAMPLED)


def write_exact(changed: Sequence[Changed], out: BinaryIO, advance: Callable[[int], None]) -> None:
    """Write an exact file: room for the index, the frames, and then the index, which gives their lengths."""
    frames = [(one, number) for one in changed for number in range(frames_of(one.size))]
    lengths: dict[str, list[int]] = {one.name: [] for one in changed}
    longest = {one.name: [largest_frame(FRAME)] * frames_of(one.size) for one in changed}
    room = len(_index(changed, longest))
    out.write(bytes(room))
    for (one, number), frame in zip(frames, in_order(_frame_of, frames), strict=True):
        out.write(frame)
        lengths[one.name].append(len(frame))
        advance(min(FRAME, one.size - number * FRAME))
    out.seek(0)
    out.write(_index(changed, lengths, room))


def _frame_of(asked: tuple[Changed, int]) -> bytes:
    one, number = asked
    return one.frame(number)


def _index(changed: Sequence[Changed], lengths: Mapping[str, Sequence[int]], room: int = 0) -> bytes:
    tensors = ((one.name, one.entry.dtype, one.entry.shape, tuple(lengths[one.name])) for one in changed)
    return write_index(tensors, room)
