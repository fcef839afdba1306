"""Adding a client's base model: names, headers and documents are checked first, the uploaded bytes when committing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from registry.catalogue.store import uploads as upload_rows
from registry.errors import InvalidBaseError
from registry.files.header import Header, read_header
from registry.folders.hub.repository import check_source
from registry.progress import Progress
from registry.reference import Reference
from registry.schemas import BaseAdded, BaseSummary, LeftOut
from registry.schemas.transfer import BaseCommit, BasePlan, BaseRequest, FileClaim
from registry.services.artifacts.load import load_path
from registry.services.bases.add import (
    Made,
    answer,
    check_same,
    existing,
    make_visible,
    other_weights,
    require_adding,
    settled,
    understood,
)
from registry.services.bases.norms import norms_row, not_finite, watches_of
from registry.services.bases.table_check import check_table
from registry.services.deployment import Deployment
from registry.services.intake.intake import Intake, retry_collected
from registry.services.intake.wanted import drop_taken, dropped_when_refused, take, wanted_bytes
from registry.services.lineage import read_document
from registry.storage.checking import Watch
from registry.tensors.table.targets import TargetTable
from registry.transfer.claims import Head, SameHead, check_claims, check_derivation, check_document
from registry.transfer.index import ModelIndex, TensorHashes, tensors_of
from registry.transfer.model_files import DOCUMENTS, list_model
from registry.transfer.model_weights import CheckedModel, check_model


@dataclass(frozen=True)
class _Checked:
    """A request that passed every check that needs no weights."""

    model: CheckedModel
    files: Mapping[str, FileClaim]  # only those that belong to the model
    heads: Mapping[str, Head]  # of the weight files
    left_out: tuple[LeftOut, ...]


def plan_base(deployment: Deployment, request: BaseRequest) -> BasePlan:
    """Check a request; see `registry.operations.transfer.Transfer.plan_base`.

    Raises:
        What `registry.services.bases.add.add_base` raises.
    """
    checked = _check(deployment, request)
    there = existing(deployment, request.name)
    if there is not None and _is_there(deployment, there, checked):
        return BasePlan(existing=there, missing=())
    if there is None:
        _table(request, checked.model)
    with deployment.read() as session:
        wanted = wanted_bytes(session, checked.files.values(), ())
    return BasePlan(existing=there, missing=wanted.missing)


def commit_base(deployment: Deployment, commit: BaseCommit, progress: Progress) -> BaseAdded:
    """Add a base model that was planned and uploaded; see `registry.operations.transfer.Transfer.commit_base`.

    Raises:
        What `registry.services.bases.add.add_base` raises, and
        NotFoundError: bytes are neither stored nor uploaded.
        UnavailableError: ``upload_incomplete``, the store lost some of the uploaded bytes.
        IntegrityError: ``upload_mismatch``.
    """
    with dropped_when_refused(deployment, commit.uploads):
        added = _commit(deployment, commit, progress)
    drop_taken(deployment, commit.uploads)
    return added


def _commit(deployment: Deployment, commit: BaseCommit, progress: Progress) -> BaseAdded:
    request = commit.request
    checked = _check(deployment, request)
    there = existing(deployment, request.name)
    if there is not None and _is_there(deployment, there, checked):
        return answer(deployment, there, checked.left_out, (), created=False)
    table = None if there is not None else _table(request, checked.model)
    return retry_collected(lambda: _add(deployment, commit, checked, there, table, progress))


def _check(deployment: Deployment, request: BaseRequest) -> _Checked:
    require_adding(deployment, request.name)
    check_source(request.source)
    check_derivation(request.derived_from)
    claims = check_claims(request.files, InvalidBaseError)
    for path, document in request.documents.items():
        check_document(claims, path, document)
    for path in DOCUMENTS:
        if path in claims and path not in request.documents:
            raise InvalidBaseError(f"{request.name} has a {path} that was not sent; send it too.", code="missing_file")
    listing = list_model(request.name, claims, request.documents.get)
    heads = {}
    for path in listing.shards:
        heads[path] = Head(path, request.headers.get(path, b""), claims[path].size, InvalidBaseError)

    def header(path: str) -> Header:
        return read_header(heads[path], what=path, error=InvalidBaseError)

    left_out = tuple(sorted([*request.left_out, *listing.left_out], key=lambda left: left.path))
    files = {path: claims[path] for path in listing.files}
    return _Checked(check_model(listing, header), files, heads, left_out)


def _is_there(deployment: Deployment, there: BaseSummary, checked: _Checked) -> bool:
    """Whether the existing base model of this name has identical weight files.

    False leaves it to the tensors' digests: the same tensors may be split into files differently.

    Raises:
        ConflictError: ``other_weights`` if names, dtypes or shapes already differ, or ``name_taken``.
    """
    stored = {file.path: file.digest for file in there.files}
    digests = {path: claim.digest for path, claim in checked.files.items()}
    if all(digests[path] == stored.get(path) for path in checked.model.listing.shards):
        check_same(there, there.digest, digests)
        return True
    base = load_path(deployment, Reference.parse(there.name)).base
    index = read_document(deployment, base.index)["tensors"]
    theirs = {name: (tensor["dtype"], tuple(tensor["shape"])) for name, tensor in index.items()}
    if theirs != checked.model.shapes:
        raise other_weights(there, "tensors of other names, dtypes or shapes")
    return False


def _table(request: BaseRequest, model: CheckedModel) -> TargetTable:
    """The target table: made from the model, or for a copy the table of the source registry."""
    return understood(model) if request.table is None else check_table(request.table, model.shapes)


def _add(
    deployment: Deployment,
    commit: BaseCommit,
    checked: _Checked,
    there: BaseSummary | None,
    table: TargetTable | None,
    progress: Progress,
) -> BaseAdded:
    with deployment.read() as session:
        uploads = upload_rows.open_ones(session, commit.uploads, deployment.principal)
        wanted = wanted_bytes(session, checked.files.values(), uploads)
    progress.begin("Checking what was uploaded", wanted.size)
    hashes = {path: TensorHashes(header) for path, header in checked.model.headers.items()}
    energies = watches_of(checked.model.headers)
    watches = {checked.files[path].digest: _watch(checked, path, hashes[path], energies[path]) for path in hashes}
    with Intake(deployment, progress, wanted.recorded) as intake:
        take(wanted, intake, watches)
        index = replace(_index(checked, hashes), not_finite=not_finite(energies))
        digests = {path: claim.digest for path, claim in checked.files.items()}
        if there is not None:
            check_same(there, index.weights_digest, digests)
            return answer(deployment, there, checked.left_out, (), created=False)
        if table is None:
            raise AssertionError("a base model that is not there gets a table")
        if commit.request.table is None:  # a copied table is kept unchanged
            table = settled(table, index)
        stored = intake.commit()
        request, left_out = commit.request, checked.left_out
        return make_visible(
            deployment,
            intake,
            request.name,
            Made(index, table, norms_row(table, energies)),
            stored,
            left_out,
            request.source,
            request.derived_from,
        )


def _watch(checked: _Checked, path: str, *watches: Watch) -> Watch:
    """A watch on the bytes of a weight file: compares the header with the checked one, then calls the others."""
    head = SameHead(path, checked.heads[path], checked.model.headers[path].size, InvalidBaseError)

    def every(offset: int, chunk: memoryview) -> None:
        head(offset, chunk)
        for watch in watches:
            watch(offset, chunk)

    return every


def _index(checked: _Checked, hashes: Mapping[str, TensorHashes]) -> ModelIndex:
    tensors: dict[str, Any] = {}
    for path, header in checked.model.headers.items():
        tensors |= tensors_of(path, header, hashes[path].digests())
    return ModelIndex(tensors, {path: (claim.digest, claim.size) for path, claim in checked.files.items()})
