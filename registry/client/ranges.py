"""Ranges of a service's files, and whole blobs as byte sources.

A range read resumes where the connection broke, and never transfers more than the caller requested. A service may
redirect to a store by a presigned URL, which is used until it is refused; then a new one is requested from the service.
A middlebox (such as a captive portal) may answer for either: a service's response counts only with its protocol header
and the file's ETag, and bytes only with the requested extent.

No byte of a blob is returned before the whole blob is verified. A digest can't be checked on a part, so the first read
downloads the blob: small ones into memory, others into an anonymous temporary file.
"""

from __future__ import annotations

import re
import tempfile
import threading
from pathlib import Path
from typing import Final

import httpx

from registry.client.addresses import has_host
from registry.client.direct import reading
from registry.client.download import RemoteBytes, read_checked
from registry.client.errors import Attempts, foreign_answer, is_permanent, retry_after, unreachable
from registry.client.transport import Params, Transport
from registry.digest import hex_of
from registry.errors import IntegrityError, RegistryError, UnavailableError
from registry.files.source import ByteSource, BytesSource, FileSource
from registry.folders.local_files import telling_unwritable
from registry.schemas.protocol import API
from registry.schemas.transfer import BlobEntry

_CONTENT_RANGE: Final = re.compile(r"bytes (\d+)-(\d+)/(\d+)")
_MOVED: Final = frozenset({302, 303, 307, 308})
_STEP: Final = 256 << 10  # what breaks off within a step is requested again
_PASSING: Final = frozenset({408, 429, 500, 502, 503, 504})


class RangeReader:
    """A `registry.files.source.ByteSource` over one file of a service. Its bytes are not verified here."""

    def __init__(self, transport: Transport, path: str, params: Params, *, size: int, etag: str, what: str) -> None:
        self._transport = transport
        self._url = transport.url + API + path
        self._params = params
        self._size = size
        self._etag = f'"{etag}"'
        self._what = what
        self._lock = threading.Lock()
        self._store_url: str | None = None
        self._store_etag: str | None = None

    @property
    def size(self) -> int:
        return self._size

    def read_into(self, offset: int, buffer: memoryview) -> None:
        buffer = buffer.cast("B")
        if offset < 0 or offset + len(buffer) > self._size:
            stop = offset + len(buffer)
            raise IntegrityError(f"Bytes {offset} to {stop} of {self._what} were requested, but it has {self._size}.")
        attempts = self._transport.attempts()
        got = 0
        while got < len(buffer):
            got += self._try(offset + got, buffer[got:], attempts)

    def close(self) -> None:
        """Nothing to release."""

    def _try(self, offset: int, buffer: memoryview, attempts: Attempts) -> int:
        """Read until the connection breaks; returns the number of bytes."""
        url = self._store_url
        got = 0
        try:
            headers, params = self._request(offset, buffer, url), self._params if url is None else None
            with self._transport.stream(url or self._url, headers, params) as answer:
                if not self._check_start(answer, offset, len(buffer), url, attempts):
                    return 0
                read, more = reading(answer), memoryview(bytearray(1))
                while count := read(buffer[got : got + _STEP] or more):
                    if got == len(buffer):
                        raise self._foreign(f"more than the {len(buffer)} bytes that were requested", url)
                    got += count
                    attempts.reset()
                    if self._transport.over.is_set():
                        raise UnavailableError(f"The connection to {self._transport.url} was closed in the meantime.")
        except httpx.HTTPError as problem:
            failure = unreachable(self._transport.url if url is None else _host(url), problem)
            if is_permanent(problem) or not (got or attempts.wait()):
                raise failure from problem
        else:
            if got < len(buffer) and not attempts.wait():
                raise self._foreign(f"{got} bytes instead of {len(buffer)}", url)
        return got

    def _request(self, offset: int, buffer: memoryview, url: str | None) -> dict[str, str]:
        headers = {"Range": f"bytes={offset}-{offset + len(buffer) - 1}"}
        # Stores differ in what they make of If-Range; their objects are never overwritten, and ETags are compared.
        return headers | {"If-Range": self._etag} if url is None else headers

    def _check_start(
        self, answer: httpx.Response, offset: int, length: int, url: str | None, attempts: Attempts
    ) -> bool:
        """Whether the body that follows is the requested one; False: retry."""
        if url is None:
            return self._from_service(answer, offset, length, attempts)
        if answer.status_code not in (200, 206):
            return self._refused(answer, attempts)
        self._check_extent(answer, offset, length, url)
        etag = answer.headers.get("etag")
        if etag is not None:
            if self._store_etag is not None and etag != self._store_etag:
                raise self._foreign("another file than before", url)
            self._store_etag = etag
        return True

    def _from_service(self, answer: httpx.Response, offset: int, length: int, attempts: Attempts) -> bool:
        """The same for a response of the service: its headers have to name the protocol and this very file."""
        if foreign_answer(self._transport.url, answer) is None:
            moved = answer.status_code in _MOVED and "location" in answer.headers
            if moved or answer.status_code in (200, 206):
                self._check_etag(answer)
            if moved:
                self._note_redirect(answer)
                return False
            if answer.status_code in (200, 206):
                self._check_extent(answer, offset, length, None)
                return True
        error, pause, may_pass = self._transport.failure(answer)
        if error is None:
            raise self._foreign(f"HTTP {answer.status_code}")
        if not (may_pass and attempts.wait(pause)):
            raise error
        return False

    def _check_extent(self, answer: httpx.Response, offset: int, length: int, url: str | None) -> None:
        """Check that the response declares the requested range."""
        said = answer.headers.get("content-range")
        if said is not None:  # some stores answer a range with 200
            match = _CONTENT_RANGE.fullmatch(said)
            if match is None or tuple(map(int, match.groups())) != (offset, offset + length - 1, self._size):
                expected = f"{offset}-{offset + length - 1}/{self._size}"
                raise self._foreign(f"the range {said!r} instead of bytes {expected}", url)
        elif answer.status_code == 206:
            raise self._foreign("HTTP 206 without saying which range", url)
        elif answer.headers.get("content-length") != str(self._size):
            what = f"{answer.headers.get('content-length', 'an unknown number of')} bytes"
            kind = answer.headers.get("content-type", "no type")
            raise self._foreign(f"{what} ({kind}) instead of the {self._size}", url)
        elif length != self._size:
            raise self._foreign(
                "the whole file instead of a range; a proxy in between may not support range requests", url
            )

    def _check_etag(self, answer: httpx.Response) -> None:
        etag = answer.headers.get("etag")
        if etag is None:
            raise self._foreign("the bytes without an ETag, which a proxy in between may have removed")
        if etag != self._etag:
            raise self._foreign(f"another file ({etag} instead of {self._etag})")

    def _note_redirect(self, answer: httpx.Response) -> None:
        try:
            url = str(answer.url.join(answer.headers["location"]))
        except httpx.InvalidURL:
            url = ""
        if not has_host(url):
            raise self._foreign("an invalid address")
        with self._lock:
            self._store_url = url

    def _refused(self, answer: httpx.Response, attempts: Attempts) -> bool:
        """The store refuses: the signature has expired, or it is overloaded."""
        with self._lock:
            self._store_url = None
        pause = retry_after(answer.headers)
        hopeful = answer.status_code in _PASSING or answer.status_code in (400, 401, 403, 404)
        if not (hopeful and attempts.wait(pause)):
            raise UnavailableError(
                f"The store of {self._transport.url} at {_host(str(answer.url))} refused to send {self._what} (HTTP "
                f"{answer.status_code}); tell its operator."
            )
        return False

    def _foreign(self, what: str, url: str | None = None) -> RegistryError:
        who = self._transport.url if url is None else _host(url)
        return IntegrityError(f"{who} sent {what} of {self._what}; fetch it again.")


def _host(url: str) -> str:
    """A URL without path and signature."""
    parts = httpx.URL(url)
    return f"{parts.scheme}://{parts.netloc.decode('ascii')}"


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
