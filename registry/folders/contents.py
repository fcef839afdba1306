"""Bytes of a folder's files: how they begin, and their digest. What the system refuses is the user's error."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from registry.files.hashed import HashedFile, hash_file
from registry.files.header import MAX_HEADER
from registry.folders.errors import ErrorMapping, unreadable_file
from registry.progress import Progress

_LENGTH: Final = 8


def read_start(file: Path, length: int) -> bytes:
    """The first ``length`` bytes of a file, or all that it has; raises `NotFoundError`, `UnavailableError`."""
    with ErrorMapping(unreadable_file, file), file.open("rb") as stream:
        return stream.read(length)


def head_of(file: Path) -> bytes:
    """The header of a safetensors file with its length field, as far as it is there: it is not checked here.

    Of a header that is longer than any may be, the length field alone. Raises `NotFoundError`, `UnavailableError`.
    """
    with ErrorMapping(unreadable_file, file), file.open("rb") as stream:
        start = stream.read(_LENGTH)
        length = int.from_bytes(start, "little")
        return start + stream.read(length if length <= MAX_HEADER else 0)


def hash_found(file: Path, progress: Progress) -> HashedFile:
    """Take the digest of a file; raises `NotFoundError`, `UnavailableError`."""
    with ErrorMapping(unreadable_file, file):
        return hash_file(file, progress)
