"""Blobs: bytes stored once under their sha256, checked when they are written and whenever they are read.

What drivers do not know lives here: hashing, block lists, and what happens when a blob is already there. Such a blob
is read back and compared before it is relied on (BLAKE3, a fraction of the sha256 that the caller pays anyway), and
replaced when it is damaged. So storing the same files again mends a store.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from registry.errors import IntegrityError
from registry.storage.blocks import Digests, Fill, digest_pass, list_size
from registry.storage.driver import Commit, ObjectDriver, ObjectReader, ObjectWriter
from registry.storage.layout import blob_key, blocks_key
from registry.storage.reading import BlobReader, corrupt, load_list
from registry.storage.streams import BytesStream, FileStream, ObjectStream

Watch = Callable[[int, memoryview], None]
Advance = Callable[[int], None]


@dataclass(frozen=True)
class StoredBlob:
    """A blob that is in the store, and how it came there.

    ``stored`` is how many bytes this call added: 0 when the blob was there, was linked, or shares its blocks.
    """

    digest: str
    size: int
    blocks_digest: str
    stored: int
    stored_by: Literal["copy", "reflink", "link", "none"]


class StagedBlob:
    """Hashed bytes that are not visible yet. Leaving the ``with`` block without `commit` leaves nothing behind."""

    def __init__(self, store: BlobStore, writer: ObjectWriter, digests: Digests) -> None:
        self._store = store
        self._digests = digests
        self._open = ExitStack()
        self.writer = self._open.enter_context(writer)

    @property
    def digests(self) -> Digests:
        """All that the pass over the bytes found."""
        return self._digests

    @property
    def digest(self) -> str:
        """The blob's digest."""
        return self._digests.digest

    @property
    def size(self) -> int:
        """Bytes."""
        return self._digests.size

    @property
    def blocks_digest(self) -> str:
        """The digest of the block list, for the catalogue."""
        return self._digests.blocks_digest

    def commit(self) -> StoredBlob:
        """Make the blob visible and durable; see `BlobStore.commit`."""
        return self._store.commit([self])[0]

    def close(self) -> None:
        """Release the bytes, and drop them if they were not committed. Closing twice is allowed."""
        self._open.close()

    def __enter__(self) -> StagedBlob:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class BlobStore:
    """Blobs on one driver."""

    def __init__(self, driver: ObjectDriver) -> None:
        self._driver = driver

    def stage(self, file: Path, *, watch: Watch | None = None, advance: Advance | None = None) -> StagedBlob:
        """Hash and write a file in one pass, without making it visible.

        ``watch`` sees every chunk as ``(offset, bytes)``, in order, before anything is visible. The bytes are valid
        during the call only and must not be changed. What it raises leaves nothing behind. ``advance`` gets the
        count of bytes of each chunk. What is stored are the bytes that were hashed and watched, also when the
        file changes meanwhile. Raises `NotFoundError`, `UnavailableError` and what drivers raise.
        """
        with FileStream(file) as stream:
            return self._stage(stream.fill, watch, advance)

    def put_bytes(self, data: bytes | bytearray | memoryview) -> StoredBlob:
        """Store bytes in memory as a blob."""
        with self._stage(BytesStream(data).fill, None, None) as staged:
            return staged.commit()

    def commit(self, staged: Sequence[StagedBlob]) -> list[StoredBlob]:
        """Make staged blobs visible and durable, together: many for little more than the price of one.

        A blob that is there already is compared with the staged bytes block by block: if it is right, the staged
        bytes are dropped; if it is damaged, they take its place.
        """
        first = {one.digest: one for one in reversed(staged)}
        with ExitStack() as lists:
            commits: list[Commit] = []
            for digest, one in first.items():
                commits += self._list_commits(one.digests, lists)
                state = self._state(one.digests)
                if state != "right":
                    commits.append(Commit(one.writer, blob_key(digest), replace=state == "damaged"))
            new = self._commit_all(commits, [one.digests for one in first.values()])
        stored = [
            _stored(one.digests, one.writer, new=blob_key(one.digest) in new and first[one.digest] is one)
            for one in staged
        ]
        for one in staged:
            one.close()
        return stored

    def keep(self, file: Path, digest: str, *, link: bool = False, advance: Advance | None = None) -> StoredBlob:
        """Store a file whose digest is known: as a hard link with ``link``, else by reflink, else as a copy.

        The stored bytes themselves are hashed, before they are visible. Raises `IntegrityError` when they are
        not ``digest``, because the file changed since that was computed; nothing of it is left in the store then.
        A blob that is there already stays as it is stored, if it is right.
        """
        if self.has(digest):
            found = self._digest_object(self._driver.open(blob_key(digest)), advance)
            if found.digest == digest:
                with ExitStack() as lists:
                    self._commit_all(self._list_commits(found, lists), [found])
                return _stored(found, None, new=False)
        with ExitStack() as undo:
            taken = self._driver.take_file(file, link=link)
            if taken is None:
                staged = undo.enter_context(self.stage(file, advance=advance))
            else:
                undo.enter_context(taken)
                staged = undo.enter_context(StagedBlob(self, taken, self._digest_object(taken.open(), advance)))
            if staged.digest != digest:
                raise IntegrityError(
                    f"{file} changed while it was being added: it was {digest}, now it is {staged.digest}; "
                    "wait until nothing writes to it and add it again.",
                    code="corrupt",
                )
            return staged.commit()

    def open(self, digest: str, size: int, blocks_digest: str) -> BlobReader:
        """Open a blob for checked reads; raises `IntegrityError` when it is missing or has another size."""
        return BlobReader(self._driver, digest, size, blocks_digest)

    def has(self, digest: str) -> bool:
        """Whether there is a blob of this digest."""
        return self.size(digest) is not None

    def size(self, digest: str) -> int | None:
        """Bytes of a blob, or None when there is none."""
        return self._driver.size(blob_key(digest))

    def check(self, digest: str, size: int, blocks_digest: str | None = None) -> None:
        """Read a whole blob and compare its sha256, and its block list when ``blocks_digest`` is given.

        Raises `IntegrityError` that says what is wrong.
        """
        place = self._driver.place
        found = self.size(digest)
        if found is None:
            raise corrupt(digest, place, "its file is missing")
        if found != size:
            raise corrupt(digest, place, f"it has {found} bytes instead of {size}")
        digests = self._digest_object(self._driver.open(blob_key(digest)), None)
        if digests.digest != digest:
            raise corrupt(digest, place, f"the digest of its bytes is {digests.digest}")
        if blocks_digest is None:
            return
        if digests.blocks_digest != blocks_digest:
            raise corrupt(digest, place, f"the digest of its blocks is {digests.blocks_digest}, not {blocks_digest}")
        if list_size(size):
            load_list(self._driver, digest, size, blocks_digest)

    def clear_litter(self) -> int:
        """Remove what killed writers left; returns how many unfinished objects there were."""
        return self._driver.clear_litter()

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

    def _digest_object(self, reader: ObjectReader, advance: Advance | None) -> Digests:
        with ObjectStream(reader) as stream:
            return digest_pass(stream.fill, lambda _, chunk: advance(len(chunk)) if advance else None)

    def _state(self, digests: Digests) -> Literal["missing", "right", "damaged"]:
        """What is stored under a blob's key, compared with the digests of its blocks."""
        if not self.has(digests.digest):
            return "missing"
        try:
            with BlobReader(
                self._driver, digests.digest, digests.size, digests.blocks_digest, digests.block_list
            ) as it:
                it.check()
        except IntegrityError:
            return "damaged"
        return "right"

    def _list_commits(self, digests: Digests, lists: ExitStack) -> list[Commit]:
        """What makes the stored block list right: nothing, or one commit, whose writer ``lists`` closes."""
        if not list_size(digests.size):
            return []
        key = blocks_key(digests.digest)
        damaged = False
        if self._driver.size(key) is not None:
            try:
                load_list(self._driver, digests.digest, digests.size, digests.blocks_digest)
                return []
            except IntegrityError:
                damaged = True
        writer = lists.enter_context(self._driver.writer())
        writer.write(digests.block_list)
        return [Commit(writer, key, replace=damaged)]

    def _commit_all(self, commits: Sequence[Commit], blobs: Sequence[Digests]) -> set[str]:
        """Commit, and make durable what was found there already; returns the keys that are new."""
        made = self._driver.commit(commits)
        keys = {blob_key(one.digest) for one in blobs} | {
            blocks_key(one.digest) for one in blobs if list_size(one.size)
        }
        self._driver.settle(sorted(keys - {one.key for one in commits}))
        return {one.key for one, new in zip(commits, made, strict=True) if new}


def _stored(digests: Digests, writer: ObjectWriter | None, *, new: bool) -> StoredBlob:
    by = writer.stored_by if writer is not None and new else "none"
    return StoredBlob(digests.digest, digests.size, digests.blocks_digest, digests.size if by == "copy" else 0, by)
