"""Objects in memory: for tests, and for data that must not outlive the process."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from registry.errors import NotFoundError, UsageError
from registry.files.source import BytesSource
from registry.storage.driver import Commit, ObjectInfo, ObjectReader, ObjectWriter, StoredBy, check_key, key_taken
from registry.storage.staging import Staging, new_staging, require_parts, staging_gone, whole_part


class MemoryReader(BytesSource):
    """An object's bytes; they stay readable after the object is deleted."""

    ahead = 0

    def __init__(self, data: bytes) -> None:
        super().__init__(data, "an object in memory")


class MemoryWriter:
    """An uncommitted object of `MemoryDriver`."""

    def __init__(self) -> None:
        self._data = bytearray()

    @property
    def stored_by(self) -> StoredBy:
        return "copy"

    @property
    def data(self) -> bytes:
        """All bytes written so far."""
        return bytes(self._data)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self._data += data

    def open(self) -> ObjectReader:
        return MemoryReader(self.data)

    def __enter__(self) -> MemoryWriter:
        return self

    def __exit__(self, *exc: object) -> None:
        self._data = bytearray()


@dataclass
class _Upload:
    touched: datetime
    parts: dict[int, bytes] = field(default_factory=dict)


@dataclass(frozen=True)
class _Object:
    data: bytes
    modified: datetime


class MemoryDriver:
    """Objects in a dict."""

    def __init__(self) -> None:
        self._objects: dict[str, _Object] = {}
        self._uploads: dict[str, _Upload] = {}
        self._lock = threading.Lock()

    @property
    def place(self) -> str:
        return "memory"

    def ping(self) -> None:
        """Always available."""

    def writer(self) -> ObjectWriter:
        return MemoryWriter()

    def take_file(self, file: Path, *, link: bool) -> ObjectWriter | None:
        if link:
            raise UsageError(
                f"{file} can't be linked into a store in memory: leave out the link option to store a copy."
            )
        return None

    def commit(self, commits: Sequence[Commit]) -> None:
        for one in commits:
            self._commit(check_key(one.key), one.writer)

    def _commit(self, key: str, writer: ObjectWriter) -> None:
        if not isinstance(writer, MemoryWriter):
            raise TypeError(f"a {type(writer).__name__} is no writer of this driver")
        made = _Object(writer.data, datetime.now(UTC))
        with self._lock:
            if key in self._objects:
                raise key_taken(key, self.place)
            self._objects[key] = made

    def open(self, key: str, size: int | None = None) -> ObjectReader:
        del size
        found = self._objects.get(check_key(key))
        if found is None:
            raise NotFoundError(f"There is no object {key} in memory.")
        return MemoryReader(found.data)

    def size(self, key: str) -> int | None:
        found = self._objects.get(check_key(key))
        return None if found is None else len(found.data)

    def delete(self, key: str) -> None:
        with self._lock:
            self._objects.pop(check_key(key), None)

    def objects(self, prefix: str) -> Iterator[ObjectInfo]:
        with self._lock:
            found = {key: one for key, one in self._objects.items() if key.startswith(prefix)}
        for key in sorted(found):
            yield ObjectInfo(key, len(found[key].data), found[key].modified)

    def clear_litter(self) -> int:
        return 0

    def close(self) -> None:
        """Nothing to release."""

    def begin_staging(self, size: int, part_size: int, digest: str) -> Staging:
        del digest
        staging = new_staging(size, part_size)
        with self._lock:
            self._uploads[staging.key] = _Upload(datetime.now(UTC))
        return staging

    def sign_part(self, staging: Staging, number: int, expires: int) -> str | None:
        del expires
        staging.part_length(number)
        return None

    def put_part(self, staging: Staging, number: int, chunks: Iterable[bytes]) -> None:
        self._upload(staging)
        data = b"".join(whole_part(staging, number, chunks))
        with self._lock:
            upload = self._upload(staging)
            upload.parts[number] = data
            upload.touched = datetime.now(UTC)

    def parts(self, staging: Staging) -> dict[int, int]:
        return {number: len(data) for number, data in sorted(self._upload(staging).parts.items())}

    def take_staging(self, staging: Staging, key: str) -> ObjectWriter:
        check_key(key)
        require_parts(staging, self.parts(staging))
        writer = MemoryWriter()
        for _, data in sorted(self._upload(staging).parts.items()):
            writer.write(data)
        return writer

    def made_other(self, staging: Staging, taken: ObjectWriter) -> bool:
        del staging, taken
        return False  # nobody stands between the parts and what was made of them

    def drop_staging(self, staging: Staging) -> None:
        with self._lock:
            self._uploads.pop(staging.key, None)

    def clear_staging(self, older_than: datetime) -> int:
        with self._lock:
            old = [key for key, upload in self._uploads.items() if upload.touched < older_than]
            for key in old:
                del self._uploads[key]
        return len(old)

    def sign_get(self, key: str, expires: int, *, name: str | None) -> str | None:
        del expires, name
        check_key(key)
        return None

    def _upload(self, staging: Staging) -> _Upload:
        upload = self._uploads.get(staging.key)
        if upload is None:
            raise staging_gone(staging)
        return upload
