"""Reads blobs by range, and hashes whole objects; no byte is returned before its block is verified.

Damage is confirmed by a second, different way of reading.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from contextlib import closing
from functools import partial
from typing import Final

from registry.digest import BlobRef, sha256_digest
from registry.errors import IntegrityError, NotFoundError
from registry.files.hashed import CHUNK
from registry.storage.confirming import DividedReader, Finding, Look, T, confirmed, keeps, otherwise_each_time, told_of
from registry.storage.driver import ObjectDriver, ObjectReader, ObjectWriter, blocks_key
from registry.storage.streams import (
    BLOCK,
    DIGEST_SIZE,
    Digests,
    ObjectStream,
    block_digest,
    block_digests,
    digest_pass,
    list_size,
)

_KEPT_BLOCKS: Final = 4
_AT_ONCE: Final = 4 * BLOCK
_MISSING: Final = Finding("its file is missing")


class BlobReader:
    """A `registry.files.source.ByteSource` over one blob; thread-safe.

    Blocks that a read covers completely are read into the caller's buffer and verified in it. A wrong block is read
    again; if it is still wrong, the buffer is cleared and the read raises what `confirmed` raises. Blocks at the edges
    of a read are verified in a separate buffer, and the last few are cached, because neighbouring reads share them.

    With ``at_once`` the blob is read right away, so that the first read may find it missing.
    ``opened`` is an object that has no key yet.
    """

    def __init__(
        self,
        driver: ObjectDriver,
        blob: BlobRef,
        block_list: bytes | None = None,
        *,
        at_once: bool = False,
        opened: ObjectReader | None = None,
    ) -> None:
        self._driver = driver
        self._known_size = blob.size if at_once else None
        self._blob = blob
        self._size = blob.size
        self._list = block_list
        self._edges: OrderedDict[int, bytearray] = OrderedDict()
        self._lock = threading.Lock()
        self._object = opened or self._confirmed(self._try_to_open)
        # A few blocks stay in the CPU cache while they are verified; if each read is a request, read more at once.
        self._step = max(_AT_ONCE, self._object.ahead // BLOCK * BLOCK)

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
                f"Bytes {offset} to {stop} of the blob {self._blob.digest} were requested, but it has {self._size}."
            )
        try:
            self._read(offset, stop, buffer)
        except BaseException:
            buffer[:] = bytes(len(buffer))
            raise

    def check(self) -> None:
        """Verify every block in one pass, and close the reader; raises what `confirmed` raises."""
        scratch = memoryview(bytearray(min(CHUNK, self._size)))
        flows = True
        with ObjectStream(self._object) as stream:
            for start in range(0, self._size, CHUNK):
                piece = scratch[: min(CHUNK, self._size - start)]
                if flows:
                    try:
                        stream.fill(piece)
                    except (IntegrityError, NotFoundError):  # the stream can't be continued
                        flows = False
                if flows:
                    self._check_blocks(start, piece)
                else:
                    self._read_blocks(start, piece)

    def close(self) -> None:
        """Release the blob. Idempotent; later reads fail."""
        self._object.close()
        with self._lock:
            self._edges.clear()

    def __enter__(self) -> BlobReader:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _try_to_open(self, look: int) -> ObjectReader | Finding:
        try:
            opened = self._driver.open(self._blob.key, self._known_size)
        except NotFoundError:
            return self._told_of(_MISSING, look)
        if opened.size != self._size:
            opened.close()
            return self._told_of(Finding(f"it has {opened.size} bytes instead of {self._size}"), look)
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
        self._confirmed(partial(self._fill, start, blocks))
        self._check_blocks(start, blocks)

    def _check_blocks(self, start: int, blocks: memoryview) -> None:
        if self._right(start // BLOCK, block_digests(blocks)):
            return
        for at in range(0, len(blocks), BLOCK):
            first, block = start + at, blocks[at : at + BLOCK]
            wrong = self._why_wrong(first, block)
            if wrong is not None:
                self._confirmed(partial(self._read_again, first, block), wrong)

    def _read_again(self, start: int, block: memoryview, look: int) -> Finding | None:
        return self._fill(start, block, look) or self._why_wrong(start, block)

    def _fill(self, start: int, blocks: memoryview, look: int) -> Finding | None:
        try:
            DividedReader(self._object, look).read_into(start, blocks)
        except IntegrityError:
            return self._told_of(Finding(f"it ends before byte {start + len(blocks)} of {self._size}"), look)
        except NotFoundError:
            return self._told_of(_MISSING, look)
        return None

    def _told_of(self, found: Finding, look: int) -> Finding:
        return told_of(self._driver, self._blob.key, self._size, found, look)

    def _why_wrong(self, start: int, block: memoryview) -> Finding | None:
        found = block_digest(block)
        if self._right(start // BLOCK, found):
            return None
        return Finding(f"bytes {start} to {start + len(block)} are not those that were stored", found.hex())

    def _confirmed(self, look: Look[T], first: Finding | None = None) -> T:
        return confirmed(look, self._blob.digest, self._driver.place, first=first)

    def _right(self, index: int, found: bytes) -> bool:
        """Whether these are the digests of the blocks from number ``index`` on."""
        if not list_size(self._size):
            return sha256_digest(found) == self._blob.blocks_digest
        at = index * DIGEST_SIZE
        return self._block_list()[at : at + len(found)] == found

    def _block_list(self) -> bytes:
        if self._list is None:
            # Two threads may both load it: the bytes are the same.
            self._list = load_list(self._driver, self._blob)
        return self._list


class StagedReader(BlobReader):
    """A reader of bytes that were hashed and have no name yet: what the store has of them is its own fault."""

    def _confirmed(self, look: Look[T], first: Finding | None = None) -> T:
        with keeps(self._driver.place):
            return super()._confirmed(look, first)


def load_list(driver: ObjectDriver, blob: BlobRef) -> bytes:
    """The stored, verified block list of a blob of several blocks; raises what `confirmed` raises."""
    return confirmed(partial(stored_list, driver, blob), blob.digest, driver.place)


def stored_list(driver: ObjectDriver, blob: BlobRef, look: int = 0) -> bytes | Finding:
    """`load_list` by a single read, returning a finding instead of raising."""
    data, key = bytearray(list_size(blob.size)), blocks_key(blob.key)
    wrong = "the list of its block digests is not the one that was stored"
    try:
        with closing(driver.open(key)) as opened:
            if opened.size != len(data):
                return told_of(driver, key, len(data), Finding(wrong), look)
            DividedReader(opened, look).read_into(0, memoryview(data))
    except NotFoundError:
        return told_of(driver, key, len(data), Finding("the list of its block digests is missing"), look)
    except IntegrityError:
        return told_of(driver, key, len(data), Finding(wrong), look)
    found = sha256_digest(data)
    return bytes(data) if found == blob.blocks_digest else Finding(wrong, found)


Watch = Callable[[int, memoryview], None]
Advance = Callable[[int], None]


def digest_object(reader: ObjectReader, watch: Watch | None, advance: Advance | None, look: int = 0) -> Digests:
    """Hash an object in one pass, and close it; ``look`` as for `DividedReader`."""

    def each(offset: int, chunk: memoryview) -> None:
        if watch is not None:
            watch(offset, chunk)
        if advance is not None:
            advance(len(chunk))

    with ObjectStream(DividedReader(reader, look)) as stream:
        return digest_pass(stream.fill, each)


def check_blob(driver: ObjectDriver, blob: BlobRef, advance: Advance | None) -> None:
    """Verify the sha256 and the block list of a whole blob; raises what `confirmed` raises."""
    advances = iter([advance])  # progress counts the first read only
    confirmed(lambda look: _why_wrong(driver, blob, next(advances, None), look), blob.digest, driver.place)


def _why_wrong(driver: ObjectDriver, blob: BlobRef, advance: Advance | None, look: int) -> Finding | None:
    found: Digests | Finding
    try:
        reader = driver.open(blob.key)
        if reader.size == blob.size:
            found = digest_object(reader, None, advance, look)
        else:
            reader.close()
            found = Finding(f"it has {reader.size} bytes instead of {blob.size}")
    except NotFoundError:  # it may be removed while it is being read
        found = Finding("its file is missing")
    except IntegrityError:
        found = Finding(f"it ends before byte {blob.size}")
    if isinstance(found, Finding):
        return told_of(driver, blob.key, blob.size, found, look)
    if found.digest != blob.digest:
        return Finding(f"the digest of its bytes is {found.digest}")
    if found.blocks_digest != blob.blocks_digest:
        return Finding(f"the digest of its blocks is {found.blocks_digest}, not {blob.blocks_digest}")
    known = stored_list(driver, blob, look) if list_size(blob.size) else b""
    return known if isinstance(known, Finding) else None


def read_back(
    driver: ObjectDriver, writer: ObjectWriter, digest: str, watch: Watch | None, advance: Advance | None
) -> Digests:
    """Hash what was taken from an upload. A digest other than ``digest`` is returned only if two reads agree on it.

    Raises:
        UnavailableError: the store does not return what it took, or returns other bytes each time.
    """
    with keeps(driver.place):
        found = digest_object(writer.open(), watch, advance)
        again = found if found.digest == digest else digest_object(writer.open(), None, None, 1)
    if again != found:
        raise otherwise_each_time(driver.place)
    return found
