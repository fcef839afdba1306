"""Adds and publishes from this machine: the service checks everything else first, then missing files are uploaded.

Parts of several files travel in parallel, and an earlier attempt is resumed. An upload is opened by the digest of its
bytes; the service returns an open one with the parts that it has. Parts go to the store by presigned URLs, or, without
such URLs, through the service.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import httpx

from registry.client.calls import do
from registry.client.errors import Attempts, is_permanent, retry_after, unreachable
from registry.client.transport import Transport
from registry.errors import IntegrityError, NotFoundError, RegistryError, UnavailableError
from registry.files.hashed import HashedFile
from registry.files.source import ByteSource, FileSource, read_range
from registry.folders.local_files import ErrorMapping, unreadable
from registry.operations.table import COMMIT_BASE, COMMIT_PUBLISH, PLAN_BASE, PLAN_PUBLISH
from registry.operations.transfer import sent_and_committed
from registry.progress import SILENT, Progress
from registry.schemas import BaseAdded, Published
from registry.schemas.protocol import API
from registry.schemas.transfer import BaseCommit, PublishCommit, PublishPlan, PublishRequest, Upload, UploadRequest
from registry.transfer.publish_request import PublishFolder
from registry.transfer.source import BaseFolder

_CHUNK: Final = 1 << 20
_EXPIRED: Final = frozenset({400, 401, 403, 404})  # 404: another commit of the same bytes may have used the upload
_PASSING: Final = frozenset({408, 409, 429, 500, 502, 503, 504})
_BEGINNINGS: Final = 3
"""Attempts to upload the bytes of one digest: the service drops uploads without activity."""


@dataclass
class _UnderWay:
    digest: str
    source: ByteSource
    upload: Upload
    parts: list[Future[None]] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def length(self, number: int) -> int:
        """Bytes of a part."""
        return max(0, min(self.upload.part_size, self.upload.size - (number - 1) * self.upload.part_size))


class Uploads:
    """The uploads of one publish, or of one copied blob."""

    def __init__(self, transport: Transport, progress: Progress) -> None:
        self._transport = transport
        self._progress = progress
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._reached: dict[tuple[str, int], int] = {}  # (digest, part) -> bytes counted as progress

    def send(self, sources: Iterable[tuple[str, ByteSource]]) -> dict[str, str]:
        """Upload the bytes of each digest; returns upload ids by digest."""
        sent: dict[str, str] = {}
        waiting = list(sources)
        for left in reversed(range(_BEGINNINGS)):
            forgotten = []
            for upload in [self._begin(digest, source) for digest, source in waiting]:
                try:
                    self._finish(upload)
                    sent[upload.digest] = upload.upload.id
                except NotFoundError:
                    if not left:
                        raise
                    forgotten.append((upload.digest, upload.source))
            waiting = forgotten
        return sent

    def _begin(self, digest: str, source: ByteSource) -> _UnderWay:
        upload = self._transport.send("POST", "/uploads", Upload, UploadRequest(digest=digest, size=source.size))
        under_way = _UnderWay(digest, source, upload)
        # In ascending order: some stores join parts faster then.
        for number in range(1, upload.parts + 1):
            if number in upload.there:
                self._reach(under_way, number, under_way.length(number))
            else:
                under_way.parts.append(self._transport.lanes.submit(self._part, under_way, number))
        return under_way

    def _finish(self, under_way: _UnderWay) -> None:
        try:
            for part in under_way.parts:
                part.result()
        except BaseException as problem:
            if not isinstance(problem, NotFoundError):
                self._stop.set()
            for part in under_way.parts:
                part.cancel()
            raise

    def _part(self, under_way: _UnderWay, number: int) -> None:
        """Send one part, with retries."""
        attempts = self._transport.attempts()
        while not self._stop.is_set():
            presigned = self._presigned(under_way, number)
            if number in under_way.upload.there:  # another process sent the same bytes
                self._reach(under_way, number, under_way.length(number))
                return
            url = presigned or f"{self._transport.url}{API}/uploads/{under_way.upload.id}/parts/{number}"
            try:
                answer = self._transport.put(url, lambda: self._chunks(under_way, number), under_way.length(number))
            except httpx.HTTPError as problem:
                if is_permanent(problem) or not attempts.wait():
                    raise unreachable(self._transport.url if presigned is None else _host(url), problem) from problem
                continue
            if answer.is_success and (presigned or self._transport.failure(answer)[0] is None):
                return
            if presigned is None:
                self._refused(answer, attempts)
            else:
                self._refused_by_store(under_way, answer, attempts)

    def _presigned(self, under_way: _UnderWay, number: int) -> str | None:
        """The presigned URL for a part; None: it goes to the service. Only the next few parts are signed at once."""
        with under_way.lock:
            if under_way.upload.urls and number not in under_way.upload.urls:
                under_way.upload = self._transport.get(f"/uploads/{under_way.upload.id}", Upload)
            return under_way.upload.urls.get(number)

    def _refused(self, answer: httpx.Response, attempts: Attempts) -> None:
        """Wait for a retry; raises the error if a retry can't help."""
        error, pause, may_pass = self._transport.failure(answer)
        if error is not None and not (may_pass and attempts.wait(pause)):
            raise error

    def _refused_by_store(self, under_way: _UnderWay, answer: httpx.Response, attempts: Attempts) -> None:
        """The same for a store: its URLs expire, and the service signs new ones."""
        status = answer.status_code
        if not ((status in _EXPIRED or status in _PASSING) and attempts.wait(retry_after(answer.headers))):
            raise UnavailableError(
                f"The store of {self._transport.url} at {_host(str(answer.url))} refused the bytes (HTTP {status}); "
                "tell its operator."
            )
        if status in _EXPIRED:
            under_way.upload = self._transport.get(f"/uploads/{under_way.upload.id}", Upload)

    def _chunks(self, under_way: _UnderWay, number: int) -> Iterator[bytes]:
        start, length = (number - 1) * under_way.upload.part_size, under_way.length(number)
        for at in range(0, length, _CHUNK):
            if self._stop.is_set():
                raise _StoppedError
            stop = min(at + _CHUNK, length)
            yield bytes(read_range(under_way.source, start + at, start + stop))
            self._reach(under_way, number, stop)

    def _reach(self, under_way: _UnderWay, number: int, count: int) -> None:
        """Count the bytes of a part as progress once, however often they are sent."""
        with self._lock:
            before = self._reached.get((under_way.digest, number), 0)
            if count > before:
                self._reached[under_way.digest, number] = count
                self._progress.advance(count - before)


class _StoppedError(Exception):
    """Another part failed, so this one is abandoned."""


def _host(url: str) -> str:
    """A URL without its path and signature."""
    parts = httpx.URL(url)
    return f"{parts.scheme}://{parts.netloc.decode('ascii')}"


_OPEN_AT_ONCE: Final = 64


def plan_publish(transport: Transport, request: PublishRequest) -> PublishPlan:
    """Let the service check everything but the weights."""
    return do(transport, PLAN_PUBLISH, request, SILENT)


def publish_folder(transport: Transport, folder: PublishFolder, progress: Progress) -> Published:
    """Publish a local adapter."""
    watched = _Watched(folder.hashed)
    plan = plan_publish(transport, folder.request)
    return sent_and_committed(
        lambda: watched.send(transport, plan.missing, progress),
        lambda sent: do(transport, COMMIT_PUBLISH, PublishCommit(request=folder.request, uploads=dict(sent)), progress),
    )


def add_base_folder(transport: Transport, folder: BaseFolder, progress: Progress) -> BaseAdded:
    """Add a local base model."""
    watched = _Watched(folder.hashed)
    plan = do(transport, PLAN_BASE, folder.request, progress)
    return sent_and_committed(
        lambda: watched.send(transport, plan.missing, progress),
        lambda sent: do(transport, COMMIT_BASE, BaseCommit(request=folder.request, uploads=dict(sent)), progress),
    )


@dataclass(frozen=True)
class _Watched:
    """Hashed files, by digest. A file that changed after hashing raises an error, until it has been sent."""

    hashed: Mapping[str, HashedFile]

    def send(self, transport: Transport, missing: Sequence[str], progress: Progress) -> dict[str, str]:
        """Upload what the service lacks; returns upload ids by digest."""
        digests = list(dict.fromkeys(missing))
        if unknown := [digest for digest in digests if digest not in self.hashed]:
            raise IntegrityError(
                f"{transport.url} requests {unknown[0]}, which is not one of the files that were announced."
            )
        if not digests:
            return {}
        progress.begin("Uploading", sum(self.hashed[digest].stamp.size for digest in digests))
        uploads = Uploads(transport, progress)
        sent: dict[str, str] = {}
        for first in range(0, len(digests), _OPEN_AT_ONCE):
            with ExitStack() as opened:
                batch = digests[first : first + _OPEN_AT_ONCE]
                sent |= uploads.send([(digest, opened.enter_context(self._open(digest))) for digest in batch])
            for digest in batch:
                self._check(digest)
        return sent

    def _open(self, digest: str) -> FileSource:
        self._check(digest)
        file = self.hashed[digest].path
        with ErrorMapping(_unreadable, file):
            return FileSource(file)

    def _check(self, digest: str) -> None:
        hashed = self.hashed[digest]
        with ErrorMapping(_unreadable, hashed.path):
            same = hashed.passes(hashed.path)
        if not same:
            raise _changed(hashed.path)


def _changed(file: Path) -> IntegrityError:
    return IntegrityError(
        f"{file} was changed while it was read; wait until nothing writes to it and run this again.",
        code="upload_mismatch",
    )


def _unreadable(file: Path, problem: OSError) -> RegistryError:
    if isinstance(problem, FileNotFoundError):
        return _changed(file)
    return unreadable(file, problem)
