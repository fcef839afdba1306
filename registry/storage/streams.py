"""Sources of bytes to hash: a user's file, a stored object, or memory, read buffer by buffer.

Digests of a single pass over bytes: sha256 of the whole, BLAKE3 of each block of 256 KiB.

A part of a blob can't be checked by its sha256, so a *block list* is stored beside it: the concatenated 32-byte BLAKE3
digests of its blocks. The sha256 of the list, the ``blocks_digest``, the caller stores in the catalogue, and every
read is verified against it in the end. A blob of at most one block needs no stored list: its list is one digest,
computed from the block itself.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from blake3 import blake3

from registry.digest import sha256_digest
from registry.errors import RegistryError
from registry.files.hashed import Each, Fill, hash_stream
from registry.folders.local_files import ErrorMapping, unreadable_file
from registry.storage.driver import ObjectReader

BLOCK: Final = 256 * 1024  # `registry.files.hashed.CHUNK` is a multiple of it
DIGEST_SIZE: Final = 32


@dataclass(frozen=True)
class Digests:
    """The results of one pass over a blob's bytes."""

    digest: str
    size: int
    block_list: bytes

    @property
    def blocks_digest(self) -> str:
        """The digest of the block list."""
        return sha256_digest(self.block_list)


def block_count(size: int) -> int:
    """The number of blocks of a blob of ``size`` bytes."""
    return -(-size // BLOCK)


def list_size(size: int) -> int:
    """Bytes of the stored block list for a blob of ``size`` bytes; 0 if none is stored."""
    return DIGEST_SIZE * block_count(size) if size > BLOCK else 0


def block_digest(block: bytes | bytearray | memoryview) -> bytes:
    """The digest of one block."""
    digest: bytes = blake3(block).digest()
    return digest


def block_digests(data: memoryview) -> bytes:
    """The digests of the blocks of ``data``, which starts at a block boundary; the last block may be short."""
    return b"".join(block_digest(data[start : start + BLOCK]) for start in range(0, len(data), BLOCK))


def digest_pass(fill: Fill, each: Each) -> Digests:
    """Digest a stream in one pass; ``each`` as for `registry.files.hashed.hash_stream`."""
    blocks = bytearray()

    def digest_blocks(offset: int, chunk: memoryview) -> None:
        nonlocal blocks
        blocks += block_digests(chunk)
        each(offset, chunk)

    digest, size = hash_stream(fill, digest_blocks)
    return Digests(digest, size, bytes(blocks))


_PIECE: Final = 8 << 20


class FileStream:
    """A user's file. Error messages name the file, because the store is not the cause."""

    def __init__(self, file: Path) -> None:
        self._path = file
        with ErrorMapping(unreadable_file, file):
            self._file = file.open("rb", buffering=0)

    def fill(self, buffer: memoryview) -> int:
        """Fill ``buffer``; returns the count of bytes, less than its size only at the end."""
        filled = 0
        with ErrorMapping(unreadable_file, self._path):
            while filled < len(buffer) and (count := self._file.readinto(buffer[filled:])):
                filled += count
        return filled

    def __enter__(self) -> FileStream:
        return self

    def __exit__(self, *exc: object) -> None:
        self._file.close()


class ObjectStream:
    """A stored object, closed on exit. If reads are slow, the next pieces are prefetched."""

    def __init__(self, reader: ObjectReader) -> None:
        self._reader = reader
        self._at = 0
        self._ahead = _Ahead(reader) if reader.size > _PIECE and reader.ahead else None

    def fill(self, buffer: memoryview) -> int:
        """Fill ``buffer``; returns the count of bytes, less than its size only at the end."""
        count = min(len(buffer), self._reader.size - self._at)
        if self._ahead is not None:
            self._ahead.fill(buffer[:count])
        elif count:
            self._reader.read_into(self._at, buffer[:count])
        self._at += count
        return count

    def __enter__(self) -> ObjectStream:
        return self

    def __exit__(self, *exc: object) -> None:
        if self._ahead is not None:
            self._ahead.close()
        self._reader.close()


class _Ahead:
    """Prefetches the pieces of an object, in order."""

    def __init__(self, reader: ObjectReader) -> None:
        self._reader = reader
        self._asked = 0
        self._coming: deque[Future[memoryview]] = deque()
        self._piece = memoryview(b"")
        depth = max(1, reader.ahead // _PIECE)
        self._pool = ThreadPoolExecutor(max_workers=depth, thread_name_prefix="read-ahead")
        for _ in range(depth):
            self._ask()

    def fill(self, buffer: memoryview) -> None:
        while buffer:
            if not self._piece:
                self._piece = self._coming.popleft().result()
                self._ask()
            count = min(len(buffer), len(self._piece))
            buffer[:count] = self._piece[:count]
            self._piece = self._piece[count:]
            buffer = buffer[count:]

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)

    def _ask(self) -> None:
        length = min(_PIECE, self._reader.size - self._asked)
        if length:
            self._coming.append(self._pool.submit(self._read, self._asked, length))
            self._asked += length

    def _read(self, offset: int, length: int) -> memoryview:
        piece = memoryview(bytearray(length))
        self._reader.read_into(offset, piece)
        return piece


class BytesStream:
    """Bytes in memory."""

    def __init__(self, data: bytes | bytearray | memoryview) -> None:
        self._rest = memoryview(data).cast("B")

    def fill(self, buffer: memoryview) -> int:
        """Fill ``buffer``; returns the count of bytes, less than its size only at the end."""
        piece = self._rest[: len(buffer)]
        buffer[: len(piece)] = piece
        self._rest = self._rest[len(piece) :]
        return len(piece)


class ChunkStream:
    """Generated bytes, in chunks of any size."""

    def __init__(self, chunks: Iterator[memoryview]) -> None:
        self._chunks = chunks
        self._rest = memoryview(b"")

    def fill(self, buffer: memoryview) -> int:
        """Fill ``buffer``; returns the count of bytes, less than its size only at the end."""
        filled = 0
        while filled < len(buffer):
            if not self._rest:
                chunk = next(self._chunks, None)
                if chunk is None:
                    break
                self._rest = chunk
            count = min(len(buffer) - filled, len(self._rest))
            buffer[filled : filled + count] = self._rest[:count]
            self._rest = self._rest[count:]
            filled += count
        return filled


class Patient:
    """Wraps a watcher and defers its error until all chunks have passed: wrong bytes could cause any error."""

    def __init__(self, watch: Callable[[int, memoryview], None]) -> None:
        self._watch = watch
        self._refusal: RegistryError | None = None

    def __call__(self, offset: int, chunk: memoryview) -> None:
        if self._refusal is None:
            try:
                self._watch(offset, chunk)
            except RegistryError as refusal:
                self._refusal = refusal

    def tell(self) -> None:
        """Raise the deferred error, once the bytes are known to be right."""
        if self._refusal is not None:
            raise self._refusal
