"""Reading and hashing files of a folder, with OS errors mapped to errors of the registry."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from registry.files.hashed import HashedFile, hash_file
from registry.files.header import MAX_HEADER
from registry.folders.errors import ErrorMapping, unreadable_file
from registry.progress import Progress

_LENGTH: Final = 8


def read_start(file: Path, length: int) -> bytes:
    """The first ``length`` bytes of a file, or all if it is shorter; raises `NotFoundError`, `UnavailableError`."""
    with ErrorMapping(unreadable_file, file), file.open("rb") as stream:
        return stream.read(length)


def head_of(file: Path) -> bytes:
    """The length field and header of a safetensors file, as far as present; not validated here.

    Only the length field if the header is longer than allowed. Raises `NotFoundError`, `UnavailableError`.
    """
    with ErrorMapping(unreadable_file, file), file.open("rb") as stream:
        start = stream.read(_LENGTH)
        length = int.from_bytes(start, "little")
        return start + stream.read(length if length <= MAX_HEADER else 0)


def hash_found(file: Path, progress: Progress) -> HashedFile:
    """Hash a file; raises `NotFoundError`, `UnavailableError`."""
    with ErrorMapping(unreadable_file, file):
        return hash_file(file, progress)
