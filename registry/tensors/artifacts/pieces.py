"""The pieces that files of artifacts are made of, and how those who ask for the same piece at once get it made once."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass

from registry.errors import IntegrityError, UnavailableError
from registry.files.sha256 import Each
from registry.memory import CacheHandle, MemoryCache
from registry.tensors.arithmetic.lanes import Promised

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
    """Bring a piece on a lane, and hand it to ``each`` there."""
    return pool.submit(piece.given, each)
