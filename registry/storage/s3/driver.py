"""The driver for buckets of S3 and compatible stores."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from registry.errors import UnavailableError, UsageError
from registry.storage.driver import Commit, ObjectInfo, ObjectReader, ObjectWriter, check_key
from registry.storage.layout import BLOCKS, INCOMING, RESERVED
from registry.storage.s3.bucket import Bucket
from registry.storage.s3.reading import S3Reader, open_object
from registry.storage.s3.uploads import S3Uploads, abort_uploads
from registry.storage.s3.writing import S3Object, S3Writer

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
