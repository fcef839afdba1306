"""Bytes of one remote file by range: where the connection broke, the rest is asked for, and never more than asked.

A service may send a reader on to a store by a presigned URL. It is used until the store refuses it, then the service
is asked for a new one. Somebody in between may answer in place of either, such as the login page of a network: what the
service says counts only with its protocol and the file's ETag, and bytes only with the extent that was asked for.
"""

from __future__ import annotations

import re
import threading
from typing import Final

import httpx

from registry.client.address import has_host
from registry.client.patience import Attempts, retry_after
from registry.client.problems import lasting, stranger, unreachable
from registry.client.transport import Params, Transport
from registry.errors import IntegrityError, RegistryError, UnavailableError
from registry.wire import API

_CONTENT_RANGE: Final = re.compile(r"bytes (\d+)-(\d+)/(\d+)")
_MOVED: Final = frozenset({302, 303, 307, 308})
_PASSING: Final = frozenset({408, 429, 500, 502, 503, 504})


class RangeReader:
    """A `registry.tensors.files.source.ByteSource` over one file of a service. Its bytes are not checked here."""

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
            raise IntegrityError(f"Bytes {offset} to {stop} of {self._what} were asked for, but it has {self._size}.")
        attempts = self._transport.attempts()
        got = 0
        while got < len(buffer):
            got += self._try(offset + got, buffer[got:], attempts)

    def _try(self, offset: int, buffer: memoryview, attempts: Attempts) -> int:
        """Read as far as the connection holds; how far it held."""
        url = self._store_url
        got = 0
        try:
            headers, params = self._asked(offset, buffer, url), self._params if url is None else None
            with self._transport.stream(url or self._url, headers, params) as answer:
                if not self._begins(answer, offset, len(buffer), url, attempts):
                    return 0
                for chunk in answer.iter_raw():
                    if got + len(chunk) > len(buffer):
                        raise self._strange(f"more than the {len(buffer)} bytes that were asked for", url)
                    buffer[got : got + len(chunk)] = chunk
                    got += len(chunk)
                    attempts.progressed()
                    if self._transport.over.is_set():
                        raise UnavailableError(f"The connection to {self._transport.url} was closed meanwhile.")
        except httpx.HTTPError as problem:
            failure = unreachable(self._transport.url if url is None else _host(url), problem)
            if lasting(problem) or not (got or attempts.wait()):
                raise failure from problem
        else:
            if got < len(buffer) and not attempts.wait():
                raise self._strange(f"{got} bytes instead of {len(buffer)}", url)
        return got

    def _asked(self, offset: int, buffer: memoryview, url: str | None) -> dict[str, str]:
        headers = {"Range": f"bytes={offset}-{offset + len(buffer) - 1}"}
        # Stores differ in what they make of If-Range; their objects are never overwritten, and ETags are compared.
        return headers | {"If-Range": self._etag} if url is None else headers

    def _begins(self, answer: httpx.Response, offset: int, length: int, url: str | None, attempts: Attempts) -> bool:
        """Whether the body that follows is what was asked for; False: ask again."""
        if url is None:
            return self._from_service(answer, offset, length, attempts)
        if answer.status_code not in (200, 206):
            return self._refused(answer, attempts)
        self._check_extent(answer, offset, length, url)
        etag = answer.headers.get("etag")
        if etag is not None:
            if self._store_etag is not None and etag != self._store_etag:
                raise self._strange("another file than before", url)
            self._store_etag = etag
        return True

    def _from_service(self, answer: httpx.Response, offset: int, length: int, attempts: Attempts) -> bool:
        """The same for an answer of the service, which shows by its headers that it is one, and of this very file."""
        if stranger(self._transport.url, answer) is None:
            moved = answer.status_code in _MOVED and "location" in answer.headers
            if moved or answer.status_code in (200, 206):
                self._check_etag(answer)
            if moved:
                self._sent_on(answer)
                return False
            if answer.status_code in (200, 206):
                self._check_extent(answer, offset, length, None)
                return True
        error, pause, may_pass = self._transport.fault(answer)
        if error is None:
            raise self._strange(f"HTTP {answer.status_code}")
        if not (may_pass and attempts.wait(pause)):
            raise error
        return False

    def _check_extent(self, answer: httpx.Response, offset: int, length: int, url: str | None) -> None:
        """Check that the body is said to be the bytes that were asked for; a page of somebody else is not."""
        said = answer.headers.get("content-range")
        if said is not None:  # some stores say 200 to a range
            match = _CONTENT_RANGE.fullmatch(said)
            if match is None or tuple(map(int, match.groups())) != (offset, offset + length - 1, self._size):
                expected = f"{offset}-{offset + length - 1}/{self._size}"
                raise self._strange(f"the range {said!r} instead of bytes {expected}", url)
        elif answer.status_code == 206:
            raise self._strange("HTTP 206 and not which range", url)
        elif answer.headers.get("content-length") != str(self._size):
            what = f"{answer.headers.get('content-length', 'an unknown number of')} bytes"
            kind = answer.headers.get("content-type", "no type")
            raise self._strange(f"{what} ({kind}) instead of the {self._size}", url)
        elif length != self._size:
            raise self._strange("the whole file instead of a range; a proxy on the way may not pass ranges on", url)

    def _check_etag(self, answer: httpx.Response) -> None:
        etag = answer.headers.get("etag")
        if etag is None:
            raise self._strange("no ETag, which a proxy on the way may have taken out, with the bytes")
        if etag != self._etag:
            raise self._strange(f"another file ({etag} instead of {self._etag})")

    def _sent_on(self, answer: httpx.Response) -> None:
        """Note where the bytes are."""
        try:
            url = str(answer.url.join(answer.headers["location"]))
        except httpx.InvalidURL:
            url = ""
        if not has_host(url):
            raise self._strange("an address that is none")
        with self._lock:
            self._store_url = url

    def _refused(self, answer: httpx.Response, attempts: Attempts) -> bool:
        """The store does not give the bytes: the URL is too old, or the store has a bad moment."""
        with self._lock:
            self._store_url = None
        pause = retry_after(answer.headers)
        hopeful = answer.status_code in _PASSING or answer.status_code in (400, 401, 403, 404)
        if not (hopeful and attempts.wait(pause)):
            raise UnavailableError(
                f"The store of {self._transport.url} at {_host(str(answer.url))} does not give {self._what} "
                f"(HTTP {answer.status_code}); tell its operator."
            )
        return False

    def _strange(self, what: str, url: str | None = None) -> RegistryError:
        who = self._transport.url if url is None else _host(url)
        return IntegrityError(f"{who} sent {what} of {self._what}; fetch it again.")


def _host(url: str) -> str:
    """A URL without its path and its signature."""
    parts = httpx.URL(url)
    return f"{parts.scheme}://{parts.netloc.decode('ascii')}"
