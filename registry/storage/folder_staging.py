"""Uploads in a folder: ``staging/<32 hex>/`` contains one file per part, named by its number.

Parts come through the service only. They are written to ``tmp/`` and renamed when complete. They are not synced: damage
by a power cut is found when the joined bytes are hashed, and the client sends them again.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from registry.folders.errors import telling_unusable
from registry.storage.driver import ObjectWriter, check_key
from registry.storage.file_objects import FileWriter, start_file
from registry.storage.layout import STAGING
from registry.storage.staging import Staging, new_staging, require_parts, staging_gone, whole_part

_CHUNK: Final = 1 << 20
_NOT_EMPTY: Final = frozenset({errno.ENOTEMPTY, errno.EEXIST})


class FolderStaging:
    """The part of `FilesystemDriver` that handles uploads."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def begin_staging(self, size: int, part_size: int, digest: str) -> Staging:
        del digest
        staging = new_staging(size, part_size)
        with telling_unusable(self._root):
            self._folder(staging).mkdir(parents=True)
        return staging

    def sign_part(self, staging: Staging, number: int, expires: int) -> str | None:
        del expires
        staging.part_length(number)
        return None

    def put_part(self, staging: Staging, number: int, chunks: Iterable[bytes]) -> None:
        staging.part_length(number)
        self._require(staging)
        with start_file(self._root) as writer:
            for chunk in whole_part(staging, number, chunks):
                writer.write(chunk)
            with telling_unusable(self._root):
                try:
                    writer.put_at(self._part(staging, number))
                except FileNotFoundError as error:
                    raise staging_gone(staging) from error

    def parts(self, staging: Staging) -> dict[int, int]:
        with telling_unusable(self._root):
            try:
                sizes = {int(part.name): part.stat().st_size for part in self._folder(staging).iterdir()}
            except FileNotFoundError as error:
                raise staging_gone(staging) from error
        return dict(sorted(sizes.items()))

    def take_staging(self, staging: Staging, key: str) -> ObjectWriter:
        check_key(key)
        require_parts(staging, self.parts(staging))
        writer = start_file(self._root)
        try:
            for number in range(1, staging.part_count + 1):
                self._append(writer, staging, number)
        except BaseException:
            writer.close()
            raise
        return writer

    def made_other(self, staging: Staging, taken: ObjectWriter) -> bool:
        del staging, taken
        return False  # nobody stands between the parts and what was made of them

    def drop_staging(self, staging: Staging) -> None:
        with telling_unusable(self._root):
            _remove(self._folder(staging))

    def clear_staging(self, older_than: datetime) -> int:
        with telling_unusable(self._root):
            try:
                # A folder's mtime is that of the last part.
                found = [(folder, folder.stat().st_mtime) for folder in (self._root / STAGING).iterdir()]
            except FileNotFoundError:
                return 0
            old = [folder for folder, touched in found if datetime.fromtimestamp(touched, UTC) < older_than]
            for folder in old:
                _remove(folder)
        return len(old)

    def sign_get(self, key: str, expires: int, *, name: str | None) -> str | None:
        del expires, name
        check_key(key)
        return None

    def _folder(self, staging: Staging) -> Path:
        return self._root / staging.key

    def _part(self, staging: Staging, number: int) -> Path:
        return self._folder(staging) / str(number)

    def _require(self, staging: Staging) -> None:
        with telling_unusable(self._root):
            if not self._folder(staging).is_dir():
                raise staging_gone(staging)

    def _append(self, writer: FileWriter, staging: Staging, number: int) -> None:
        with telling_unusable(self._root):
            try:
                part = self._part(staging, number).open("rb", buffering=0)
            except FileNotFoundError as error:
                raise staging_gone(staging) from error
            with part:
                while chunk := part.read(_CHUNK):
                    writer.write(chunk)


def _remove(folder: Path) -> None:
    """Remove an upload; safe while another process removes it too, or adds one more part."""
    while folder.exists():
        for part in sorted(folder.glob("*")):
            part.unlink(missing_ok=True)
        with suppress(FileNotFoundError):
            try:
                folder.rmdir()
            except OSError as error:
                if error.errno not in _NOT_EMPTY:
                    raise
