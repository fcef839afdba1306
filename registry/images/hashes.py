"""The hashes by which pictures and sites name a LoRA file: of the whole file, or of its tensors alone.

AutoV2 is the beginning of the file's sha256, as the digest of a stored file is. AutoV3 is the beginning of the sha256
of what follows the header, which kohya's scripts keep as ``sshs_model_hash``: another title does not change it.
Sources: A1111's ``modules/hashes.py``, sd-scripts ``library/train_util.py`` (``addnet_hash_safetensors``).
"""

from __future__ import annotations

import hashlib
from typing import Final

from registry.files.source import ByteSource, read_range

AUTOV3: Final = "autov3"
"""The annotation that holds it."""
AUTOV3_DIGITS: Final = 12
_LENGTH: Final = 8
_CHUNK: Final = 1 << 20


def tensors_hash(source: ByteSource) -> str:
    """The sha256 of all bytes of a safetensors file after its header, in hex digits."""
    start = _LENGTH + int.from_bytes(read_range(source, 0, _LENGTH), "little")
    found = hashlib.sha256()
    for at in range(start, source.size, _CHUNK):
        found.update(read_range(source, at, min(at + _CHUNK, source.size)))
    return found.hexdigest()
