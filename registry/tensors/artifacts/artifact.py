"""Artifacts: named files of known size whose bytes are made when they are read.

A file is a row of *regions*, each a run of equal pieces that can be made one by one: a generated header, a copied range
of a blob, a grid of merged blocks. Any byte range is cut out of whole pieces, so the bytes do not depend on how they
are requested. Writing to disk, a range over HTTP and a check are all readers of the same file. If several readers
request the same piece at the same time, it is made once.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING, Final, Protocol

from registry.errors import IntegrityError, NotFoundError, UnavailableError, UsageError
from registry.files.hashed import Each
from registry.files.header import Header
from registry.files.source import ByteSource, look_at
from registry.memory import CacheHandle, MemoryCache
from registry.schemas import ArtifactKind, Fidelity, Truncation, views
from registry.schemas.form import MeasuredRows
from registry.tensors.arithmetic.threads import Promised, begun_in_order
from registry.tensors.artifacts.plan import Plan, rendering_of

if TYPE_CHECKING:
    import torch


Buffer = bytes | bytearray | memoryview


@dataclass(frozen=True)
class Region:
    """Bytes ``start`` to ``stop`` of a file, made in pieces of ``step`` bytes (the last may be shorter)."""

    start: int
    stop: int
    step: int
    make: Callable[[int], Buffer]  # index of a piece -> its bytes
    costly: bool = True  # whether making a piece is more than copying it


@dataclass(frozen=True, slots=True)
class Piece:
    """Bytes ``first`` to ``last`` of a piece of a region."""

    region: Region
    index: int
    first: int
    last: int

    def weigh(self) -> int:
        """Bytes of the whole piece, which is what is made."""
        return min(self.region.step, self.region.stop - self.region.start - self.index * self.region.step)

    def make(self) -> memoryview:
        """The whole piece."""
        return memoryview(self.region.make(self.index)).cast("B")

    def made(self) -> memoryview:
        """The bytes of it that are wanted."""
        return self.make()[self.first : self.last]

    def given(self, each: Each) -> memoryview:
        """The same, after ``each`` got them and their place in the file."""
        data = self.made()
        each(self.region.start + self.index * self.region.step + self.first, data)
        return data


@dataclass(frozen=True)
class SharedPieces:
    """Computed pieces of one file in the memory of the process."""

    memory: MemoryCache
    rendering: str
    path: str


class _Shared:
    """A part of a piece that others may have a part of too."""

    def __init__(self, shared: SharedPieces, pool: Executor, piece: Piece) -> None:
        key = (shared.rendering, shared.path, piece.region.start, piece.index)
        self._pool = pool
        self._piece = piece
        self._mine = False
        self._handle: CacheHandle[memoryview] = shared.memory.acquire("piece", key, self._make, len, pool=pool)

    def result(self) -> memoryview:
        try:
            whole = self._handle.result()
        except (IntegrityError, UnavailableError):
            if self._mine:
                raise
            # Another's blobs failed, which may have been closed, or replaced by sound ones, since they were opened.
            whole = self._pool.submit(self._piece.make).result()
        return whole[self._piece.first : self._piece.last]

    def cancel(self) -> None:
        self._handle.close()

    def _make(self) -> memoryview:
        self._mine = True
        return self._piece.make()


def begin(shared: SharedPieces | None, pool: Executor, piece: Piece) -> Promised[memoryview]:
    """Bring a piece on a lane, or find it."""
    if shared is None or not piece.region.costly:
        return pool.submit(piece.made)
    return _Shared(shared, pool, piece)


def begin_giving(each: Each, pool: Executor, piece: Piece) -> Promised[memoryview]:
    """Bring a piece on a lane, and hand it to ``each`` on the same lane."""
    return pool.submit(piece.given, each)


COPY_STEP: Final = 2 << 20


def bytes_region(start: int, data: bytes) -> Region:
    """A region of bytes that are known already."""
    return Region(start, start + len(data), max(1, len(data)), lambda _: data, costly=False)


def copy_region(start: int, source: ByteSource, source_start: int, length: int) -> Region:
    """A region copied from ``length`` bytes of a source."""

    def make(index: int) -> Buffer:
        at = index * COPY_STEP
        return look_at(source, source_start + at, source_start + min(at + COPY_STEP, length))

    return Region(start, start + length, COPY_STEP, make, costly=False)


class ArtifactFile:
    """One file of an artifact.

    Args:
        path: its name.
        regions: its bytes.
        header: of a safetensors file.
        digest: of its bytes, where they are those of a stored blob.
    """

    def __init__(
        self, path: str, regions: Sequence[Region], header: Header | None = None, digest: str | None = None
    ) -> None:
        self.path = path
        self.header = header
        self.digest = digest
        self._regions = [region for region in regions if region.stop > region.start]
        self._starts = [region.start for region in self._regions]
        self.size = self._regions[-1].stop if self._regions else 0

    def chunks(
        self,
        start: int = 0,
        stop: int | None = None,
        *,
        lanes: int | None = None,
        shared: SharedPieces | None = None,
        each: Each | None = None,
    ) -> Iterator[memoryview]:
        """The bytes ``start`` to ``stop`` in order, in chunks of a few MiB, made on several threads.

        Args:
            start: first byte.
            stop: the byte after the last; the end of the file by default.
            lanes: on how many threads.
            shared: where pieces that others request at about the same time are found.
            each: gets every chunk and its place on the thread that made it, in whose cache it still is, before it
                comes out here; chunks of others may come to it sooner. Not together with ``shared``.

        Raises:
            UsageError: the range is not inside the file.
            IntegrityError: stored bytes turn out to be damaged; nothing of the damaged piece was yielded.
        """
        end = self.size if stop is None else stop
        if not 0 <= start <= end <= self.size:
            raise UsageError(f"Bytes {start} to {end} are not inside {self.path!r}, which has {self.size} bytes.")
        pieces = self._pieces(start, end)
        computes = any(region.costly for region in self._regions)
        start_one = partial(begin, shared) if each is None else partial(begin_giving, each)
        return begun_in_order(start_one, pieces, lanes=lanes, weigh=Piece.weigh, computes=computes)

    def is_costly(self, start: int, stop: int) -> bool:
        """Whether anything between two bytes has to be computed."""
        return any(piece.region.costly for piece in self._pieces(start, stop))

    def read(self, start: int = 0, stop: int | None = None) -> bytes:
        """The bytes ``start`` to ``stop``, in memory."""
        return b"".join(self.chunks(start, stop))

    def __repr__(self) -> str:
        return views.artifact_file(self.path, self.size)

    def _pieces(self, start: int, stop: int) -> Iterator[Piece]:
        index = max(0, bisect_right(self._starts, start) - 1)
        for region in self._regions[index:]:
            if region.start >= stop:
                return
            first, last = max(start, region.start), min(stop, region.stop)
            for piece in range((first - region.start) // region.step, -(-(last - region.start) // region.step)):
                at = region.start + piece * region.step
                yield Piece(region, piece, max(0, first - at), min(region.step, last - at))


def source_file(path: str, source: ByteSource, header: Header | None = None, digest: str | None = None) -> ArtifactFile:
    """A file that is a stored blob, byte for byte."""
    return ArtifactFile(path, [copy_region(0, source, 0, source.size)], header, digest)


def generated_file(path: str, data: bytes) -> ArtifactFile:
    """A file whose bytes were made while planning."""
    return ArtifactFile(path, [bytes_region(0, data)])


class Meter(Protocol):
    """Measures fidelity while pieces are made."""

    def result(self, rows: MeasuredRows | None = None) -> Fidelity | None:
        """The figures; None if nothing is to be measured, or not every piece was made.

        ``rows``: of which, where it measures all: those of the sample are among them. None: of all that it measures.
        """

    def finish(self) -> None:
        """Make the pieces that nobody made, for their figures alone."""


@dataclass(frozen=True)
class Measured:
    """A meter of what was measured before."""

    fidelity: Fidelity | None

    def result(self, rows: MeasuredRows | None = None) -> Fidelity | None:
        known = self.fidelity is not None and rows in (None, self.fidelity.rows)
        return self.fidelity if known else None

    def finish(self) -> None:
        """Nothing is missing."""


class Artifact:
    """Named files handed out for a plan. Close it, or use it as a context manager, to release the blobs it reads."""

    def __init__(
        self,
        plan: Plan,
        files: Sequence[ArtifactFile],
        *,
        notices: Sequence[str] = (),
        truncation: Truncation | None = None,
        numerics: str | None = None,
        meter: Meter | None = None,
        release: Callable[[], None] = lambda: None,
    ) -> None:
        self.plan = plan
        self.files: Mapping[str, ArtifactFile] = {file.path: file for file in sorted(files, key=lambda file: file.path)}
        self.notices = tuple(notices)
        self.truncation = truncation
        self._numerics = numerics
        self._meter = meter
        self._release = release

    @property
    def kind(self) -> ArtifactKind:
        """published, lora or merged."""
        return self.plan.kind

    @property
    def numerics(self) -> str | None:
        """Fingerprint of the arithmetic that made its bytes: this machine's unless it was stored; None: only copied."""
        return self._numerics or self.plan.numerics

    @cached_property
    def rendering(self) -> str:
        """Digest that names the artifact's bytes."""
        return rendering_of(self.plan, self.numerics)

    def fidelity(self, rows: MeasuredRows | None = None) -> Fidelity | None:
        """How much of the path's change its rounded weights hold; None unless every piece was made and measured.

        ``rows``: as for `Meter.result`.
        """
        return None if self._meter is None else self._meter.result(rows)

    def measure(self) -> None:
        """Make the pieces that were not made, for their figures alone."""
        if self._meter is not None:
            self._meter.finish()

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files.values())

    def file(self, path: str) -> ArtifactFile:
        """The file of that name; raises `NotFoundError`."""
        if path not in self.files:
            raise NotFoundError(f"The artifact has no file {path!r}; it has {', '.join(self.files)}.")
        return self.files[path]

    def tensors(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Names and tensors of all weights, one by one, in the order of their bytes."""
        import torch

        from registry.tensors.arithmetic.dtypes import TORCH

        for file in self.files.values():
            for entry in file.header.entries.values() if file.header else ():
                data = bytearray(entry.stop - entry.start)
                at = 0
                for chunk in file.chunks(entry.start, entry.stop):
                    data[at : at + len(chunk)] = chunk
                    at += len(chunk)
                dtype = TORCH[entry.dtype]
                flat = torch.frombuffer(data, dtype=dtype) if data else torch.empty(0, dtype=dtype)
                yield entry.name, flat.reshape(entry.shape)

    def close(self) -> None:
        """Release the blobs."""
        self._release()

    def __repr__(self) -> str:
        return views.artifact(self.kind, len(self.files), self.size, self.rendering)

    def __enter__(self) -> Artifact:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
