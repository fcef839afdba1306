"""Reads and hashes whole objects: stored blobs against the catalogue's digests, and bytes just taken from an upload."""

from __future__ import annotations

from collections.abc import Callable

from registry.digest import BlobRef
from registry.errors import IntegrityError, NotFoundError
from registry.storage.blocks import Digests, digest_pass, list_size
from registry.storage.confirming import DividedReader, Finding, confirmed, keeps, otherwise_each_time, told_of
from registry.storage.driver import ObjectDriver, ObjectReader, ObjectWriter
from registry.storage.reading import stored_list
from registry.storage.streams import ObjectStream

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
