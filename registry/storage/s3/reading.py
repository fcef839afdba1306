"""Reads objects in a bucket by range, and copies them.

Large reads take several requests, and interrupted ones are resumed. The store copies in one request or in parts; where
it can't, the bytes go through this process.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPException, HTTPResponse
from typing import Any, Final

from registry.errors import IntegrityError, NotFoundError, UnavailableError
from registry.storage.driver import ObjectReader
from registry.storage.s3.bucket import Bucket
from registry.storage.s3.connection import code_of, status_of

_PIECE: Final = 8 << 20
_AT_ONCE: Final = 8
_ATTEMPTS: Final = 4
_AT_A_TIME: Final = 256 << 10  # bytes per step: a step that breaks off is requested again


class S3Reader:
    """An object of a known size."""

    ahead = 4 * _PIECE

    def __init__(self, bucket: Bucket, key: str, size: int) -> None:
        self._bucket = bucket
        self._key = key
        self._size = size

    @property
    def size(self) -> int:
        return self._size

    def read_into(self, offset: int, buffer: memoryview) -> None:
        buffer = buffer.cast("B")
        if offset + len(buffer) > self._size:
            raise self._short(offset + len(buffer))
        pieces = range(0, len(buffer), _PIECE)
        if len(pieces) <= 1:
            self._read_piece(offset, buffer)
            return
        with ThreadPoolExecutor(min(_AT_ONCE, len(pieces)), thread_name_prefix="read") as pool:
            reads = [pool.submit(self._read_piece, offset + at, buffer[at : at + _PIECE]) for at in pieces]
            for read in reads:
                read.result()

    def close(self) -> None:
        """Nothing to release: connections belong to the driver."""

    def _read_piece(self, offset: int, buffer: memoryview) -> None:
        reason: Exception | None = None
        for _ in range(_ATTEMPTS):
            if not buffer:
                return
            count, reason = self._read_some(offset, buffer)
            buffer = buffer[count:]
            offset += count
        if buffer:
            kind = type(reason).__name__ if reason is not None else "too few bytes"
            raise UnavailableError(
                f"The store {self._bucket.place} broke the connection {_ATTEMPTS} times while sending {self._key} "
                f"({kind}): run this again later."
            ) from reason

    def _read_some(self, offset: int, buffer: memoryview) -> tuple[int, Exception | None]:
        """Request all of ``buffer``; returns how many bytes came, and the error that stopped it."""
        from botocore.exceptions import BotoCoreError
        from urllib3.exceptions import HTTPError

        try:
            body = self._ask(offset, len(buffer))
        except UnavailableError as error:
            if isinstance(error.__cause__, HTTPError):  # a broken error response, which botocore does not retry
                return 0, error.__cause__
            raise
        source = _inner(body) or body
        done = 0
        try:
            while done < len(buffer) and (count := source.readinto(buffer[done : done + _AT_A_TIME])):
                done += count
        except (BotoCoreError, HTTPError, HTTPException, OSError) as error:
            return done, error
        finally:
            if source is not body and source.isclosed():
                body._raw_stream.release_conn()  # to its pool: urllib3 has not seen the body being read to its end
            body.close()
        return done, None

    def _ask(self, offset: int, length: int) -> Any:
        wanted = f"bytes={offset}-{offset + length - 1}"
        with self._bucket.told(self._key):
            try:
                answer = self._bucket.client.get_object(**self._bucket.at(self._key), Range=wanted)
                found = int(answer["ContentLength"])
            except Exception as error:
                if status_of(error) == 416:
                    raise self._short(offset + length) from error
                raise
        if found == length:
            return answer["Body"]
        answer["Body"].close()
        if found < length:
            raise self._short(offset + length)
        raise UnavailableError(
            f"The store {self._bucket.place} sent {found} bytes where {length} were requested: it does not support "
            "ranges, or a proxy in front of it changes responses."
        )

    def _short(self, wanted: int) -> IntegrityError:
        return IntegrityError(
            f"{self._key} in {self._bucket.place} ends before byte {wanted}, but more was expected: it was truncated."
        )


def _inner(body: Any) -> HTTPResponse | None:
    """The standard library's response below botocore and urllib3, each of which copies every byte once more.

    None if they are built differently from the versions of 2026; then the body is read through them.
    """
    found = getattr(getattr(body, "_raw_stream", None), "_fp", None)
    return found if isinstance(found, HTTPResponse) else None


def open_object(bucket: Bucket, key: str) -> ObjectReader:
    """Open an object; raises `NotFoundError` if it does not exist."""
    size = bucket.size(key)
    if size is None:
        raise NotFoundError(f"There is no object {key} in {bucket.place}.")
    return S3Reader(bucket, key, size)


SINGLE_COPY: Final = 5_000_000_000
"""The largest object that S3 copies in one request, in bytes."""
COPIED_PART: Final = 256 << 20
CARRIED_PART: Final = 16 << 20
_MOST_PARTS: Final = 10_000
_COPIED_AT_ONCE: Final = 4

_Part = Callable[[str, int, int, int], str | None]
"""Makes a part (upload, number, first byte, length); None if the store can't."""


def copy_object(bucket: Bucket, source: str, target: str, size: int) -> None:
    """Copy an object of ``size`` bytes. If it raises, nothing is under ``target``."""
    if size <= SINGLE_COPY:
        with bucket.told(source, writing=True):
            bucket.connection.patient.copy_object(
                **bucket.at(target),
                CopySource=bucket.at(source),
                # Metadata that the client sent with its bytes is not copied.
                MetadataDirective="REPLACE",
                ContentType="application/octet-stream",
            )
        return
    if bucket.copies_parts:
        bucket.copies_parts = _in_parts(bucket, target, size, COPIED_PART, _by_store(bucket, source, target))
    if not bucket.copies_parts:
        _in_parts(bucket, target, size, CARRIED_PART, _carried(bucket, source, target, size))


def _in_parts(bucket: Bucket, target: str, size: int, part_size: int, make: _Part) -> bool:
    """Copy in parts; False, without effect, if the store can't make the first one."""
    part_size = max(part_size, -(-size // _MOST_PARTS))
    starts = range(0, size, part_size)
    upload = bucket.begin(target)
    try:
        first = make(upload, 1, 0, min(part_size, size))
        if first is None:
            bucket.abort(target, upload)
            return False
        tags: dict[int, str | None] = {1: first}
        with ThreadPoolExecutor(_COPIED_AT_ONCE, thread_name_prefix="copy") as pool:
            made = {
                number: pool.submit(make, upload, number, start, min(part_size, size - start))
                for number, start in enumerate(starts, start=1)
                if number > 1
            }
            try:
                tags |= {number: part.result() for number, part in made.items()}
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
        bucket.join(target, upload, {number: str(tag) for number, tag in tags.items()}, size)
    except BaseException:
        bucket.tidy(target, upload)
        raise
    return True


def _by_store(bucket: Bucket, source: str, target: str) -> _Part:
    def make(upload: str, number: int, start: int, length: int) -> str | None:
        with bucket.told(source, writing=True):
            try:
                answer = bucket.connection.patient.upload_part_copy(
                    **bucket.at(target),
                    UploadId=upload,
                    PartNumber=number,
                    CopySource=bucket.at(source),
                    CopySourceRange=f"bytes={start}-{start + length - 1}",
                )
            except Exception as error:
                if status_of(error) in {405, 501} or code_of(error) == "NotImplemented":
                    return None
                raise
        # Stores without this request take it for a part of no bytes, and answer without a copy result.
        tag = answer.get("CopyPartResult", {}).get("ETag")
        return None if tag is None else str(tag)

    return make


def _carried(bucket: Bucket, source: str, target: str, size: int) -> _Part:
    reader = S3Reader(bucket, source, size)

    def make(upload: str, number: int, start: int, length: int) -> str | None:
        part = bytearray(length)
        reader.read_into(start, memoryview(part))
        return bucket.put_part(target, upload, number, part, length)

    return make
