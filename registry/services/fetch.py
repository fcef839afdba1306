"""Fetching: an artifact written into a folder that appears when it is complete, with a receipt beside its files."""

from __future__ import annotations

import os
import platform
import shutil
from pathlib import Path

from blake3 import blake3

from registry.errors import ConflictError, IntegrityError, NotFoundError, UnavailableError
from registry.progress import Progress
from registry.reference import Reference
from registry.schemas import Fetched, Options, OutputFile
from registry.services.artifacts import build_artifact
from registry.services.cache import FetchCache
from registry.services.deployment import Deployment
from registry.services.folders import RECEIPT
from registry.services.paths import LoadedPath, load_path, target_groups_of
from registry.services.receipts import (
    Receipt,
    ReceiptLink,
    ReceiptPlan,
    ReceiptVersions,
    read_receipt,
    write_receipt,
)
from registry.services.staging import filesystem_error, put_in_place, staged_folder
from registry.services.writing import write_files
from registry.tensors.artifacts.artifact import Artifact
from registry.tensors.artifacts.plan import ARTIFACT_FORMAT
from registry.version import __version__

_READ: int = 8 << 20


def fetch(
    deployment: Deployment,
    cache: FetchCache,
    ref: str,
    out: Path | None,
    options: Options,
    *,
    force: bool,
    progress: Progress,
) -> Fetched:
    """Write an artifact into a folder; see `registry.services.protocol.Registry.fetch`.

    Raises:
        ConflictError: ``folder_taken``, the folder holds something else.
        AccuracyError: the asked-for error can't be reached.
        UnavailableError, NotAllowedError: the file system refused; nothing is left behind.
    """
    path = load_path(deployment, Reference.parse(ref))
    ancestor = None if options.since is None else load_path(deployment, Reference.parse(options.since))
    with build_artifact(deployment, path, ancestor, options) as artifact:
        place = cache.place(artifact.rendering) if out is None else _absolute(out)
        there = _there(place, artifact, progress)
        if there is not None:
            if out is None:
                cache.used(place)
            # other options may mean the same ranks: the report is about what was asked for now
            return _answer(there, place, fresh=False).model_copy(update={"truncation": artifact.truncation})
        replace = _may_fill(place, force=force or out is None)
        receipt = _write(deployment, artifact, path, ancestor, place, replace=replace, progress=progress)
    if out is None:
        cache.shrink(keep=place)
    return _answer(receipt, place, fresh=True)


def _absolute(out: Path) -> Path:
    """The folder itself, behind a link that the user gave."""
    out = out.expanduser()
    return out.resolve() if out.is_symlink() else out.absolute()


def _answer(receipt: Receipt, place: Path, *, fresh: bool) -> Fetched:
    return Fetched(
        reference=receipt.reference,
        kind=receipt.kind,
        folder=str(place),
        rendering=receipt.rendering,
        fresh=fresh,
        files=receipt.files,
        notices=receipt.notices,
        truncation=receipt.truncation,
    )


def _there(place: Path, artifact: Artifact, progress: Progress) -> Receipt | None:
    """The receipt in the folder, where it is of this very rendering and every file is what it says."""
    try:
        receipt = read_receipt(place) if place.is_dir() else None
    except (NotFoundError, IntegrityError):
        return None
    if receipt is None or receipt.rendering != artifact.rendering:
        return None
    progress.begin("Checking what is there", artifact.size)
    return receipt if all(file_is_right(place, file, progress) for file in receipt.files) else None


def file_is_right(folder: Path, file: OutputFile, progress: Progress) -> bool:
    """Whether a file of a fetched folder has the size and the BLAKE3 that the receipt says."""
    digest = blake3()
    try:
        with (folder / file.path).open("rb") as stream:
            if os.fstat(stream.fileno()).st_size != file.size:
                return False
            while data := stream.read(_READ):
                digest.update(data)
                progress.advance(len(data))
    except OSError:
        return False
    return digest.hexdigest() == file.blake3


def _may_fill(place: Path, *, force: bool) -> bool:
    """Whether the folder has to be replaced; raises where it may not."""
    if not place.exists():
        return False
    if not place.is_dir():
        raise ConflictError(f"{place} is a file; a folder that is absent or empty is expected.", code="folder_taken")
    names = {entry.relative_to(place).as_posix() for entry in place.rglob("*") if not entry.is_dir()}
    if not names:
        return any(place.iterdir())
    try:
        receipt = read_receipt(place)
    except (NotFoundError, IntegrityError):
        raise ConflictError(
            f"{place} holds files that no fetch wrote; choose a folder that is absent or empty.", code="folder_taken"
        ) from None
    foreign = sorted(names - {RECEIPT, *(file.path for file in receipt.files)})
    if not force:
        raise ConflictError(
            f"{place} holds something else, {receipt.reference} as {receipt.kind} or a changed copy of it; "
            "--force replaces what an earlier fetch wrote.",
            code="folder_taken",
        )
    if foreign:
        raise ConflictError(
            f"{place} holds {foreign[0]!r}, which no fetch wrote, so --force can't replace the folder; move it away.",
            code="folder_taken",
        )
    return True


def _write(
    deployment: Deployment,
    artifact: Artifact,
    path: LoadedPath,
    ancestor: LoadedPath | None,
    place: Path,
    *,
    replace: bool,
    progress: Progress,
) -> Receipt:
    try:
        with staged_folder(place) as staging:
            _check_space(place, artifact.size)
            files = write_files(artifact, staging, progress)
            receipt = _receipt(deployment, artifact, path, ancestor, files)
            with (staging / RECEIPT).open("xb") as stream:
                stream.write(write_receipt(receipt))
                stream.flush()
                os.fsync(stream.fileno())
            put_in_place(staging, place, replace=replace)
            return receipt
    except OSError as problem:
        raise filesystem_error(place, problem) from problem


def _check_space(place: Path, size: int) -> None:
    free = shutil.disk_usage(place.parent).free
    if free < size:
        raise UnavailableError(
            f"{place} needs {size} bytes and {free} are free; free some or choose another disk.", code="disk_full"
        )


def _receipt(
    deployment: Deployment,
    artifact: Artifact,
    path: LoadedPath,
    ancestor: LoadedPath | None,
    files: tuple[OutputFile, ...],
) -> Receipt:
    import torch

    plan = artifact.plan
    return Receipt(
        reference=path.reference,
        kind=plan.kind,
        base=path.base.name,
        since=ancestor.reference if ancestor else None,
        plan=ReceiptPlan.model_validate(plan.document()),
        plan_digest=plan.digest,
        rendering=plan.rendering,
        numerics=plan.numerics,
        lineage=tuple(
            ReceiptLink(
                reference=link.row.reference,
                number=link.row.number,
                digest=link.row.digest,
                rank=link.row.rank,
                scalings=tuple(sorted({scale for group in groups for scale in group.scalings})),
            )
            for link, groups in zip(path.links, target_groups_of(deployment, path), strict=True)
        ),
        registry=deployment.url,
        versions=ReceiptVersions(
            registry=__version__,
            artifact_format=ARTIFACT_FORMAT,
            torch=torch.__version__,
            python=platform.python_version(),
        ),
        notices=artifact.notices,
        truncation=artifact.truncation,
        files=files,
    )
