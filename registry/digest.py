"""Digests, references to blobs, and canonical JSON: how bytes and documents are named.

A *digest* is ``sha256:`` and 64 lowercase hex digits. A document (manifest, plan, table) is named by the
digest of its canonical JSON: UTF-8, keys sorted, no spaces, no NaN, so that every machine writes the same bytes.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from typing import Any, Final

PREFIX: Final = "sha256:"
_DIGEST: Final = re.compile(r"sha256:[0-9a-f]{64}")


@dataclass(frozen=True)
class BlobRef:
    """A blob as the catalogue knows it: enough to find it, and to check every byte of it.

    ``blocks_digest`` names the list of block digests that reads by range are checked against; ``key`` is that of the
    object in the store, or empty if the blob is in none yet.
    """

    digest: str
    size: int
    blocks_digest: str
    key: str


@dataclass(frozen=True)
class StoredFile(BlobRef):
    """A file of a base model, a revision or a materialisation: the blob that holds its bytes, and its name."""

    path: str


def is_digest(text: str) -> bool:
    """Whether ``text`` is a full digest, ``sha256:`` and 64 lowercase hex digits."""
    return _DIGEST.fullmatch(text) is not None


def sha256_digest(data: bytes | bytearray | memoryview) -> str:
    """Digest of bytes in memory."""
    return PREFIX + hashlib.sha256(data).hexdigest()


def hex_of(digest: str) -> str:
    """The 64 hex digits of a full digest."""
    if not is_digest(digest):
        raise ValueError(f"not a digest: {digest!r}")
    return digest[len(PREFIX) :]


def short(digest: str) -> str:
    """The first 12 hex digits, for people to read."""
    return digest.removeprefix(PREFIX)[:12]


def canonical_json(document: Any) -> bytes:
    """The one way in which a document is written before it is digested."""
    text = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode("utf-8")


def document_digest(document: Any) -> str:
    """Digest of a document's canonical JSON."""
    return sha256_digest(canonical_json(document))
