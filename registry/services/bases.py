"""Adding a base model: checked, hashed and understood before anything is stored."""

from __future__ import annotations

from pathlib import Path
from typing import Final, Literal

from registry.catalogue import bases as base_rows
from registry.catalogue import blobs as blob_rows
from registry.catalogue.bases import NewBase
from registry.catalogue.blobs import BlobRow, FileRef
from registry.digest import canonical_json
from registry.errors import ConflictError, NotFoundError
from registry.progress import Progress
from registry.reference import check_base_name
from registry.schemas import BaseAdded, BaseSummary, LeftOut
from registry.services.deployment import Deployment, blob_row
from registry.services.hashing import ModelIndex, files_digest, index_model
from registry.services.model_files import ModelFiles, read_model_files
from registry.storage.blobs import StoredBlob
from registry.tensors.table.architecture import make_table
from registry.tensors.table.declaration import FILE as DECLARATION
from registry.tensors.table.declaration import declare
from registry.tensors.table.targets import TargetTable

StoredBy = Literal["copy", "reflink", "link", "none"]
_WAYS: Final[tuple[StoredBy, ...]] = ("copy", "reflink", "link")  # the last that occurs is told


def add_base(deployment: Deployment, name: str, folder: Path, *, link: bool, progress: Progress) -> BaseAdded:
    """Add the base model in ``folder`` under ``name``; see `registry.services.protocol.Registry.add_base`.

    Raises:
        UsageError: ``bad_name``.
        InvalidBaseError: the folder is not an intact, unquantised safetensors model.
        ConflictError: ``other_weights``, or ``name_taken`` when only registry.json differs.
    """
    check_base_name(name)
    model = read_model_files(folder)
    index = index_model(model, progress)
    there = _existing(deployment, name, index.weights_digest)
    if there is not None:
        _check_declaration(there, index)
        return _answer(deployment, there, model.left_out, (), created=False)
    shapes = {name: (entry.dtype, entry.shape) for name, (_, entry) in model.tensors().items()}
    table = make_table(model.config, shapes)
    if model.declaration is not None:
        table = declare(table, model.declaration)
    stored = _store(deployment, model, index, link=link, progress=progress)
    index_blob = deployment.blobs.put_bytes(canonical_json(index.to_document()))
    table_blob = deployment.blobs.put_bytes(canonical_json(table.to_document()))
    blobs = [blob_row(blob) for blob in (*stored, index_blob, table_blob)]
    new = _new_base(name, index, table, index_blob, table_blob)
    with deployment.database.write() as session:
        blob_rows.record(session, _unique(blobs))
        summary, created = base_rows.add(session, new, deployment.actor)
    return _answer(deployment, summary, model.left_out, (*stored, index_blob, table_blob), created=created)


def _existing(deployment: Deployment, name: str, digest: str) -> BaseSummary | None:
    """The base of this name, where it has these weights."""
    try:
        with deployment.database.read() as session:
            summary = base_rows.summary(session, name)
    except NotFoundError:
        return None
    if summary.digest != digest:
        raise ConflictError(
            f"Base model {name} is there with other weights: it has {summary.digest}, the folder has {digest}. "
            "Choose another name.",
            code="other_weights",
        )
    return summary


def _check_declaration(there: BaseSummary, index: ModelIndex) -> None:
    """A base that is there keeps its target table: a declaration that came later must not pass unheard."""
    stored = {file.path: file.digest for file in there.files}
    if DECLARATION in index.files and index.files[DECLARATION][0] != stored.get(DECLARATION):
        raise ConflictError(
            f"Base model {there.name} is there with these weights and {'another' if DECLARATION in stored else 'no'} "
            f"{DECLARATION}. Add it under another name to use this one.",
            code="name_taken",
        )


def _store(
    deployment: Deployment, model: ModelFiles, index: ModelIndex, *, link: bool, progress: Progress
) -> list[StoredBlob]:
    deployment.blobs.clear_litter()
    progress.begin("Storing the base model", sum(size for _, size in index.files.values()))
    return [
        deployment.blobs.keep(found.file, index.files[found.path][0], link=link, advance=progress.advance)
        for found in model.files
    ]


def _unique(blobs: list[BlobRow]) -> list[BlobRow]:
    return list({blob.digest: blob for blob in blobs}.values())


def _new_base(
    name: str, index: ModelIndex, table: TargetTable, index_blob: StoredBlob, table_blob: StoredBlob
) -> NewBase:
    return NewBase(
        name=name,
        digest=index.weights_digest,
        table_digest=table.digest,
        files_digest=files_digest(index.files),
        architecture=table.architecture,
        table_source=table.source,
        parameters=index.parameters,
        tensors=len(index.tensors),
        size=sum(size for _, size in index.files.values()),
        index_blob=index_blob.digest,
        table_blob=table_blob.digest,
        notices=table.notices,
        files=tuple(FileRef(path, digest) for path, (digest, _) in sorted(index.files.items())),
    )


def _answer(
    deployment: Deployment,
    summary: BaseSummary,
    left_out: tuple[LeftOut, ...],
    stored: tuple[StoredBlob, ...],
    *,
    created: bool,
) -> BaseAdded:
    ways = {blob.stored_by for blob in stored}
    by: StoredBy = "none"
    for way in _WAYS:
        if way in ways:
            by = way
    return BaseAdded(
        base=summary,
        created=created,
        bytes_stored=sum(blob.stored for blob in stored),
        stored_by=by,
        left_out=left_out,
        registry=deployment.url,
    )
