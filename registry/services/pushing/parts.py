"""The files of a push, wherever their bytes are: in this process, in an upload (Git LFS), or stored already."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path as FilePath
from typing import Final

from registry.catalogue.store import blobs as blob_rows
from registry.catalogue.store import uploads as upload_rows
from registry.catalogue.store.uploads import PushedRow, UploadRow
from registry.digest import PREFIX, BlobRef, sha256_digest
from registry.errors import NotFoundError, UnavailableError, UsageError
from registry.files.header import MAX_HEADER
from registry.files.source import ByteSource, FileSource, read_range
from registry.folders.local_files import head_of
from registry.folders.scan import ADAPTER_CONFIG, ADAPTER_WEIGHTS, README
from registry.progress import SILENT
from registry.reference import Path
from registry.schemas.transfer import Upload, UploadRequest
from registry.services.deployment import Deployment
from registry.services.intake.intake import Intake
from registry.services.intake.uploads import Wanted, begin_upload, drop_upload, staging_of, take, upload
from registry.services.publishing.candidates import Candidate, require_publishing
from registry.services.publishing.draft import Files
from registry.services.pushing.repo import MOST_LARGE, PAIR
from registry.tensors.arithmetic.streamed import Watch


@dataclass(frozen=True)
class LargeUpload:
    """What a client has to send of a file; None: all of it is stored."""

    oid: str  # the sha256 of its bytes, in hex
    size: int
    upload: Upload | None


def begin_large(deployment: Deployment, path: Path, oid: str, size: int) -> LargeUpload:
    """Begin to take a file by LFS. Clients send all parts or none, so one that broke off begins anew.

    Raises:
        NotAllowedError: the principal may not publish at this path.
        UnavailableError: ``too_large``.
    """
    require_publishing(deployment, path)
    if size > MOST_LARGE:
        raise UnavailableError(
            f"A file has {size} bytes, and a push takes at most {MOST_LARGE}: `registry publish` has no such limit.",
            code="too_large",
        )
    request = UploadRequest(digest=f"{PREFIX}{oid}", size=size)
    found = begin_upload(deployment, request)
    if len(found.there) == found.parts:
        return LargeUpload(oid, size, None)
    if found.there:
        drop_upload(deployment, found.id)
        found = begin_upload(deployment, request)
    return LargeUpload(oid, size, found)


def put_large_part(deployment: Deployment, upload_id: str, number: int, chunks: Iterable[bytes]) -> None:
    """Store a part of a file. LFS clients send no token with it: the id, which only its owner received, must do.

    Raises:
        NotFoundError: the upload does not exist.
        UsageError: the upload has no such part, or it has another length.
    """
    with deployment.read() as session:
        row = upload_rows.get(session, upload_id, None)
    deployment.blobs.put_part(staging_of(row), number, chunks)


_LENGTH: Final = 8  # bytes that hold the header's length


@dataclass(frozen=True)
class Spooled:
    """The bytes of a file that a client sent within a commit."""

    file: FilePath
    size: int
    digest: str


@dataclass(frozen=True)
class Large:
    """A file whose bytes a client sent before, by LFS."""

    digest: str
    size: int


Sent = Spooled | Large


@dataclass(frozen=True)
class Part:
    """A file of the next revision: ``data`` is all of a document, and the header of weights."""

    data: bytes
    size: int
    digest: str
    file: FilePath | None = None
    upload: UploadRow | None = None
    stored: BlobRef | None = None


Parts = Mapping[str, Part]


def part_of(deployment: Deployment, name: str, sent: Sent) -> Part:
    """A file of a commit.

    Raises:
        UsageError: its bytes were not sent by LFS, or it is a document, which is sent within the commit.
    """
    if isinstance(sent, Spooled):
        data = head_of(sent.file) if name == ADAPTER_WEIGHTS else sent.file.read_bytes()
        return Part(data, sent.size, sent.digest, sent.file)
    if name != ADAPTER_WEIGHTS:
        raise UsageError(f"{name} came by LFS, and is expected within the commit: push it again.")
    with deployment.read() as session:
        row = upload_rows.find(session, sent.digest, sent.size, deployment.principal)
        recorded = blob_rows.rows(session, [sent.digest])
        seen = blob_rows.visible(session, recorded.keys())
        blob = recorded[sent.digest] if sent.digest in seen else None
    if row is not None and is_complete(deployment, row):
        head = deployment.blobs.read_upload(staging_of(row), row.digest, _head)
        return Part(head, sent.size, sent.digest, upload=row)
    if blob is not None and blob.size == sent.size:  # a commit that is sent again, since its answer was lost
        with deployment.open_blob(blob) as reader:
            return Part(_head(reader), sent.size, sent.digest, stored=blob)
    raise UsageError(f"The bytes of {name} ({sent.digest}) were not uploaded: push it again.")


def is_complete(deployment: Deployment, row: UploadRow) -> bool:
    """Whether all parts of an upload are stored."""
    staging = staging_of(row)
    try:
        there = deployment.blobs.parts(staging)
    except NotFoundError:
        return False
    return all(there.get(number) == staging.part_length(number) for number in range(1, staging.part_count + 1))


def _head(source: ByteSource) -> bytes:
    """The header of weights, as `registry.folders.local_files.head_of` reads it of a file."""
    start = bytes(read_range(source, 0, min(_LENGTH, source.size)))
    length = int.from_bytes(start, "little")
    stop = min(_LENGTH + length, source.size) if length <= MAX_HEADER else _LENGTH
    return start + bytes(read_range(source, _LENGTH, stop)) if stop > _LENGTH else start


def part_of_row(row: PushedRow) -> Part:
    """A file that waited."""
    digest = sha256_digest(row.data) if row.upload is None else row.upload.digest
    return Part(row.data, row.size, digest, upload=row.upload)


def to_wait(deployment: Deployment, name: str, part: Part) -> PushedRow:
    """A file that has to wait for others: its bytes go where every replica finds them.

    Raises:
        UsageError: it is stored already, as part of a revision.
    """
    if name != ADAPTER_WEIGHTS:
        return PushedRow(name, part.data, part.size)
    if part.stored is not None:
        raise UsageError(f"{name} belongs to a revision already: push it in one commit with its {ADAPTER_CONFIG}.")
    row = part.upload
    if row is None and part.file is not None:
        source = FileSource(part.file)
        try:
            upload_id = upload(deployment, part.digest, source, SILENT)
        finally:
            source.close()
        with deployment.read() as session:
            row = upload_rows.get(session, upload_id, deployment.principal)
    return PushedRow(name, part.data, part.size, row)


def bringing(parts: Parts) -> Callable[[Intake, Candidate, Watch], Files]:
    """What takes the bytes of a revision's files into an intake."""
    chosen = {name: parts[name] for name in (*PAIR, README) if name in parts}

    def bring(intake: Intake, _candidate: Candidate, watch: Watch) -> Files:
        for name, part in chosen.items():
            _bring(intake, part, watch if name == ADAPTER_WEIGHTS else None)
        return {name: (part.digest, part.size) for name, part in chosen.items()}

    return bring


def _bring(intake: Intake, part: Part, watch: Watch | None) -> None:
    if part.upload is not None:
        wanted = Wanted({part.digest: part.size}, {part.digest: part.upload}, {}, {})
        take(wanted, intake, {} if watch is None else {part.digest: watch})
    elif part.stored is not None:
        intake.stored(part.stored, watch)
    elif part.file is not None:
        intake.file(part.file, watch)
    else:
        intake.made(iter([memoryview(part.data)]))
