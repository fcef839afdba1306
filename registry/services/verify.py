"""Verifying a fetched folder: its files against its receipt, then every byte against the registry, computed again."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from registry.catalogue import revisions
from registry.errors import IntegrityError, InvalidAdapterError, NotFoundError
from registry.folders.filling import file_is_right
from registry.folders.receipts import Receipt, read_receipt
from registry.progress import Progress
from registry.reference import Path as TreePath
from registry.reference import Reference
from registry.schemas import TensorMismatch, Verified
from registry.services.artifacts import build_artifact
from registry.services.deployment import Deployment
from registry.services.paths import LoadedPath, load_path
from registry.tensors.artifacts.artifact import Artifact, ArtifactFile
from registry.tensors.artifacts.closeness import TensorComparison
from registry.tensors.files.header import Header, read_header
from registry.tensors.files.source import FileSource, read_range

_READ: Final = 4 << 20


def verify(deployment: Deployment, folder: Path, progress: Progress) -> Verified:
    """Check a fetched folder; see `registry.services.protocol.Registry.verify`.

    Raises:
        NotFoundError: the folder has no receipt, or the registry lacks what the receipt names.
        IntegrityError: the receipt is not one, or its plan is not what the registry makes of its lineage.
    """
    receipt = read_receipt(folder)
    path = _path(deployment, receipt, receipt.reference, receipt.tip)
    ancestor = None if receipt.since is None else _path(deployment, receipt, receipt.since, receipt.plan.since)
    with build_artifact(deployment, path, ancestor, receipt.options) as artifact:
        if artifact.plan.digest != receipt.plan_digest:
            raise IntegrityError(
                f"The receipt in {folder} says the plan {receipt.plan_digest}, but the registry's plan for "
                f"{receipt.reference} is {artifact.plan.digest}: the base's files differ, or the receipt was changed.",
                code="verify_failed",
            )
        exact = artifact.rendering == receipt.rendering
        progress.begin("Verifying", 2 * artifact.size)
        mismatches = [
            *_against_receipt(folder, receipt, progress),
            *_against_registry(folder, artifact, exact, progress),
        ]
    return Verified(
        folder=str(folder),
        reference=receipt.reference,
        kind=receipt.kind,
        equal=not mismatches,
        exact=exact,
        files=len(receipt.files),
        mismatches=tuple(_without_repeats(mismatches)),
    )


def _path(deployment: Deployment, receipt: Receipt, reference: str, digest: str | None) -> LoadedPath:
    """The path that a receipt names, found by digest: numbers and names are another registry's."""
    named = Reference.parse(reference).path
    if digest is None:
        path = load_path(deployment, Reference(TreePath(named.base)))
    else:
        with deployment.database.read() as session:
            row = revisions.find(session, Reference(named, digest_prefix=digest))
        path = load_path(deployment, Reference(named, number=row.number))
    if path.base.digest != receipt.plan.base:
        raise NotFoundError(
            f"The registry's {path.base.name} has other weights than the receipt's base {receipt.plan.base}."
        )
    return path


def _against_receipt(folder: Path, receipt: Receipt, progress: Progress) -> Iterator[TensorMismatch]:
    for file in receipt.files:
        if not file_is_right(folder, file, progress):
            there = (folder / file.path).is_file()
            reason = "not the bytes that were fetched" if there else "the file is missing"
            yield TensorMismatch(file=file.path, tensor=None, reason=reason)


def _against_registry(folder: Path, artifact: Artifact, exact: bool, progress: Progress) -> Iterator[TensorMismatch]:
    for file in artifact.files.values():
        try:
            with FileSource(folder / file.path) as source:
                if exact or file.header is None:
                    yield from _compare_bytes(file, source, progress)
                else:
                    yield from _compare_tensors(file, source, progress)
        except FileNotFoundError:
            yield TensorMismatch(file=file.path, tensor=None, reason="the file is missing")


def _compare_bytes(file: ArtifactFile, source: FileSource, progress: Progress) -> Iterator[TensorMismatch]:
    if source.size != file.size:
        yield TensorMismatch(file=file.path, tensor=None, reason=f"{source.size} bytes instead of {file.size}")
        return
    at = 0
    seen: set[str | None] = set()
    for chunk in file.chunks():
        found = read_range(source, at, at + len(chunk))
        if found != chunk:
            for tensor in _tensors_that_differ(file.header, at, chunk, found):
                if tensor not in seen:
                    seen.add(tensor)
                    reason = "differs from what the registry computes"
                    yield TensorMismatch(file=file.path, tensor=tensor, reason=reason)
        at += len(chunk)
        progress.advance(len(chunk))


def _tensors_that_differ(header: Header | None, at: int, chunk: memoryview, found: bytearray) -> Iterator[str | None]:
    """Names of the tensors in which a chunk differs; None for the header or a file that has none."""
    if header is None:
        yield None
        return
    end = at + len(chunk)
    if at < header.size and chunk[: header.size - at] != found[: header.size - at]:
        yield None
    for entry in header.entries.values():
        first, last = max(entry.start, at) - at, min(entry.stop, end) - at
        if first < last and chunk[first:last] != found[first:last]:
            yield entry.name


def _compare_tensors(file: ArtifactFile, source: FileSource, progress: Progress) -> Iterator[TensorMismatch]:
    """Tensor by tensor, within what another arithmetic may change."""
    if file.header is None:
        raise AssertionError("files without tensors are compared byte by byte")
    try:
        header = read_header(source, what=file.path, error=InvalidAdapterError)
    except InvalidAdapterError as problem:
        yield TensorMismatch(file=file.path, tensor=None, reason=str(problem))
        return
    for entry in file.header.entries.values():
        found = header.entries.get(entry.name)
        if found is None or (found.dtype, found.shape) != (entry.dtype, entry.shape):
            yield TensorMismatch(file=file.path, tensor=entry.name, reason="missing, or of another dtype or shape")
            continue
        comparison = TensorComparison(entry.dtype)
        at = found.start
        for chunk in file.chunks(entry.start, entry.stop):
            comparison.add(chunk, read_range(source, at, at + len(chunk)))
            at += len(chunk)
            progress.advance(len(chunk))
        if not comparison.close:
            reason = "differs by more than another arithmetic may round"
            yield TensorMismatch(file=file.path, tensor=entry.name, reason=reason)


def _without_repeats(mismatches: list[TensorMismatch]) -> Iterator[TensorMismatch]:
    """Leave out what says less about a file than another line does."""
    named = {mismatch.file for mismatch in mismatches if mismatch.tensor is not None}
    seen: set[tuple[str, str | None]] = set()
    for mismatch in mismatches:
        if (mismatch.tensor is None and mismatch.file in named) or (mismatch.file, mismatch.tensor) in seen:
            continue
        seen.add((mismatch.file, mismatch.tensor))
        yield mismatch
