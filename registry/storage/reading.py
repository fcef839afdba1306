"""Blobs read by range, where no byte is handed out before its block was checked."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Final

from registry.digest import sha256_digest
from registry.errors import IntegrityError, NotFoundError
from registry.storage.blocks import BLOCK, CHUNK, DIGEST_SIZE, block_digest, list_size
from registry.storage.driver import ObjectDriver, ObjectReader
from registry.storage.layout import blocks_key
from registry.storage.place import BlobPlace
from registry.storage.streams import ObjectStream

_KEPT_BLOCKS: Final = 4
_ADVICE: Final = "restore this file from a backup, or add or publish the same files again"


def corrupt(digest: str, place: str, what: str) -> IntegrityError:
    """The error of a blob that is not what was stored; ``what`` completes "The blob ... is damaged: "."""
    return IntegrityError(f"The blob {digest} in {place} is damaged: {what}; {_ADVICE}.", code="corrupt")


class BlobReader:
    """A `registry.tensors.files.source.ByteSource` over one blob; safe for many threads.

    Blocks that a read covers whole go straight into the caller's buffer and are checked there; on a mismatch the
    buffer is cleared and the read raises `IntegrityError`. The blocks at the edges of a read are checked in a buffer
    of their own, and the last few are kept, because neighbouring reads share them.
    """

    def __init__(self, driver: ObjectDriver, place: BlobPlace, block_list: bytes | None = None) -> None:
        self._driver = driver
        self._place = place
        self._size = place.size
        self._list = block_list
        self._edges: OrderedDict[int, bytearray] = OrderedDict()
        self._lock = threading.Lock()
        self._object = self._open_object()
        # One block at a time stays in the processor's cache while it is checked; where each read is a request, more.
        self._step = max(BLOCK, self._object.ahead // BLOCK * BLOCK)

    @property
    def size(self) -> int:
        return self._size

    @property
    def ahead(self) -> int:
        """See `ObjectReader.ahead`."""
        return self._object.ahead

    def read_into(self, offset: int, buffer: memoryview) -> None:
        buffer = buffer.cast("B")
        stop = offset + len(buffer)
        if offset < 0 or stop > self._size:
            raise IntegrityError(
                f"Bytes {offset} to {stop} of the blob {self._place.digest} were asked for, but it has {self._size}."
            )
        try:
            self._read(offset, stop, buffer)
        except BaseException:
            buffer[:] = bytes(len(buffer))
            raise

    def check(self) -> None:
        """Check every block, in one pass; raises `IntegrityError`. The reader is closed then."""
        scratch = memoryview(bytearray(min(CHUNK, self._size)))
        with ObjectStream(self._object) as stream:
            for start in range(0, self._size, CHUNK):
                piece = scratch[: min(CHUNK, self._size - start)]
                with self._cut_is_damage(start, len(piece)):
                    stream.fill(piece)
                self._check_blocks(start, piece)

    def close(self) -> None:
        """Release the blob. Closing twice is allowed; reads after it fail."""
        self._object.close()
        with self._lock:
            self._edges.clear()

    def __enter__(self) -> BlobReader:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _open_object(self) -> ObjectReader:
        try:
            opened = self._driver.open(self._place.key)
        except NotFoundError as error:
            raise self._corrupt("its file is missing") from error
        if opened.size != self._size:
            opened.close()
            raise self._corrupt(f"it has {opened.size} bytes instead of {self._size}")
        return opened

    def _read(self, offset: int, stop: int, buffer: memoryview) -> None:
        at = offset
        while at < stop:
            index, skip = divmod(at, BLOCK)
            length = min(BLOCK - skip, stop - at)
            if length == self._length(index):
                whole = stop - at if stop == self._size else stop // BLOCK * BLOCK - at
                length = min(whole, self._step)
                self._read_blocks(at, buffer[at - offset : at - offset + length])
            else:
                buffer[at - offset : at - offset + length] = memoryview(self._edge(index))[skip : skip + length]
            at += length

    def _length(self, index: int) -> int:
        return min(BLOCK, self._size - index * BLOCK)

    def _edge(self, index: int) -> bytearray:
        with self._lock:
            block = self._edges.get(index)
            if block is not None:
                self._edges.move_to_end(index)
                return block
        block = bytearray(self._length(index))
        self._read_blocks(index * BLOCK, memoryview(block))
        with self._lock:
            self._edges[index] = block
            while len(self._edges) > _KEPT_BLOCKS:
                self._edges.popitem(last=False)
        return block

    def _read_blocks(self, start: int, blocks: memoryview) -> None:
        with self._cut_is_damage(start, len(blocks)):
            self._object.read_into(start, blocks)
        self._check_blocks(start, blocks)

    def _check_blocks(self, start: int, blocks: memoryview) -> None:
        for at in range(0, len(blocks), BLOCK):
            block = blocks[at : at + BLOCK]
            first = start + at
            if not self._right(first // BLOCK, block_digest(block)):
                raise self._corrupt(f"bytes {first} to {first + len(block)} are not those that were stored")

    @contextmanager
    def _cut_is_damage(self, start: int, length: int) -> Iterator[None]:
        try:
            yield
        except IntegrityError as error:
            raise self._corrupt(f"it ends before byte {start + length} of {self._size}") from error
        except NotFoundError as error:
            raise self._corrupt("its file is missing") from error

    def _right(self, index: int, found: bytes) -> bool:
        if not list_size(self._size):
            return sha256_digest(found) == self._place.blocks_digest
        at = index * DIGEST_SIZE
        return self._block_list()[at : at + DIGEST_SIZE] == found

    def _block_list(self) -> bytes:
        if self._list is None:
            # Two threads may both load it: they load the same bytes.
            self._list = load_list(self._driver, self._place)
        return self._list

    def _corrupt(self, what: str) -> IntegrityError:
        return corrupt(self._place.digest, self._driver.place, what)


def load_list(driver: ObjectDriver, place: BlobPlace) -> bytes:
    """The stored block list of a blob of several blocks, checked; raises `IntegrityError` when it is not right."""
    try:
        with closing(driver.open(blocks_key(place.key))) as opened:
            data = bytearray(list_size(place.size))
            if opened.size == len(data):
                opened.read_into(0, memoryview(data))
    except NotFoundError as error:
        raise corrupt(place.digest, driver.place, "the list of its block digests is missing") from error
    if opened.size != len(data) or sha256_digest(data) != place.blocks_digest:
        raise corrupt(place.digest, driver.place, "the list of its block digests is not the one that was stored")
    return bytes(data)
