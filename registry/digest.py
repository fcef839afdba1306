"""Digests and canonical JSON: how bytes and documents are named.

A *digest* is ``sha256:`` and 64 lowercase hex digits. A document (manifest, plan, table) is named by the
digest of its canonical JSON: UTF-8, keys sorted, no spaces, no NaN, so that every machine writes the same bytes.
"""

from __future__ import annotations

import hashlib
import json
import re
from typing import Any, Final

PREFIX: Final = "sha256:"
_DIGEST: Final = re.compile(r"sha256:[0-9a-f]{64}")


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
