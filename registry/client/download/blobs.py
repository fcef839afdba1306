"""Blobs of a service as byte sources; no byte is returned before the whole blob is verified.

A digest can't be checked on a part, so the first read downloads the blob: small ones into memory, others into an
anonymous temporary file.
"""

from __future__ import annotations

import tempfile
import threading
from pathlib import Path
from typing import Final

from registry.client.download.pieces import RemoteBytes, read_checked
from registry.client.download.ranges import RangeReader
from registry.client.http.transport import Transport
from registry.digest import hex_of
from registry.errors import IntegrityError
from registry.files.source import ByteSource, BytesSource, FileSource
from registry.folders.errors import telling_unwritable
from registry.schemas.bundles import BlobEntry

_IN_MEMORY: Final = 4 << 20


class RemoteBlob:
    """A verified blob (`registry.operations.transfer.ClosableSource`); thread-safe."""

    def __init__(self, transport: Transport, file: RemoteBytes, room: Path) -> None:
        self._transport = transport
        self._file = file
        self._room = room
        self._lock = threading.Lock()
        self._here: BytesSource | FileSource | None = None

    @property
    def size(self) -> int:
        return self._file.size

    def read_into(self, offset: int, buffer: memoryview) -> None:
        with self._lock:
            if self._here is None:
                self._here = self._download()
            here: ByteSource = self._here
        here.read_into(offset, buffer)

    def _download(self) -> BytesSource | FileSource:
        try:
            return self._take()
        except IntegrityError:  # one response may be corrupt though the blob is intact
            return self._take()

    def _take(self) -> BytesSource | FileSource:
        chunks = read_checked(self._transport.lanes, self._file)
        if self.size <= _IN_MEMORY:
            return BytesSource(b"".join(chunks), self._file.path)
        with telling_unwritable(self._room):
            self._room.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=self._room, prefix=".blob-", buffering=0) as stream:
                for chunk in chunks:
                    stream.write(chunk)
                return FileSource(Path(stream.name))

    def close(self) -> None:
        with self._lock:
            if self._here is not None:
                self._here.close()
            self._here = None

    def __enter__(self) -> RemoteBlob:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def open_blob(transport: Transport, ref: str, blob: BlobEntry, room: Path) -> RemoteBlob:
    """A blob of a path's bundle; ``ref`` is the bundle's reference."""
    what = f"{blob.path} of {ref}"
    reader = RangeReader(
        transport, f"/blobs/{blob.digest}", {"ref": ref}, size=blob.size, etag=hex_of(blob.digest), what=what
    )
    return RemoteBlob(transport, RemoteBytes(what, reader, blob.digest), room)
