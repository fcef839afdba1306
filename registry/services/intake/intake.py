"""Storing the bytes of what is added: hashed and checked in one pass, and visible only after `Intake.commit`.

They come from a local file, from an upload, or are stored already. A failure before the catalogue's transaction leaves
nothing behind. Uploads are retained until that transaction is committed, so that it can be retried.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final, TypeVar

from sqlalchemy.orm import Session

from registry.catalogue.store import blobs as blob_rows
from registry.digest import BlobRef, sha256_digest
from registry.errors import UnavailableError
from registry.files.source import ByteSource
from registry.progress import Progress
from registry.services.deployment import Deployment
from registry.storage.blobs import StagedBlob, StoredBlob
from registry.storage.reading import BlobReader, Watch
from registry.storage.staging import Staging

T = TypeVar("T")
_READ: Final = 4 << 20


class BytesGoneError(UnavailableError):
    """A collector removed stored bytes after they were found; retry."""


def retry_collected(work: Callable[[], T]) -> T:
    """Run ``work``, and retry it once if a collector removed bytes meanwhile."""
    try:
        return work()
    except BytesGoneError:
        return work()


class Intake:
    """All bytes of one base model, revision or materialisation that is added. Use it as a context manager."""

    def __init__(self, deployment: Deployment, progress: Progress, known: Mapping[str, BlobRef] | None = None) -> None:
        self.deployment = deployment
        self.recorded: Mapping[str, BlobRef] = {}
        """By digest, the blobs that the last `record` has recorded, or relied on."""
        self._progress = progress
        self._known_rows = known
        self._open = ExitStack()
        self._staged: dict[str, StagedBlob] = {}
        self._there: dict[str, BlobRef] = {}
        self._readers: dict[str, BlobReader] = {}
        self._stored: list[StoredBlob] = []
        self._mended: set[str] = set()
        self._joined: dict[str, str] = {}  # keys of what uploads became in place, by digest

    def file(self, file: Path, watch: Watch | None = None) -> tuple[str, int]:
        """Stage a local file; digest and size of what was read."""
        return self._take(self.deployment.blobs.stage(file, watch=watch, advance=self._progress.advance))

    def _take(self, staged: StagedBlob) -> tuple[str, int]:
        self._open.enter_context(staged)
        if staged.digest in self._staged:
            staged.close()
        self._staged.setdefault(staged.digest, staged)
        return staged.digest, staged.size

    def made(self, chunks: Iterator[memoryview]) -> tuple[str, int]:
        """Stage bytes that are computed while they are read, in order; their digest and size."""
        return self._take(self.deployment.blobs.stage_chunks(chunks, advance=self._progress.advance))

    def upload(self, digest: str, staging: Staging, watch: Watch | None = None) -> None:
        """Stage what a client uploaded."""
        staged = self._open.enter_context(
            self.deployment.blobs.adopt(staging, digest, watch=watch, advance=self._progress.advance)
        )
        staged.upload = None  # the upload is dropped once the catalogue has its bytes, not by the store's commit
        self._staged[digest] = staged
        if staging.joined is not None:
            self._joined[digest] = staging.joined

    def stored(self, blob: BlobRef, watch: Watch | None = None) -> None:
        """Use a blob that is stored already; it is read only if ``watch`` is given."""
        self._there[blob.digest] = blob
        if watch is None:
            self._progress.advance(blob.size)
            return
        reader = self._reader(blob)
        for offset in range(0, reader.size, _READ):
            chunk = memoryview(bytearray(min(_READ, reader.size - offset)))
            reader.read_into(offset, chunk)
            watch(offset, chunk)
            self._progress.advance(len(chunk))

    def _reader(self, blob: BlobRef) -> BlobReader:
        """An open stored blob: opening it once more would be another request of some stores."""
        if blob.digest not in self._readers:
            self._readers[blob.digest] = self._open.enter_context(self.deployment.blobs.open(blob, at_once=True))
        return self._readers[blob.digest]

    @contextmanager
    def opened(self, digest: str) -> Iterator[ByteSource]:
        """The bytes of a staged or stored blob, for reading."""
        staged = self._staged.get(digest)
        if staged is None:
            yield self._reader(self._there[digest])
            return
        with staged.open() as source:
            yield source

    def commit(self) -> tuple[StoredBlob, ...]:
        """Make all staged bytes visible in the store; the catalogue gets them by `record`."""
        known = self._rows(self._staged)
        for stored in self.deployment.blobs.commit(list(self._staged.values()), known):
            self._note(stored, known.get(stored.digest))
        return tuple(self._stored)

    def put(self, document: bytes) -> StoredBlob:
        """Store a generated document."""
        known = self._known(sha256_digest(document))
        stored = self.deployment.blobs.put_bytes(document, known)
        self._note(stored, known)
        return stored

    def keep(self, file: Path, digest: str, *, link: bool) -> StoredBlob:
        """Store a file whose digest is known; ``link``: as a link if possible."""
        known = self._known(digest)
        stored = self.deployment.blobs.keep(file, digest, known=known, link=link, advance=self._progress.advance)
        self._note(stored, known)
        return stored

    def _known(self, digest: str) -> BlobRef | None:
        with self.deployment.read_everything() as session:
            return blob_rows.rows(session, [digest]).get(digest)

    def _rows(self, digests: Collection[str]) -> Mapping[str, BlobRef]:
        """What the catalogue has of some digests, or had of them a moment ago: the transaction of `change` decides."""
        if self._known_rows is not None or not digests:
            return self._known_rows or {}
        with self.deployment.read_everything() as session:
            return blob_rows.rows(session, digests)

    def _note(self, stored: StoredBlob, known: BlobRef | None) -> None:
        self._stored.append(stored)
        if known is not None and known.key != stored.key:  # stored again, as the known object is damaged
            self._mended.add(stored.digest)

    def record(self, session: Session) -> dict[str, BlobRef]:
        """Record the bytes in the catalogue, in the transaction that refers to them; the recorded blobs by digest.

        Raises:
            BytesGoneError: rows of existing blobs that this relies on were removed meanwhile.
        """
        made = {one.digest: one for one in self._stored if one.stored_by != "none"}
        noted = blob_rows.record(session, made.values(), mended=self._mended & made.keys())
        relied = {one.digest for one in self._stored} | self._there.keys()
        noted.update(blob_rows.use(session, relied - noted.keys()))
        gone = next(iter(sorted(relied - noted.keys())), None)
        if gone is not None:
            raise BytesGoneError(f"The bytes {gone} were deleted by gc while they were being added: add them again.")
        self.recorded = noted
        return noted

    def change(self, work: Callable[[Session], T]) -> T:
        """Run the transaction that refers to the bytes: `record` first, then ``work``, which may be retried.

        Afterwards, the objects of blobs that another process recorded first are deleted.

        Raises:
            BytesGoneError: see `record`.
        """

        def recorded(session: Session) -> tuple[T, Mapping[str, BlobRef]]:
            noted = self.record(session)
            return work(session), noted

        answer, noted = self.deployment.change(recorded)
        for one in self._stored:
            if one.digest in noted and noted[one.digest].key != one.key:
                self.deployment.blobs.discard(one)
        for digest, key in self._joined.items():
            if digest in noted and noted[digest].key != key:  # the same bytes are stored under another key
                self.deployment.blobs.delete(key)
        return answer

    def __enter__(self) -> Intake:
        if self.deployment.clears_litter:
            self.deployment.blobs.clear_litter()
        return self

    def __exit__(self, *exc: object) -> None:
        self._open.close()
