"""The driver for buckets of S3 and compatible stores.

Clients upload by one PUT to a staging key, or by a multipart upload of the store, which is joined in place.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from hashlib import md5
from pathlib import Path
from typing import IO, Any, Final
from urllib.parse import quote

from registry.errors import IntegrityError, NotFoundError, UnavailableError, UsageError
from registry.folders.local_files import telling_unusable
from registry.storage.confirming import lost
from registry.storage.driver import (
    BLOBS,
    BLOCKS,
    INCOMING,
    RESERVED,
    STAGING,
    Commit,
    ObjectInfo,
    ObjectReader,
    ObjectWriter,
    check_key,
    new_blob_key,
)
from registry.storage.s3.bucket import Bucket
from registry.storage.s3.reading import S3Reader, copy_object, open_object
from registry.storage.s3.writing import S3Object, S3Writer
from registry.storage.staging import Staging, new_staging, require_parts, staging_gone, whole_part

_IN_MEMORY: Final = 16 << 20
_STEP: Final = 8 << 20
_MD5: Final = re.compile(r'"?[0-9a-f]{32}"?')


class S3Uploads:
    """The part of `S3Driver` that handles uploads."""

    def __init__(self, bucket: Bucket, *, proxy_blobs: bool) -> None:
        self._bucket = bucket
        self._proxy_blobs = proxy_blobs

    def begin_staging(self, size: int, part_size: int, digest: str) -> Staging:
        staging = new_staging(size, part_size)
        if size <= part_size:
            return staging
        key = new_blob_key(digest)
        return replace(staging, multipart=f"{key} {self._bucket.begin(key)}")

    def sign_part(self, staging: Staging, number: int, expires: int) -> str | None:
        # Signed, so that the store takes no other length: what comes is counted in no quota before it is committed.
        length = {"ContentLength": staging.part_length(number)}
        if staging.upload is None:
            return self._sign("put_object", expires, {**self._bucket.at(staging.key), **length})
        key, upload = staging.upload
        part = {"UploadId": upload, "PartNumber": number, **length}
        return self._sign("upload_part", expires, {**self._bucket.at(key), **part})

    def put_part(self, staging: Staging, number: int, chunks: Iterable[bytes]) -> None:
        length = staging.part_length(number)
        # A part is sent when complete, and may be retried, so it is buffered here, on disk if it is large.
        with tempfile.SpooledTemporaryFile(_IN_MEMORY) as spool:
            for chunk in whole_part(staging, number, chunks):
                with telling_unusable(Path(tempfile.gettempdir())):
                    spool.write(chunk)
            spool.seek(0)
            self._send(staging, number, spool, length)

    def parts(self, staging: Staging) -> dict[int, int]:
        if staging.upload is not None:
            found = self._bucket.parts(*staging.upload)
            if found is not None:
                return {number: part.size for number, part in sorted(found.items())}
        size = self._bucket.size(staging.joined or staging.key)
        if staging.upload is None:
            return {} if size is None else {1: size}
        if size != staging.size:
            raise staging_gone(staging)
        # The parts were joined already, by a call that was interrupted.
        return {number: staging.part_length(number) for number in range(1, staging.part_count + 1)}

    def take_staging(self, staging: Staging, key: str) -> ObjectWriter:
        check_key(key)
        tags = {} if staging.upload is None else self._join(staging, *staging.upload)
        if staging.joined is not None:
            return S3Object(self._bucket, staging.joined, staging.size, ours=False, tags=tags)
        try:
            copy_object(self._bucket, staging.key, key, staging.size)
        except NotFoundError as error:
            require_parts(staging, self.parts(staging))
            raise staging_gone(staging) from error
        with ExitStack() as undo:
            copy = undo.enter_context(S3Object(self._bucket, key, staging.size, ours=True))
            size = self._bucket.size(key)  # of the copy, which can't change any more
            if size is None:
                raise lost(self._bucket.place)
            if staging.multipart is None:
                require_parts(staging, {1: size})
            undo.pop_all()
        return copy

    def made_other(self, staging: Staging, taken: ObjectWriter) -> bool:
        if not isinstance(taken, S3Object):
            raise TypeError(f"a {type(taken).__name__} is no upload of this driver")
        with closing(taken.open()) as made:
            if staging.joined is None:
                with suppress(NotFoundError, IntegrityError), closing(open_object(self._bucket, staging.key)) as sent:
                    return _digest(made, 0, staging.size) != _digest(sent, 0, staging.size)
                return False
            if not all(map(_MD5.fullmatch, taken.tags.values())) or not self._bucket.tags_are_digests(staging.joined):
                return False
            starts = {number: (number - 1) * staging.part_size for number in taken.tags}
            return any(
                _digest(made, starts[number], staging.part_length(number)) != tag.strip('"')
                for number, tag in taken.tags.items()
            )

    def drop_staging(self, staging: Staging) -> None:
        if staging.upload is not None:
            self._bucket.abort(*staging.upload)
        if staging.joined is None:
            self._bucket.delete(staging.key)

    def clear_staging(self, older_than: datetime) -> int:
        old = [one.key for one in self._bucket.objects(STAGING) if one.modified < older_than]
        for key in old:
            self._bucket.delete(key)
        return len(old) + sum(abort_uploads(self._bucket, place, older_than) for place in (STAGING, BLOBS))

    def sign_get(self, key: str, expires: int, *, name: str | None) -> str | None:
        asked: dict[str, Any] = dict(self._bucket.at(check_key(key)))
        if name is not None:
            asked["ResponseContentDisposition"] = f"attachment; filename*=UTF-8''{quote(name, safe='')}"
        return self._sign("get_object", expires, asked)

    def _sign(self, method: str, expires: int, asked: dict[str, Any]) -> str | None:
        if self._proxy_blobs:
            return None
        with self._bucket.told():
            return str(self._bucket.connection.signer.generate_presigned_url(method, Params=asked, ExpiresIn=expires))

    def _send(self, staging: Staging, number: int, spool: IO[bytes], length: int) -> None:
        if staging.upload is None:
            self._bucket.put(staging.key, spool, length)
            return
        try:
            self._bucket.put_part(*staging.upload, number, spool, length)
        except NotFoundError as error:
            raise staging_gone(staging) from error

    def _join(self, staging: Staging, key: str, upload: str) -> dict[int, str]:
        """Complete a multipart upload, after checking that no part is missing; the tags of its parts, where known."""
        found = self._bucket.parts(key, upload)
        if found is None:
            self.parts(staging)  # joined already, or it raises
            return {}
        require_parts(staging, {number: part.size for number, part in found.items()})
        tags = {number: part.tag for number, part in found.items()}
        try:
            self._bucket.join(key, upload, tags, staging.size)
        except NotFoundError as error:
            raise staging_gone(staging) from error
        return tags


def _digest(reader: ObjectReader, start: int, length: int) -> str:
    found, stop = md5(usedforsecurity=False), start + length
    for at in range(start, stop, _STEP):
        piece = memoryview(bytearray(min(_STEP, stop - at)))
        reader.read_into(at, piece)
        found.update(piece)
    return found.hexdigest()


def abort_uploads(bucket: Bucket, prefix: str, older_than: datetime) -> int:
    """Remove multipart uploads without activity since ``older_than``; returns how many."""
    count = 0
    for key, upload, begun in list(bucket.uploads(prefix)):
        if begun >= older_than:
            continue
        parts = bucket.parts(key, upload) or {}
        if all(part.modified < older_than for part in parts.values()):
            bucket.abort(key, upload)
            count += 1
    return count


_AT_ONCE: Final = 8
LITTER_AGE: Final = timedelta(days=1)
"""How long unfinished work counts as a live writer's: a bucket has no locks that end with a process."""


class S3Driver(S3Uploads):
    """Objects in the bucket and below the prefix of ``s3://bucket/prefix``.

    The endpoint, region and credentials come from the standard AWS settings. ``public_url`` is the endpoint for
    clients, if it differs; with ``proxy_blobs`` clients can't reach the store, and nothing is signed for them.
    """

    def __init__(self, url: str, *, public_url: str | None = None, proxy_blobs: bool = False) -> None:
        super().__init__(Bucket(url, public_url), proxy_blobs=proxy_blobs)

    @property
    def place(self) -> str:
        return self._bucket.place

    def ping(self) -> None:
        self._bucket.ping()

    def writer(self) -> ObjectWriter:
        return S3Writer(self._bucket)

    def take_file(self, file: Path, *, link: bool) -> ObjectWriter | None:
        if link:
            raise UsageError(f"{file} can't be linked into {self.place}: leave out the link option to store a copy.")
        return None

    def commit(self, commits: Sequence[Commit]) -> None:
        work = [(_own(one.writer), check_key(one.key)) for one in commits]
        with ThreadPoolExecutor(max(1, min(_AT_ONCE, len(work))), thread_name_prefix="commit") as pool:
            done = [pool.submit(writer.commit_as, key) for writer, key in work]
        for one in done:
            one.result()

    def open(self, key: str, size: int | None = None) -> ObjectReader:
        return S3Reader(self._bucket, check_key(key), size) if size else open_object(self._bucket, check_key(key))

    def size(self, key: str) -> int | None:
        return self._bucket.size(check_key(key))

    def delete(self, key: str) -> None:
        self._bucket.delete(check_key(key))

    def objects(self, prefix: str) -> Iterator[ObjectInfo]:
        last = ""
        for one in self._bucket.objects(prefix):
            if one.key <= last:
                raise UnavailableError(
                    f"The store {self.place} lists {one.key} after {last}: a store that lists objects in order is "
                    "needed, which rules out directory buckets, for example."
                )
            last = one.key
            if not one.key.startswith(RESERVED):
                yield one

    def clear_litter(self) -> int:
        older_than = datetime.now(UTC) - LITTER_AGE
        old = [one.key for one in self._bucket.objects(INCOMING) if one.modified < older_than]
        for key in old:
            self._bucket.delete(key)
        # Only below the prefixes that this driver writes to: the bucket may contain more than this registry. Below
        # those of blobs are uploads by clients too, which `clear_staging` removes when they are old enough.
        return len(old) + sum(abort_uploads(self._bucket, place, older_than) for place in (INCOMING, BLOCKS))

    def close(self) -> None:
        self._bucket.connection.close()


def _own(writer: ObjectWriter) -> S3Writer | S3Object:
    if not isinstance(writer, S3Writer | S3Object):
        raise TypeError(f"a {type(writer).__name__} is no writer of this driver")
    return writer
