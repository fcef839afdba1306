"""The one owner of the key layout.

::

    <store>/
      blobs/sha256/ab/abcd...   a blob, under the 64 hex digits of its sha256
      blocks/sha256/ab/abcd...  the block list of that blob: one 32-byte BLAKE3 digest for each block of 256 KiB;
                                a blob of at most one block has none (see `registry.storage.blocks`)
      tmp/                      on file systems only: objects without a key yet (see `registry.storage.temporary`)

The two hex digits spread blobs over 256 folders, so that no folder grows too large to list.
"""

from __future__ import annotations

from typing import Final

from registry.digest import PREFIX, hex_of

BLOBS: Final = "blobs/sha256/"
BLOCKS: Final = "blocks/sha256/"


def blob_key(digest: str) -> str:
    """Where the bytes of a blob are."""
    name = hex_of(digest)
    return f"{BLOBS}{name[:2]}/{name}"


def blocks_key(digest: str) -> str:
    """Where the block list of a blob is; ``digest`` is the blob's."""
    name = hex_of(digest)
    return f"{BLOCKS}{name[:2]}/{name}"


def digest_of(key: str) -> str:
    """The blob's digest of a key made by `blob_key` or `blocks_key`."""
    return PREFIX + key.rpartition("/")[2]
