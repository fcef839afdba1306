"""Writes objects into a bucket from this process.

Small ones are held in memory and put on commit. Larger ones go to ``incoming/<32 hex>`` in parts while they are
written, and are copied by the store to their key. Either way the object is read back before the commit is done:
checksums of stores are not relied on.
"""

from __future__ import annotations

import secrets
from collections import deque
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final

from blake3 import blake3

from registry.errors import UnavailableError
from registry.storage.confirming import DividedReader
from registry.storage.driver import INCOMING, ObjectReader, StoredBy, key_taken
from registry.storage.memory import MemoryReader
from registry.storage.s3.bucket import Bucket
from registry.storage.s3.reading import S3Reader, copy_object, open_object
from registry.storage.streams import ObjectStream

PART: Final = 16 << 20
_GROW_EVERY: Final = 2500
_AT_ONCE: Final = 4
_CHUNK: Final = 1 << 20


class S3Writer:
    """An object written by this process."""

    def __init__(self, bucket: Bucket) -> None:
        self._bucket = bucket
        self._digest = blake3()
        self._size = 0
        self._rest = bytearray()
        self._incoming: _Incoming | None = None

    @property
    def stored_by(self) -> StoredBy:
        return "copy"

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self._digest.update(data)
        self._size += len(memoryview(data).cast("B"))
        self._rest += data
        while len(self._rest) >= self._part_size():
            if self._incoming is None:
                self._incoming = _Incoming(self._bucket)
            size = self._part_size()
            self._incoming.put(self._rest[:size])
            del self._rest[:size]

    def open(self) -> ObjectReader:
        if self._incoming is None:
            return MemoryReader(bytes(self._rest))
        self._finish(self._incoming)
        return S3Reader(self._bucket, self._incoming.key, self._size)

    def commit_as(self, key: str) -> None:
        """Make the object visible under ``key``, and verify that it holds what was written."""
        if self._bucket.find(key) is not None:
            raise key_taken(key, self._bucket.place)
        try:
            with self._bucket.keeps():
                if self._incoming is None:
                    self._bucket.put(key, self._rest, self._size)
                else:
                    self._finish(self._incoming)
                    copy_object(self._bucket, self._incoming.key, key, self._size)
                first = self._read_back(key)
                again = first if first == self._digest.digest() else self._read_back(key, 1)
            self._compare(key, first, again)
        except BaseException:
            self._bucket.tidy(key)
            raise
        self.close()

    def close(self) -> None:
        """Remove what is left under ``incoming/``."""
        if self._incoming is not None:
            self._incoming.close()
            self._incoming = None
        self._rest = bytearray()

    def __enter__(self) -> S3Writer:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _part_size(self) -> int:
        return self._incoming.next_size() if self._incoming is not None else PART

    def _finish(self, incoming: _Incoming) -> None:
        if self._rest:
            incoming.put(self._rest)
            self._rest = bytearray()
        incoming.join()

    def _read_back(self, key: str, look: int = 0) -> bytes:
        found = blake3()
        scratch = memoryview(bytearray(_CHUNK))
        with ObjectStream(DividedReader(open_object(self._bucket, key), look)) as stream:
            while count := stream.fill(scratch):
                found.update(scratch[:count])
        return bytes(found.digest())

    def _compare(self, key: str, first: bytes, again: bytes) -> None:
        """Check the digests that were read back; two reads if the first was wrong, since an answer may be damaged."""
        place = self._bucket.place
        if again == self._digest.digest():
            return
        if again != first:
            raise UnavailableError(
                f"The store {place} returns different bytes each time {key} is read back, so it was removed again: "
                "check the store and the network between it and this machine, and run this again."
            )
        raise UnavailableError(
            f"The store {place} holds other bytes than were sent, so {key} was removed again: check the store and the "
            "network between it and this machine, and run this again."
        )


class S3Object:
    """An object that is under its key already. The caller reads it back.

    Args:
        bucket: where it is.
        key: its own.
        size: its bytes.
        ours: whether it is removed unless it is committed; one that was joined in place may be that of another commit.
        tags: the ETags of the parts that it was just joined of.
    """

    def __init__(
        self, bucket: Bucket, key: str, size: int, *, ours: bool, tags: Mapping[int, str] | None = None
    ) -> None:
        self.tags = tags or {}
        self._bucket = bucket
        self._key = key
        self._size = size
        self._removed = ours

    @property
    def stored_by(self) -> StoredBy:
        return "copy"

    def write(self, data: bytes | bytearray | memoryview) -> None:
        raise TypeError(f"the object {self._key} is whole: {len(data)} bytes can't be added")

    def open(self) -> ObjectReader:
        return S3Reader(self._bucket, self._key, self._size)

    def commit_as(self, key: str) -> None:
        """Keep the object."""
        if key != self._key:
            raise ValueError(f"taken for {self._key}, committed under {key}")
        self._removed = False

    def __enter__(self) -> S3Object:
        return self

    def __exit__(self, *exc: object) -> None:
        if self._removed:
            self._bucket.tidy(self._key)


class _Incoming:
    """A multipart upload, with some parts in flight."""

    def __init__(self, bucket: Bucket) -> None:
        self._bucket = bucket
        self.key = INCOMING + secrets.token_hex(16)
        self._upload: str | None = bucket.begin(self.key)
        self._tags: dict[int, str] = {}
        self._number = 0
        self._size = 0
        self._going: deque[Future[None]] = deque()
        self._pool = ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="put")

    def next_size(self) -> int:
        """Bytes of the next part: at most 10,000 parts are allowed, so parts grow as their number does."""
        return PART << 2 * (self._number // _GROW_EVERY)

    def put(self, part: bytearray) -> None:
        """Send a part; blocks while too many are in flight."""
        while len(self._going) >= _AT_ONCE:
            self._going.popleft().result()
        self._number += 1
        self._size += len(part)
        self._going.append(self._pool.submit(self._send, self._number, part))

    def join(self) -> None:
        """Make an object of the parts. Idempotent."""
        if self._upload is None:
            return
        while self._going:
            self._going.popleft().result()
        with self._bucket.keeps():
            self._bucket.join(self.key, self._upload, self._tags, self._size)
        self._upload = None

    def close(self) -> None:
        """Remove the upload and its object."""
        self._pool.shutdown(cancel_futures=True)
        self._bucket.tidy(self.key, self._upload)

    def _send(self, number: int, part: bytearray) -> None:
        assert self._upload is not None
        with self._bucket.keeps():
            self._tags[number] = self._bucket.put_part(self.key, self._upload, number, part, len(part))
