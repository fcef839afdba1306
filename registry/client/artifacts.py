"""Artifacts of a service, whose bytes are requested when they are read."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import closing
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import quote

from registry.client.download import PIECE, RemoteBytes, pieces, read_checked
from registry.client.ranges import RangeReader, RemoteBlob
from registry.client.tensor_core import MakeArithmetic, needed
from registry.client.transport import Transport
from registry.digest import hex_of
from registry.errors import IntegrityError, NotFoundError, UnavailableError, UsageError
from registry.files.header import Header, read_model_header
from registry.files.source import read_range
from registry.schemas import ArtifactKind, Fidelity, Materialisation, Options, Truncation, views
from registry.schemas.artifacts import KINDS
from registry.schemas.protocol import NOT_A_USE, Page
from registry.schemas.transfer import ArtifactFileEntry, ArtifactPlan, Bundle
from registry.schemas.weights import NamedLink, weights_by_digest
from registry.transfer.publish_request import Head


def plan_artifact(transport: Transport, ref: str, options: Options, *, is_use: bool = True) -> ArtifactPlan:
    """The artifact that a reference means now; ``is_use``: the service counts this as a use of the revision."""
    use = transport.interface if is_use else NOT_A_USE
    plan = transport.get("/artifacts", ArtifactPlan, slow=True, use=use, ref=ref, **options.model_dump())
    named = [NamedLink(link.reference, link.digest) for link in plan.lineage]
    wanted = weights_by_digest(options.weights, named, plan.reference)
    if wanted != {link.revision: link.coefficient for link in plan.plan.links if link.coefficient != 1}:
        raise IntegrityError(
            f"The service at {transport.url} planned {plan.reference} with other weights than those that were "
            "requested, so nothing was fetched: it is another version, or behind a proxy that changes addresses."
        )
    return plan


def measured_by_service(transport: Transport, plan: ArtifactPlan) -> Fidelity | None:
    """What the service measured of a merged model when it was materialised; None: it was not measured."""
    if not KINDS[plan.kind].is_model or plan.plan.dtype is not None or not plan.lineage:
        return None
    found = transport.get("/materialisations", Page[Materialisation], ref=plan.reference)
    kept = next((one.fidelity for one in found.items if one.rendering == plan.rendering), None)
    return None if kept is None else Fidelity(**kept.model_dump())


class RemoteArtifact:
    """An artifact of a service (`registry.operations.registry.ReadableArtifact`).

    Bytes of published files are verified by digest before they are returned.
    """

    def __init__(
        self,
        transport: Transport,
        plan: ArtifactPlan,
        options: Options,
        *,
        arithmetic: MakeArithmetic | None,
        room: Path,
    ) -> None:
        self.plan = plan
        self._arithmetic = arithmetic
        # The pinned reference: a tag may move while the files are read.
        pinned = {"ref": plan.reference, **options.model_dump(), "since": plan.since}
        stored = KINDS[plan.kind].is_verbatim
        digests = _digests(transport, plan) if stored else {file.path: file.digest for file in plan.files}
        self.files: Mapping[str, RemoteFile] = {
            entry.path: RemoteFile(
                transport,
                _reader(transport, plan, entry, pinned),
                entry,
                digests.get(entry.path),
                room if stored else None,
            )
            for entry in sorted(plan.files, key=lambda entry: entry.path)
        }

    @property
    def kind(self) -> ArtifactKind:
        return self.plan.kind

    @property
    def rendering(self) -> str:
        return self.plan.rendering

    @property
    def size(self) -> int:
        return sum(file.size for file in self.files.values())

    @property
    def notices(self) -> tuple[str, ...]:
        return self.plan.notices

    @property
    def truncation(self) -> Truncation | None:
        return self.plan.truncation

    def file(self, path: str) -> RemoteFile:
        if path not in self.files:
            raise NotFoundError(f"The artifact has no file {path!r}; it has {', '.join(self.files)}.")
        return self.files[path]

    def tensors(self) -> Iterator[tuple[str, Any]]:
        arithmetic = needed(self._arithmetic, "provide tensors")
        for file in self.files.values():
            for entry in file.header.entries.values() if file.header else ():
                data = bytearray(b"".join(file.chunks(entry.start, entry.stop)))
                yield entry.name, arithmetic.tensor(data, entry.dtype, entry.shape)

    def close(self) -> None:
        for file in self.files.values():
            file.close()

    def __repr__(self) -> str:
        return views.artifact(self.kind, len(self.files), self.size, self.rendering)

    def __enter__(self) -> RemoteArtifact:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def _reader(
    transport: Transport, plan: ArtifactPlan, entry: ArtifactFileEntry, pinned: Mapping[str, Any]
) -> RangeReader:
    path = f"/artifacts/{hex_of(plan.rendering)}/{quote(entry.path)}"
    what = f"{entry.path} of {plan.reference}"
    return RangeReader(transport, path, pinned, size=entry.size, etag=entry.etag.strip('"'), what=what)


def _digests(transport: Transport, plan: ArtifactPlan) -> dict[str, str]:
    """Digests of the files of a published artifact, by name."""
    bundle = transport.get("/bundles", Bundle, slow=True, ref=plan.reference)
    stored = bundle.links[-1].files if bundle.links else bundle.base.files
    digests = {blob.path: blob.digest for blob in stored}
    if digests.keys() != {entry.path for entry in plan.files}:
        raise UnavailableError(f"{transport.url} lists other files for {plan.reference} than it was published with.")
    return digests


class RemoteFile:
    """One file of an artifact of a service.

    With a ``room``, all bytes are verified before they are returned: a part is cut from the whole file, which is
    downloaded to it. Without one, a whole file is verified if its digest is known, and a part is not, since it may be a
    part of a large model.
    """

    def __init__(
        self,
        transport: Transport,
        reader: RangeReader,
        entry: ArtifactFileEntry,
        digest: str | None,
        room: Path | None,
    ) -> None:
        self._transport = transport
        self.entry = entry
        self.bytes = RemoteBytes(entry.path, reader, digest)
        self._room = room
        self._lock = threading.Lock()
        self._blob: RemoteBlob | None = None

    @property
    def path(self) -> str:
        return self.entry.path

    @property
    def size(self) -> int:
        return self.entry.size

    @cached_property
    def header(self) -> Header | None:
        """The header, if it is a safetensors file."""
        if self.entry.header is None:
            return None
        head = Head(self.path, self.entry.header, self.size, IntegrityError)
        return read_model_header(head, self.path, error=IntegrityError)

    def chunks(self, start: int = 0, stop: int | None = None) -> Iterator[memoryview]:
        end = self.size if stop is None else stop
        if not 0 <= start <= end <= self.size:
            raise UsageError(f"Bytes {start} to {end} are not inside {self.path!r}, which has {self.size} bytes.")
        if (start, end) == (0, self.size) and self._blob is None:
            yield from read_checked(self._transport.lanes, self.bytes)
        elif self._room is None:
            with closing(pieces(self._transport.lanes, [(self.bytes.source, start, end)])) as stream:
                yield from stream
        else:
            # A digest is of the whole file, so it is downloaded, verified, and read locally.
            for at in range(start, end, PIECE):
                yield memoryview(read_range(self._held(), at, min(at + PIECE, end)))

    def read(self, start: int = 0, stop: int | None = None) -> bytes:
        return b"".join(self.chunks(start, stop))

    def __repr__(self) -> str:
        return views.artifact_file(self.path, self.size)

    def _held(self) -> RemoteBlob:
        if self._room is None:
            raise AssertionError("a whole file is only brought to where there is room")
        with self._lock:
            if self._blob is None:
                self._blob = RemoteBlob(self._transport, self.bytes, self._room)
            return self._blob

    def close(self) -> None:
        """Release the downloaded copy."""
        with self._lock:
            if self._blob is not None:
                self._blob.close()
                self._blob = None
