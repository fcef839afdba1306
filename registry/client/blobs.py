"""Blobs of a service as bytes by range, none of which is handed out before all were checked.

A digest can't be checked on a part, so a blob comes as a whole at the first read: small ones into memory, others into
a file without a name, which is gone when it is closed.
"""

from __future__ import annotations

import tempfile
import threading
from pathlib import Path
from typing import Final

from registry.client.downloads import RemoteBytes, read_checked
from registry.client.ranges import RangeReader
from registry.client.transport import Transport
from registry.digest import hex_of
from registry.errors import IntegrityError
from registry.folders.refusals import telling_unwritable
from registry.tensors.files.source import ByteSource, FileSource
from registry.wire import BlobEntry

_IN_MEMORY: Final = 4 << 20


class RemoteBlob:
    """A checked blob (`registry.services.transfer.ClosableSource`); safe for many threads."""

    def __init__(self, transport: Transport, file: RemoteBytes, room: Path) -> None:
        self._transport = transport
        self._file = file
        self._room = room
        self._lock = threading.Lock()
        self._here: _Held | FileSource | None = None

    @property
    def size(self) -> int:
        return self._file.size

    def read_into(self, offset: int, buffer: memoryview) -> None:
        with self._lock:
            if self._here is None:
                self._here = self._bring()
            here: ByteSource = self._here
        here.read_into(offset, buffer)

    def _bring(self) -> _Held | FileSource:
        chunks = read_checked(self._transport.lanes, self._file)
        if self.size <= _IN_MEMORY:
            return _Held(self._file.path, b"".join(chunks))
        with telling_unwritable(self._room):
            self._room.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=self._room, prefix=".blob-", buffering=0) as stream:
                for chunk in chunks:
                    stream.write(chunk)
                return FileSource(Path(stream.name))

    def close(self) -> None:
        with self._lock:
            if isinstance(self._here, FileSource):
                self._here.close()
            self._here = None

    def __enter__(self) -> RemoteBlob:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class _Held:
    """Bytes in memory as a source."""

    def __init__(self, path: str, data: bytes) -> None:
        self._path = path
        self._data = data

    @property
    def size(self) -> int:
        return len(self._data)

    def read_into(self, offset: int, buffer: memoryview) -> None:
        stop = offset + len(buffer)
        if offset < 0 or stop > len(self._data):
            raise IntegrityError(f"Bytes {offset} to {stop} of {self._path} were asked for, it has {len(self._data)}.")
        buffer[:] = self._data[offset:stop]


def open_blob(transport: Transport, ref: str, blob: BlobEntry, room: Path) -> RemoteBlob:
    """A blob of a path's bundle; ``ref`` is the bundle's reference."""
    what = f"{blob.path} of {ref}"
    reader = RangeReader(
        transport, f"/blobs/{blob.digest}", {"ref": ref}, size=blob.size, etag=hex_of(blob.digest), what=what
    )
    return RemoteBlob(transport, RemoteBytes(what, reader, blob.digest), room)
