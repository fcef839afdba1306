"""Digests of bytes that pass once: sha256 of all of them, BLAKE3 of each block of 256 KiB.

A sha256 can't be checked on a part of a blob, so a *block list* is kept beside it: the 32-byte BLAKE3 digests of its
blocks, one after the other. The sha256 of the list, the ``blocks_digest``, is kept by the caller in the catalogue and
is what every read is checked against in the end. A blob of at most one block needs no stored list: its
list is one digest, which is made from the block itself.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

from blake3 import blake3

from registry.digest import PREFIX, sha256_digest

BLOCK: Final = 256 * 1024
DIGEST_SIZE: Final = 32
CHUNK: Final = 4 * BLOCK
"""Bytes of one step of a pass: small enough to stay in the processor's cache while it is hashed and written."""
_BUFFERS: Final = 3


Fill = Callable[[memoryview], int]
"""Fills a buffer from a stream; returns how many bytes it put there, fewer than fit only at the end."""
Each = Callable[[int, memoryview], None]
"""Gets a chunk and its offset."""


@dataclass(frozen=True)
class Digests:
    """What one pass over a blob's bytes found."""

    digest: str
    size: int
    block_list: bytes

    @property
    def blocks_digest(self) -> str:
        """The digest of the block list."""
        return sha256_digest(self.block_list)


def block_count(size: int) -> int:
    """How many blocks a blob of ``size`` bytes has."""
    return -(-size // BLOCK)


def list_size(size: int) -> int:
    """Bytes of the block list that is stored for a blob of ``size`` bytes; 0 when none is."""
    return DIGEST_SIZE * block_count(size) if size > BLOCK else 0


def block_digest(block: bytes | bytearray | memoryview) -> bytes:
    """The digest of one block."""
    digest: bytes = blake3(block).digest()
    return digest


def block_digests(data: memoryview) -> bytes:
    """The digests of the blocks of ``data``, which starts at a block; the last block may be short."""
    return b"".join(block_digest(data[start : start + BLOCK]) for start in range(0, len(data), BLOCK))


def digest_pass(fill: Fill, each: Each) -> Digests:
    """Digest a stream in one pass.

    ``each`` gets every chunk in order, valid during the call only. sha256 is the slowest part, so it
    runs in a thread of its own, up to two chunks behind; everything else runs in the caller's thread.
    """
    whole = hashlib.sha256()
    blocks = bytearray()
    buffers = [memoryview(bytearray(CHUNK)) for _ in range(_BUFFERS)]
    hashing: list[Future[None] | None] = [None] * _BUFFERS
    size = 0
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="sha256") as pool:
        while True:
            turn = (size // CHUNK) % _BUFFERS
            if (before := hashing[turn]) is not None:
                before.result()
            count = fill(buffers[turn])
            if count == 0:
                break
            chunk = buffers[turn][:count]
            if size == 0 and count < CHUNK:
                whole.update(chunk)  # a small blob is not worth a thread
            else:
                hashing[turn] = pool.submit(whole.update, chunk)
            blocks += block_digests(chunk)
            each(size, chunk)
            size += count
            if count < CHUNK:
                break
        for future in hashing:
            if future is not None:
                future.result()
    return Digests(PREFIX + whole.hexdigest(), size, bytes(blocks))
