"""Writing an exact file: which tensors of a model differ from the base's bytes, what they will take, and their frames.

The bytes are those of one version of zstd: the same model gives the same file again on the same machine, so that an
interrupted upload goes on.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import BinaryIO, Final

from registry.files.header import SIZES, TensorEntry
from registry.files.model_weights import Tensors
from registry.files.source import ByteSource, look_at
from registry.tensors.arithmetic.threads import in_order
from registry.tensors.exact.file_format import FRAME, encode_frame, frames_of, largest_frame, write_index
from registry.tensors.exact.model import against, coded_against

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
    """Write an exact file: room for the index, the frames, and then the index, which says how long they are."""
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
