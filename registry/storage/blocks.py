"""Digests of a single pass over bytes: sha256 of the whole, BLAKE3 of each block of 256 KiB.

A part of a blob can't be checked by its sha256, so a *block list* is stored beside it: the concatenated 32-byte BLAKE3
digests of its blocks. The sha256 of the list, the ``blocks_digest``, is kept by the caller in the catalogue, and every
read is verified against it in the end. A blob of at most one block needs no stored list: its list is one digest,
computed from the block itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from blake3 import blake3

from registry.digest import sha256_digest
from registry.files.sha256 import Each, Fill, hash_stream

BLOCK: Final = 256 * 1024  # `registry.files.sha256.CHUNK` is a multiple of it
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
    """Digest a stream in one pass; ``each`` as for `registry.files.sha256.hash_stream`."""
    blocks = bytearray()

    def digest_blocks(offset: int, chunk: memoryview) -> None:
        nonlocal blocks
        blocks += block_digests(chunk)
        each(offset, chunk)

    digest, size = hash_stream(fill, digest_blocks)
    return Digests(digest, size, bytes(blocks))
