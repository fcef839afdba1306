"""Adding a base model: it is checked and hashed, and its target table made, before anything is stored."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from os import PathLike
from typing import Final, Literal

from registry.catalogue.changes import new_base
from registry.catalogue.changes.new_base import NewBase
from registry.catalogue.store.blobs import FileRef
from registry.catalogue.tree import bases as base_rows
from registry.catalogue.tree.bases import NormsRow
from registry.digest import canonical_json
from registry.errors import ConflictError, NotFoundError
from registry.files.source import FileSource
from registry.folders.receipts import derived_from
from registry.operations.arguments import check_order
from registry.progress import Progress
from registry.reference import Path as TreePath
from registry.reference import check_base_name
from registry.schemas import BaseAdded, BaseSummary, DerivedFrom, LeftOut
from registry.services.bases.decoded import decoded
from registry.services.bases.norms import energies_of, norms_row, not_finite, not_finite_notices, watches_of
from registry.services.deployment import Deployment
from registry.services.intake.intake import Intake, retry_collected
from registry.storage.blobs import StoredBlob
from registry.tensors.table.architecture import make_table
from registry.tensors.table.declaration import declare, guesses
from registry.tensors.table.pipelines import pipeline_table
from registry.tensors.table.single_file import single_file_table
from registry.tensors.table.targets import TargetTable
from registry.tensors.table.ties import parted_by_files
from registry.transfer.index import Decoded, IndexedTensor, ModelIndex, files_digest, index_model
from registry.transfer.model_files import DECLARATION, CheckedModel, ModelFiles, read_model_files
from registry.transfer.source import Given, given_base, refuse_adapter_beside

StoredBy = Literal["copy", "reflink", "link", "none"]
_WAYS: Final[tuple[StoredBy, ...]] = ("copy", "reflink", "link")  # ascending: the last that occurs is reported


@dataclass(frozen=True)
class Made:
    """What is made of a base model's bytes, to be stored with it."""

    index: ModelIndex
    table: TargetTable
    norms: NormsRow


def add_base(
    deployment: Deployment,
    name: str,
    place: str | PathLike[str],
    *,
    link: bool,
    variant: str | None,
    progress: Progress,
) -> BaseAdded:
    """Add the base model of a folder or a repository as ``name``; see `registry.operations.registry.Registry.add_base`.

    Raises:
        NotAllowedError: the token may not add this base model.
        UsageError: ``bad_name``.
        InvalidBaseError: the folder is not an intact safetensors model, or it is quantised in a way that is not read.
        ConflictError: ``other_weights``, or ``name_taken`` when only registry.json differs.
        What `registry.folders.hub.repository.bring` raises, if ``place`` is a repository of a Hub.
    """
    check_order(place, name, check_base_name, "registry base add {name} {folder}", "the name")
    require_adding(deployment, name)
    given = given_base(place, progress, variant)
    files = read_model_files(given.folder, variant, given.only)
    refuse_adapter_beside(files.folder)
    energies = watches_of(files.headers)
    index = index_model(files, progress, energies)
    given.check(index.files)
    there = existing(deployment, name)
    if there is not None:
        check_same(there, index.weights_digest, {path: digest for path, (digest, _) in index.files.items()})
        stored = retry_collected(lambda: _mend(deployment, there, files, index, progress))
        return answer(deployment, there, given.with_left_out(files.left_out), stored, created=False)
    table = understood(files.model)
    with ExitStack() as opened:
        sources = {one.path: opened.enter_context(FileSource(one.file)) for one in files.files if one.path in energies}
        index, rows = decoded(index, files.model.plain, files.model.small, sources, energies_of(energies), progress)
    table = settled(table, index)
    index = replace(index, not_finite=not_finite(energies, index.tensors))
    made = Made(index, table, norms_row(table, rows))
    return retry_collected(lambda: _add(deployment, name, given, files, made, link=link, progress=progress))


def _add(
    deployment: Deployment,
    name: str,
    given: Given,
    files: ModelFiles,
    made: Made,
    *,
    link: bool,
    progress: Progress,
) -> BaseAdded:
    derived, left_out = derived_from(given.folder, files.headers, given.with_left_out(files.left_out))
    progress.begin("Storing the base model", sum(size for _, size in made.index.files.values()))
    with Intake(deployment, progress) as intake:
        stored = [intake.keep(found.file, made.index.files[found.path][0], link=link) for found in files.files]
        return make_visible(deployment, intake, name, made, stored, left_out, given.source, derived)


def _mend(
    deployment: Deployment, there: BaseSummary, files: ModelFiles, index: ModelIndex, progress: Progress
) -> tuple[StoredBlob, ...]:
    """Store again the files of an existing base model that the store has lost or damaged."""
    own = {file.digest for file in there.files}
    progress.begin("Checking what is stored", there.size)
    with Intake(deployment, progress) as intake:
        again = ((found.file, index.files[found.path][0]) for found in files.files)
        stored = tuple(intake.keep(file, digest, link=False) for file, digest in again if digest in own)
        intake.change(lambda _: None)
    return stored


def require_adding(deployment: Deployment, name: str) -> None:
    """Check the name and that the principal may add it; raises `UsageError`, `NotAllowedError`."""
    deployment.rights.require_on("writer", TreePath(check_base_name(name)), "add a base model")


def as_told(deployment: Deployment, stored: tuple[StoredBlob, ...]) -> tuple[StoredBlob, ...]:
    """What was stored, as reported to the principal.

    To a scoped one, blobs that were already stored count as stored now: their existence may be hidden from it.
    """
    if deployment.rights.unlimited:
        return stored
    return tuple(
        replace(blob, stored=blob.size, stored_by="copy" if blob.stored_by == "none" else blob.stored_by)
        for blob in stored
    )


def existing(deployment: Deployment, name: str) -> BaseSummary | None:
    """The base model of this name; None: no such base model is visible."""
    try:
        with deployment.read() as session:
            return base_rows.summary(session, name)
    except NotFoundError:
        return None


def other_weights(there: BaseSummary, found: str) -> ConflictError:
    """The error for a name that is taken; ``found`` describes the weights of the new model."""
    return ConflictError(
        f"Base model {there.name} already exists with other weights: it has {there.digest}, the folder has {found}. "
        "Choose another name.",
        code="other_weights",
    )


def check_same(there: BaseSummary, digest: str, files: Mapping[str, str]) -> None:
    """Check that a base model is the existing one.

    The existing one keeps its target table, so a different declaration is an error and not ignored.

    Raises:
        ConflictError: ``other_weights``, or ``name_taken`` when only registry.json differs.
    """
    if there.digest != digest:
        raise other_weights(there, digest)
    stored = {file.path: file.digest for file in there.files}
    if DECLARATION in files and files[DECLARATION] != stored.get(DECLARATION):
        raise ConflictError(
            f"Base model {there.name} already exists with these weights and "
            f"{'another' if DECLARATION in stored else 'no'} {DECLARATION}. Add it under another name to use this one.",
            code="name_taken",
        )


def understood(model: CheckedModel) -> TargetTable:
    """The target table of a base model, made in a child process; pass it to `settled` once the tensors are hashed."""
    pipeline = model.listing.pipeline
    if model.single_file is not None:
        table = single_file_table(model.single_file, model.stored_shapes)
    elif pipeline is None:
        table = make_table(model.config, model.shapes)
    else:
        configs = {name: one.config for name, one in pipeline.components.items()}
        table = pipeline_table(pipeline.class_name, configs, model.shapes)
    table = replace(table, quantised=model.decoding_digest)
    return table if model.declaration is None else declare(table, model.declaration)


def settled(table: TargetTable, index: ModelIndex) -> TargetTable:
    """A table from `understood` without the ties whose tensors turned out to differ."""
    return parted_by_files(table, {name: tensor.digest for name, tensor in index.tensors.items()})


def make_visible(
    deployment: Deployment,
    intake: Intake,
    name: str,
    made: Made,
    stored: Iterable[StoredBlob],
    left_out: tuple[LeftOut, ...],
    source: str | None,
    derived_from: DerivedFrom | None,
) -> BaseAdded:
    """Store index and target table, add the base model in one transaction, and build the result."""
    index_blob = intake.put(canonical_json(made.index.to_document()))
    table_blob = intake.put(canonical_json(made.table.to_document()))
    new = replace(_new_base(name, made, index_blob, table_blob), source=source, derived_from=derived_from)

    summary, created = intake.change(lambda session: new_base.add(session, new, deployment.principal))
    return answer(deployment, summary, left_out, (*stored, index_blob, table_blob), created=created)


def _new_base(name: str, made: Made, index_blob: StoredBlob, table_blob: StoredBlob) -> NewBase:
    index, table = made.index, made.table
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
        notices=(
            *(() if index.quantised is None else _quantised_notices(index.quantised, index.tensors)),
            *table.notices,
            *guesses(table),
            *not_finite_notices(index.to_document()),
        ),
        files=tuple(FileRef(path, digest) for path, (digest, _) in sorted(index.files.items())),
        norms=made.norms,
    )


def _quantised_notices(quantised: Decoded, tensors: Mapping[str, IndexedTensor]) -> tuple[str, ...]:
    """What to know of a quantised base model: what its weights are, and how large a merged model is."""
    plain = quantised.plain
    if not plain.decoded:
        return plain.notices
    share = _size(tensors) / max(1, _size(quantised.stored))
    said = (
        f"It is quantised ({plain.kind}): its weights are the numbers that codes and scales mean. Merged models are "
        f"plain, {share:.1f} x the stored bytes; --dtype keep writes only what a path changes plain."
    )
    return (said, *plain.notices)


def _size(tensors: Mapping[str, IndexedTensor]) -> int:
    return sum(one.entry.stop - one.entry.start for one in tensors.values())


def answer(
    deployment: Deployment,
    summary: BaseSummary,
    left_out: tuple[LeftOut, ...],
    stored: tuple[StoredBlob, ...],
    *,
    created: bool,
) -> BaseAdded:
    """The result of adding a base model."""
    told = as_told(deployment, stored)
    ways = {blob.stored_by for blob in told}
    by: StoredBy = "none"
    for way in _WAYS:
        if way in ways:
            by = way
    return BaseAdded(
        base=summary,
        created=created,
        bytes_stored=sum(blob.stored for blob in told),
        stored_by=by,
        left_out=left_out,
        registry=deployment.url,
    )
