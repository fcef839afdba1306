"""Copies within a bucket: by the store in one request, by the store in parts, or in parts through this process."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from registry.storage.s3.bucket import Bucket
from registry.storage.s3.errors import code_of, status_of
from registry.storage.s3.reading import S3Reader

SINGLE_COPY: Final = 5_000_000_000
"""The largest object that S3 copies in one request, in bytes."""
COPIED_PART: Final = 256 << 20
CARRIED_PART: Final = 16 << 20
_MOST_PARTS: Final = 10_000
_AT_ONCE: Final = 4

_Part = Callable[[str, int, int, int], str | None]
"""Makes a part (upload, number, first byte, length); None if the store can't."""


def copy_object(bucket: Bucket, source: str, target: str, size: int) -> None:
    """Copy an object of ``size`` bytes. If it raises, there is nothing under ``target``."""
    if size <= SINGLE_COPY:
        with bucket.told(source, writing=True):
            bucket.connection.patient.copy_object(
                **bucket.at(target),
                CopySource=bucket.at(source),
                # Metadata that the client sent with its bytes is not kept.
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
        with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="copy") as pool:
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
