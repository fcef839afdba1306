"""The blob store: bytes verified when they are written and whenever they are read.

It does what drivers do not: hashing, block lists, and deduplication against a blob of the same bytes that the catalogue
knows. That blob is read back and compared before it is relied on (BLAKE3, a fraction of the sha256 that the caller
computes anyway): if it is intact, nothing is stored; if it is damaged, the new bytes are stored beside it under another
key, which the caller records. So storing the same files again repairs a store.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal, TypeVar

from registry.digest import BlobRef
from registry.errors import IntegrityError, RegistryError
from registry.files.hashed import Fill
from registry.files.source import ByteSource
from registry.storage.confirming import DividedReader, agreed, keeps, lost
from registry.storage.driver import (
    BLOBS,
    BLOCKS,
    Commit,
    ObjectInfo,
    ObjectWriter,
    blob_key_of,
    blocks_key,
    new_blob_key,
)
from registry.storage.reading import (
    Advance,
    BlobReader,
    StagedReader,
    Watch,
    check_blob,
    digest_object,
    load_list,
    read_back,
    stored_list,
)
from registry.storage.staging import Staging, StagingDriver, staging_gone
from registry.storage.streams import BytesStream, ChunkStream, Digests, FileStream, Patient, digest_pass, list_size

T = TypeVar("T")

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class StoredBlob(BlobRef):
    """A blob in the store, and how it was stored.

    ``stored`` is the number of bytes this call added: 0 if the blob existed, was linked, or shares its blocks.
    ``stored_by`` is ``none`` if this call created no object: the one under ``key`` was created by another call.
    """

    stored: int
    stored_by: Literal["copy", "reflink", "link", "none"]


class StagedBlob:
    """Hashed bytes that are not visible yet. Leaving the ``with`` block without `commit` leaves nothing behind."""

    def __init__(self, store: BlobStore, writer: ObjectWriter, digests: Digests, key: str | None = None) -> None:
        self._store = store
        self._digests = digests
        self._open = ExitStack()
        self.writer = self._open.enter_context(writer)
        self.key = key or new_blob_key(digests.digest)
        self.upload: Staging | None = None
        self.joined: str | None = None  # its key, if the parts of an upload became it in place

    @property
    def digests(self) -> Digests:
        """All results of the pass over the bytes."""
        return self._digests

    @property
    def digest(self) -> str:
        return self._digests.digest

    @property
    def size(self) -> int:
        """Bytes."""
        return self._digests.size

    @property
    def blocks_digest(self) -> str:
        """The digest of the block list, for the catalogue."""
        return self._digests.blocks_digest

    def commit(self, known: BlobRef | None = None) -> StoredBlob:
        """Make the blob visible and durable; see `BlobStore.commit`."""
        return self._store.commit([self], {} if known is None else {known.digest: known})[0]

    def open(self) -> BlobReader:
        """Open the bytes for verified reads, once nothing is written to them any more."""
        blob = BlobRef(self.digest, self.size, self.blocks_digest, self.key)
        return self._store.open_staged(self.writer, blob, self._digests.block_list)

    def close(self) -> None:
        """Release the bytes, and discard them if they were not committed. Idempotent."""
        self._open.close()

    def __enter__(self) -> StagedBlob:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class BlobStore:
    """Blobs on one driver. ``known`` is always what the catalogue says is stored already."""

    def __init__(self, driver: StagingDriver) -> None:
        self._driver = driver

    @property
    def place(self) -> str:
        """Where the blobs are, for messages: a folder or a redacted URL."""
        return self._driver.place

    def ping(self) -> None:
        """Check cheaply that the store can be used; raises the error that says what is wrong."""
        self._driver.ping()

    def close(self) -> None:
        self._driver.close()

    def stage(self, file: Path, *, watch: Watch | None = None, advance: Advance | None = None) -> StagedBlob:
        """Hash and write a file in one pass, without making it visible.

        ``watch`` is called with every chunk as ``(offset, bytes)``, in order, before anything is visible. The bytes are
        valid during the call only and must not be changed. If it raises, nothing is left behind. ``advance`` is called
        with the size of each chunk. The stored bytes are those that were hashed and watched, even if the file changes
        meanwhile. Raises `NotFoundError`, `UnavailableError` and what drivers raise.
        """
        with FileStream(file) as stream:
            return self._stage(stream.fill, watch, advance)

    def stage_chunks(self, chunks: Iterator[memoryview], *, advance: Advance | None = None) -> StagedBlob:
        """Hash and write generated chunks, without making them visible; ``advance`` as for `stage`."""
        return self._stage(ChunkStream(chunks).fill, None, advance)

    def adopt(
        self, staging: Staging, digest: str, *, watch: Watch | None = None, advance: Advance | None = None
    ) -> StagedBlob:
        """Take a client's upload to where no client can write, as a copy or in place, then read that back and hash it.

        ``watch`` and ``advance`` as for `stage`; if ``watch`` raises, a copy is removed and the upload stays. The
        commit drops the upload. Raises `IntegrityError` (``upload_mismatch``) if the bytes are not ``digest``, whatever
        ``watch`` raised; then nothing is left, not even the upload, since a client would resume it. If the store is
        known to have made others of the parts, raises `UnavailableError` for a copy, and `NotFoundError` if they
        were joined in place, with nothing left either. Raises what `read_back` and `StagingDriver.take_staging` raise.
        """
        key = staging.joined or new_blob_key(digest)
        with ExitStack() as undo:
            writer = undo.enter_context(self._driver.take_staging(staging, key))
            patient = None if watch is None else Patient(watch)
            digests = read_back(self._driver, writer, digest, patient, advance)
            if (digests.digest, digests.size) != (digest, staging.size):
                with keeps(self.place):
                    changed = self._driver.made_other(staging, writer)
                if changed and staging.joined is None:
                    raise lost(self.place)  # the upload still exists, and may be copied again
                self._drop_taken(staging)
                if changed:
                    log.warning("the store %s made something else of %s than it was sent", self.place, staging.joined)
                    raise staging_gone(staging)
                raise IntegrityError(
                    f"The upload does not match its announcement: {digest} of {staging.size} bytes was expected, "
                    f"{digests.digest} of {digests.size} bytes was received; upload it again.",
                    code="upload_mismatch",
                )
            if patient is not None:
                patient.tell()
            undo.pop_all()
        staged = StagedBlob(self, writer, digests, key)
        staged.upload, staged.joined = staging, staging.joined
        return staged

    def put_bytes(self, data: bytes | bytearray | memoryview, known: BlobRef | None = None) -> StoredBlob:
        """Store bytes in memory as a blob."""
        with self._stage(BytesStream(data).fill, None, None) as staged:
            return staged.commit(known)

    def commit(self, staged: Sequence[StagedBlob], known: Mapping[str, BlobRef] | None = None) -> list[StoredBlob]:
        """Make staged blobs visible and durable, together: many cost little more than one.

        ``known`` by digest. A known blob is compared with the staged bytes block by block: if it is intact, the staged
        bytes are dropped and the result has the known key; if it is damaged or missing, they are stored under a new
        key. Blobs of equal digest are stored once.
        """
        first = {one.digest: one for one in reversed(staged)}
        there: dict[str, BlobRef] = {}
        with ExitStack() as lists:
            commits: list[Commit] = []
            for digest, one in first.items():
                blob = (known or {}).get(digest)
                if blob is not None and self._is_right(blob, one.digests):
                    there[digest] = blob
                else:
                    commits += self._commits(one, lists)
            self._driver.commit(commits)
        stored = [_stored(one, first[one.digest], there.get(one.digest)) for one in staged]
        for one, kept in zip(staged, stored, strict=True):
            one.close()
            if one.upload is not None:
                self._drop_taken(one.upload, kept.key)
        return stored

    def keep(
        self,
        file: Path,
        digest: str,
        *,
        known: BlobRef | None = None,
        link: bool = False,
        advance: Advance | None = None,
    ) -> StoredBlob:
        """Store a file whose digest is known: as a hard link with ``link``, else by reflink, else as a copy.

        The stored bytes themselves are hashed, before they are visible. Raises `IntegrityError` if they are not
        ``digest``, because the file changed since that was computed; nothing is left in the store then. A known blob
        stays as it is, if it is intact.
        """
        if known is not None and known.digest == digest and self._passes(known, advance):
            return StoredBlob(known.digest, known.size, known.blocks_digest, known.key, stored=0, stored_by="none")
        with ExitStack() as undo:
            taken = self._driver.take_file(file, link=link)
            if taken is None:
                staged = undo.enter_context(self.stage(file, advance=advance))
            else:
                undo.enter_context(taken)
                staged = undo.enter_context(StagedBlob(self, taken, digest_object(taken.open(), None, advance)))
            if staged.digest != digest:
                raise IntegrityError(
                    f"{file} changed while it was being added: it was {digest}, now it is {staged.digest}; "
                    "wait until nothing writes to it and add it again.",
                    code="corrupt",
                )
            return staged.commit()

    def open(self, blob: BlobRef, *, at_once: bool = False) -> BlobReader:
        """Open a blob for verified reads; raises `IntegrityError` if it is missing or has another size.

        With ``at_once`` the first read may raise that, which has to follow right away.
        """
        return BlobReader(self._driver, blob, at_once=at_once)

    def open_staged(self, writer: ObjectWriter, blob: BlobRef, block_list: bytes) -> BlobReader:
        """Open what a writer has taken as the blob that it is to become; see `StagedBlob.open`."""
        return StagedReader(self._driver, blob, block_list, opened=writer.open())

    def size(self, key: str) -> int | None:
        """Bytes of the blob under a key, or None if it does not exist."""
        return self._driver.size(key)

    def check(self, blob: BlobRef, *, advance: Advance | None = None) -> None:
        """Read a whole blob and compare its sha256 and block list; raises what `confirmed` raises."""
        check_blob(self._driver, blob, advance)

    def delete(self, key: str) -> None:
        """Remove a blob and its block list, by the key of either. Idempotent."""
        blob_key = blob_key_of(key)
        self._driver.delete(blob_key)
        self._driver.delete(blocks_key(blob_key))

    def discard(self, stored: StoredBlob) -> None:
        """Remove what storing this blob created, if another writer's row won; an object that existed before stays."""
        if stored.stored_by != "none":
            self.delete(stored.key)

    def objects(self) -> Iterator[ObjectInfo]:
        """All stored objects, blobs first, then block lists, each sorted by key."""
        yield from self._driver.objects(BLOBS)
        yield from self._driver.objects(BLOCKS)

    def clear_litter(self) -> int:
        """Remove what killed writers left; returns the number of unfinished objects."""
        return self._driver.clear_litter()

    def begin_staging(self, size: int, part_size: int, digest: str) -> Staging:
        """See `StagingDriver.begin_staging`; likewise for the other methods of that protocol."""
        return self._driver.begin_staging(size, part_size, digest)

    def read_upload(self, staging: Staging, digest: str, read: Callable[[ByteSource], T]) -> T:
        """What ``read`` makes of the bytes of a complete upload, which nothing has checked yet: twice the same.

        Raises what `StagingDriver.take_staging` raises, and `UnavailableError` if the store does not return the bytes,
        or returns other ones each time.
        """
        with self._driver.take_staging(staging, staging.joined or new_blob_key(digest)) as writer, keeps(self.place):

            def look(number: int) -> T:
                with closing(writer.open()) as reader:
                    return read(DividedReader(reader, number))

            return agreed(look, self.place)

    def sign_part(self, staging: Staging, number: int, expires: int) -> str | None:
        return self._driver.sign_part(staging, number, expires)

    def put_part(self, staging: Staging, number: int, chunks: Iterable[bytes]) -> None:
        self._driver.put_part(staging, number, chunks)

    def parts(self, staging: Staging) -> dict[int, int]:
        return self._driver.parts(staging)

    def drop_staging(self, staging: Staging) -> None:
        self._driver.drop_staging(staging)

    def clear_staging(self, older_than: datetime) -> int:
        return self._driver.clear_staging(older_than)

    def sign_get(self, blob: BlobRef, expires: int, name: str | None = None) -> str | None:
        """A presigned URL to GET a blob, or None; see `StagingDriver.sign_get`."""
        return self._driver.sign_get(blob.key, expires, name=name)

    def _stage(self, fill: Fill, watch: Watch | None, advance: Advance | None) -> StagedBlob:
        with ExitStack() as undo:
            writer = undo.enter_context(self._driver.writer())

            def each(offset: int, chunk: memoryview) -> None:
                if watch is not None:
                    watch(offset, chunk)
                writer.write(chunk)
                if advance is not None:
                    advance(len(chunk))

            digests = digest_pass(fill, each)
            undo.pop_all()
            return StagedBlob(self, writer, digests)

    def _is_right(self, blob: BlobRef, digests: Digests) -> bool:
        """Whether a known blob and its block list are intact and match ``digests``."""
        if (blob.size, blob.blocks_digest) != (digests.size, digests.blocks_digest):
            return False
        try:
            with BlobReader(self._driver, blob, digests.block_list) as reader:
                reader.check()
            if list_size(blob.size):
                load_list(self._driver, blob)
        except IntegrityError:
            return False
        return True

    def _passes(self, blob: BlobRef, advance: Advance | None) -> bool:
        try:
            self.check(blob, advance=advance)
        except IntegrityError:
            return False
        return True

    def _is_listed(self, one: StagedBlob) -> bool:
        """Whether the block list exists, from a commit of the joined parts that did not reach the catalogue."""
        if one.joined is None or self._driver.size(blocks_key(one.key)) is None:
            return False
        blob = BlobRef(one.digest, one.size, one.blocks_digest, one.key)
        return stored_list(self._driver, blob) == one.digests.block_list

    def _drop_taken(self, staging: Staging, kept: str | None = None) -> None:
        """Drop an upload no longer needed, and what was joined in place unless that is the ``kept`` blob.

        A failure is only logged: the collector removes it later.
        """
        try:
            self._driver.drop_staging(staging)
            if staging.joined not in {None, kept}:
                self._driver.delete(staging.joined)
        except RegistryError as error:
            log.warning("the upload %s was not removed and is left to gc: %s", staging.key, error)

    def _commits(self, one: StagedBlob, lists: ExitStack) -> Iterator[Commit]:
        """A blob and its block list, whose writer ``lists`` closes. List first, so that no visible blob lacks it."""
        if list_size(one.size) and not self._is_listed(one):
            writer = lists.enter_context(self._driver.writer())
            writer.write(one.digests.block_list)
            yield Commit(writer, blocks_key(one.key))
        yield Commit(one.writer, one.key)


def _stored(one: StagedBlob, first: StagedBlob, there: BlobRef | None) -> StoredBlob:
    by = one.writer.stored_by if there is None and one is first else "none"
    return StoredBlob(
        one.digest,
        one.size,
        one.blocks_digest,
        first.key if there is None else there.key,
        stored=one.size if by == "copy" else 0,
        stored_by=by,
    )
