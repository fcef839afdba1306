"""The files of an export on this machine: read for what is changed in them, and hashed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from blake3 import blake3

from registry.digest import sha256_digest
from registry.files.sha256 import hash_stream
from registry.progress import Progress
from registry.schemas import OutputFile


@dataclass(frozen=True)
class FolderFile:
    """A file of a fetched folder."""

    place: Path
    size: int

    def read(self, start: int = 0, stop: int | None = None) -> bytes:
        """The bytes ``start`` to ``stop``."""
        with self.place.open("rb") as stream:
            stream.seek(start)
            return stream.read(-1 if stop is None else stop - start)


def output_files(
    files: Mapping[str, bytes | Path], fetched: Mapping[str, OutputFile], progress: Progress
) -> tuple[tuple[OutputFile, ...], dict[str, str]]:
    """What a receipt says of the files, and the sha256 digest of each."""
    progress.begin("Hashing", sum(fetched[path].size for path, one in files.items() if isinstance(one, Path)))
    outputs, digests = [], {}
    for path, one in sorted(files.items()):
        if isinstance(one, bytes):
            outputs.append(OutputFile(path=path, size=len(one), blake3=blake3(one).hexdigest()))
            digests[path] = sha256_digest(one)
        else:
            outputs.append(fetched[path])
            digests[path] = _sha256(one, progress)
    return tuple(outputs), digests


def _sha256(place: Path, progress: Progress) -> str:
    with place.open("rb", buffering=0) as stream:
        return hash_stream(stream.readinto, lambda _, chunk: progress.advance(len(chunk)))[0]
