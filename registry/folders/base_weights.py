"""Checks local files against the digests of a base model."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from registry.errors import IntegrityError, NotFoundError
from registry.files.hashed import HashedFile, hash_file
from registry.folders.errors import unreadable
from registry.progress import Progress


class WeightFile(NamedTuple):
    """A file of a base model, as registered."""

    path: str
    size: int
    digest: str


def check_weights(folder: Path, base: str, files: Iterable[WeightFile], progress: Progress) -> None:
    """Check the weight files of a folder against those of the base model; the first mismatch raises.

    Raises:
        NotFoundError: a file is missing.
        IntegrityError: ``wrong_base``: a file has other bytes.
        UnavailableError: a file can't be read.
    """
    folder, wanted = folder.expanduser().absolute(), list(files)
    progress.begin("Checking the base model", sum(file.size for file in wanted))
    for file in wanted:
        place = folder / file.path
        try:
            size = place.stat().st_size
            if size != file.size:
                raise other_size(place, size, file, base)
            check_digest(hash_file(place, progress), file, base)
        except FileNotFoundError:
            raise missing(place, base) from None
        except OSError as problem:
            raise unreadable(place, problem) from problem


def check_digest(found: HashedFile, file: WeightFile, base: str) -> None:
    """Compare the digest of a hashed file with the expected one; raises `IntegrityError`, ``wrong_base``."""
    if found.digest != file.digest:
        raise IntegrityError(
            f"{found.path} is not the file of base model {base} ({found.digest} instead of {file.digest}); give the "
            "folder with the weights that were added to the registry.",
            code="wrong_base",
        )


def other_size(place: Path, size: int, file: WeightFile, base: str) -> IntegrityError:
    """The error for a file whose size already differs."""
    return IntegrityError(
        f"{place} has {size} bytes, but that file of base model {base} has {file.size}; give the folder with the "
        "weights that were added to the registry.",
        code="wrong_base",
    )


def missing(place: Path, base: str) -> NotFoundError:
    """The error for a missing file."""
    return NotFoundError(
        f"There is no {place}; the folder with the files of base model {base} is expected.", code="missing_file"
    )
