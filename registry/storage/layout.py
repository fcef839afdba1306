"""The one owner of the key layout.

::

    <store>/
      blobs/sha256/ab/abcd...-01234567   a blob: the 64 hex digits of its sha256, and 8 random ones
      blocks/sha256/ab/abcd...-01234567  the block list of that blob: one 32-byte BLAKE3 digest for each block of
                                         256 KiB; a blob of at most one block has none (see `registry.storage.blocks`)
      staging/                           what clients upload, until it is checked (see `registry.storage.staging`)
      incoming/                          on S3 only: objects without a key yet (see `registry.storage.s3.writing`)
      tmp/                               on file systems only: the same (see `registry.storage.temporary`)

Every blob that is written gets a key of its own, also when the same bytes are there already: an object is never
overwritten, and what a collector deletes is never what someone else has just stored. Under which key a blob lies is
known to the catalogue only. Keys without the random digits were made by earlier versions; they stay readable.
The two hex digits spread blobs over 256 folders, so that no folder grows too large to list.
"""

from __future__ import annotations

import secrets
from typing import Final

from registry.digest import PREFIX, hex_of

BLOBS: Final = "blobs/sha256/"
BLOCKS: Final = "blocks/sha256/"
STAGING: Final = "staging/"
INCOMING: Final = "incoming/"
TMP: Final = "tmp/"
RESERVED: Final = (STAGING, INCOMING, TMP)
"""What drivers keep for themselves: no object has a key that starts so."""


def new_blob_key(digest: str) -> str:
    """A key that no object has, for a blob of this digest."""
    name = hex_of(digest)
    return f"{BLOBS}{name[:2]}/{name}-{secrets.token_hex(4)}"


def blocks_key(blob_key: str) -> str:
    """Where the block list of the blob under ``blob_key`` is."""
    return BLOCKS + _name(blob_key, BLOBS)


def blob_key_of(key: str) -> str:
    """The key of the blob that an object belongs to: itself, or for a block list that of its blob."""
    return BLOBS + _name(key, BLOCKS) if key.startswith(BLOCKS) else BLOBS + _name(key, BLOBS)


def digest_of(key: str) -> str:
    """The blob's digest of the key of a blob or of a block list."""
    return PREFIX + key.rpartition("/")[2].partition("-")[0]


def _name(key: str, prefix: str) -> str:
    if not key.startswith(prefix):
        raise ValueError(f"not a key below {prefix}: {key!r}")
    return key[len(prefix) :]
