"""Remembers where this machine has the files of base models: folders that were added, or merged on before.

A remembered folder is a hint. Its files count only after hashing; a cached digest is reused while the file's stamp is
the same, if stamps are reliable there (`registry.files.hashed`). Whoever reads the files later checks the stamp again.
"""

from __future__ import annotations

import json
import os
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from registry.errors import RegistryError
from registry.files.hashed import HashedFile, Stamp, hash_file
from registry.files.opened import lock_folder
from registry.folders.base_files import WeightFile, check_digest, missing, other_size
from registry.folders.local_files import unreadable
from registry.progress import Progress
from registry.schemas.bundles import BaseEntry, BlobEntry

_FILE: Final = ".base-folders.json"  # hidden, so that it is not taken for a fetched folder of the cache
_FORMAT: Final = 1
_KEPT: Final = 1000


@dataclass
class _Notes:
    folders: dict[str, list[str]] = field(default_factory=dict)  # files digest of a base -> folders, newest first
    digests: dict[str, list[Any]] = field(default_factory=dict)  # file -> [stamp, digest]


class BaseFolders:
    """The folders remembered in the cache of one machine."""

    def __init__(self, cache: Path) -> None:
        self._cache = cache
        self._digests: dict[str, list[Any]] = {}  # computed, but not saved yet

    def check(self, folder: Path, base: BaseEntry, progress: Progress) -> dict[str, HashedFile]:
        """The weight files of a base model in a folder, by name, as of this check.

        Raises:
            NotFoundError: a file is missing.
            IntegrityError: ``wrong_base``: a file has other bytes.
            UnavailableError: a file can't be read.
        """
        folder = folder.expanduser().absolute()
        wanted = weights_of(base)
        files = {}
        progress.begin("Checking the base model", sum(blob.size for blob in wanted))
        notes = self._read()
        for blob in wanted:
            found = self._hashed(folder / blob.path, notes, blob, base.summary.name, progress)
            check_digest(found, _wanted(blob), base.summary.name)
            files[blob.path] = found
        return files

    @property
    def empty(self) -> bool:
        return not self._read().folders

    def remember(self, base_files: str, folder: Path) -> None:
        """Record that a folder has a base model's files; ``base_files`` is the digest of their list."""
        place = str(folder.expanduser().absolute())

        def note(notes: _Notes) -> None:
            others = [other for other in notes.folders.get(base_files, []) if other != place]
            notes.folders[base_files] = [place, *others][:4]

        self._change(note)

    def find(self, base: BaseEntry, progress: Progress) -> tuple[Path, dict[str, HashedFile]] | None:
        """A remembered folder that still has a base model's weights, and its files; None if there is none."""
        for place in self._read().folders.get(base.files_digest, []):
            folder = Path(place)
            try:
                if all((folder / blob.path).is_file() for blob in weights_of(base)):
                    return folder, self.check(folder, base, progress)
            except (RegistryError, OSError):
                continue  # changed or unreadable: no copy of this base any more
        return None

    def _hashed(self, file: Path, notes: _Notes, blob: BlobEntry, base: str, progress: Progress) -> HashedFile:
        try:
            stamp = Stamp.of(file.stat())
            if stamp.size != blob.size:
                raise other_size(file, stamp.size, _wanted(blob), base)
            known = notes.digests.get(str(file))
            if known is not None and known[0] == list(stamp):
                progress.advance(blob.size)
                return HashedFile(file, str(known[1]), stamp, settled=True)
            hashed = hash_file(file, progress)
        except FileNotFoundError:
            raise missing(file, base) from None
        except OSError as problem:
            raise unreadable(file, problem) from problem
        if hashed.settled:
            self._digests[str(file)] = [list(hashed.stamp), hashed.digest]
            self._change(lambda _notes: None)
        return hashed

    def _read(self) -> _Notes:
        """The saved notes; empty if they can't be read, which only costs a pass over the files."""
        try:
            document = json.loads((self._cache / _FILE).read_bytes())
            if document["format"] != _FORMAT:
                return _Notes()
            notes = _Notes(dict(document["folders"]), dict(document["digests"]))
        except (OSError, ValueError, KeyError, TypeError):
            return _Notes()
        notes.digests |= self._digests
        return notes

    def _change(self, change: Any) -> None:
        """Change the notes under a lock; if they can't be written, nothing is remembered."""
        try:
            self._cache.mkdir(parents=True, exist_ok=True)
            lock = lock_folder(self._cache)
            try:
                notes = self._read()
                change(notes)
                notes.digests = dict(list((notes.digests | self._digests).items())[-_KEPT:])
                document = {"format": _FORMAT, "folders": notes.folders, "digests": notes.digests}
                self._write(json.dumps(document))
            finally:
                lock.close()
        except OSError:
            return

    def _write(self, text: str) -> None:
        """Replace the file atomically, leaving nothing else behind on failure."""
        descriptor, name = tempfile.mkstemp(dir=self._cache, prefix=_FILE)
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
                stream.write(text)
            Path(name).replace(self._cache / _FILE)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise


def _wanted(blob: BlobEntry) -> WeightFile:
    return WeightFile(blob.path, blob.size, blob.digest)


def weights_of(base: BaseEntry) -> list[BlobEntry]:
    """The files that contain a base model's weights."""
    return [blob for blob in base.files if blob.path.endswith(".safetensors")]
