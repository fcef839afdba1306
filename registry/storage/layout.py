"""Defines the key layout; keys are made nowhere else.

::

    <store>/
      blobs/sha256/ab/abcd...-01234567   a blob: the 64 hex digits of its sha256, and 8 random ones
      blocks/sha256/ab/abcd...-01234567  the block list of that blob: one 32-byte BLAKE3 digest for each block of
                                         256 KiB; a blob of at most one block has none (see `registry.storage.blocks`)
      staging/                           client uploads, until they are checked (see `registry.storage.staging`)
      incoming/                          on S3 only: objects without a key yet (see `registry.storage.s3.writing`)
      tmp/                               on file systems only: the same (see `registry.storage.temporary`)

Every blob that is written gets a new key, even if the same bytes are stored already: an object is never overwritten,
and a collector never deletes what another writer has just stored. Only the catalogue knows the key of a blob. Keys
without the random digits were made by earlier versions and stay readable. The two hex digits spread blobs over 256
folders, so that no folder gets too large to list.
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
"""Prefixes used by drivers internally; no object has a key that starts with one."""


def new_blob_key(digest: str) -> str:
    """An unused key for a blob of this digest."""
    name = hex_of(digest)
    return f"{BLOBS}{name[:2]}/{name}-{secrets.token_hex(4)}"


def blocks_key(blob_key: str) -> str:
    """The key of the block list of the blob under ``blob_key``."""
    return BLOCKS + _name(blob_key, BLOBS)


def blob_key_of(key: str) -> str:
    """The key of the blob that an object belongs to: itself, or, for a block list, the key of its blob."""
    return BLOBS + _name(key, BLOCKS) if key.startswith(BLOCKS) else BLOBS + _name(key, BLOBS)


def digest_of(key: str) -> str:
    """The digest of a blob, from its key or that of its block list."""
    return PREFIX + key.rpartition("/")[2].partition("-")[0]


def _name(key: str, prefix: str) -> str:
    if not key.startswith(prefix):
        raise ValueError(f"not a key below {prefix}: {key!r}")
    return key[len(prefix) :]
