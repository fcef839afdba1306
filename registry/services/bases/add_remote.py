"""Adding a client's base model: names, headers and documents are checked first, the uploaded bytes when committing.

Checking a target table that another registry made against the tensors of the base model.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from registry.catalogue.store import uploads as upload_rows
from registry.digest import sha256_digest
from registry.errors import IntegrityError, InvalidBaseError
from registry.files.header import Header, TensorEntry, read_model_header
from registry.files.strict_json import shown
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
from registry.services.bases.decoded import decoded
from registry.services.bases.norms import energies_of, norms_row, not_finite, watches_of
from registry.services.deployment import Deployment
from registry.services.intake.intake import Intake, retry_collected
from registry.services.intake.uploads import drop_taken, dropped_when_refused, take, wanted_bytes
from registry.storage.reading import Watch
from registry.tensors.lineage.paths import read_document
from registry.tensors.table.conversions import run_problem
from registry.tensors.table.parameters import FusedParameter
from registry.tensors.table.targets import FORMAT, Target, TargetTable
from registry.transfer.index import ModelIndex, TensorHashes, identity_of, stored_tensors, tensors_of
from registry.transfer.model_files import CheckedModel, ReadTensor, check_model, is_document, list_model
from registry.transfer.publish_request import Head, SameHead, check_claims, check_derivation, check_document

Shapes = Mapping[str, tuple[str, tuple[int, ...]]]
"""dtype and shape by tensor name."""


def check_table(document: Mapping[str, Any], shapes: Shapes) -> TargetTable:
    """Parse a table and check that it matches these tensors.

    Raises:
        InvalidBaseError: ``bad_declaration``, it is malformed, of another version, or names missing tensors or wrong
            shapes.
    """
    try:
        table = TargetTable.from_document(document)
        known = table.to_document() == dict(document)
    except IntegrityError as problem:  # means damage in a stored table, but this one came with a request
        raise _refused(f"its format is {shown(document.get('format'))}, and {FORMAT} is read here") from problem
    except (KeyError, TypeError, ValueError, AttributeError) as problem:
        raise _refused("it is malformed") from problem
    if not known:
        raise _refused("it has parts that this version does not support")
    bare = {tensor: shape for tensor, (_, shape) in shapes.items()}
    for name, held in table.parameters.items():
        if held.runs:
            problem_of = run_problem(held.runs, held.shape, bare)
            if problem_of is not None:
                raise _refused(f"the parameter {shown(name)} {problem_of}")
        elif held.tensor not in shapes or tuple(held.shape) != shapes[held.tensor][1]:
            raise _refused(f"the parameter {shown(name)} is not a tensor of that shape")
    _check_ties(table)
    _check_overlaps(table)
    for target in table.targets.values():
        problem_of = next(_problems(target, table, shapes), None)
        if problem_of is not None:
            raise _refused(f"{shown(target.module)} {problem_of}")
    return table


def _check_ties(table: TargetTable) -> None:
    """Check that both sides of every tie exist."""
    for name, holder in (table.ties or {}).items():
        if name in table.parameters or (holder is not None and holder not in table.parameters):
            raise _refused(f"the parameter {shown(name)} is tied to one that does not exist")
    for module, target_of in table.apart.items():
        if not {module, target_of} <= table.targets.keys():
            raise _refused(f"{shown(module)} is distinguished from a module that does not exist")


def _check_overlaps(table: TargetTable) -> None:
    """Check that no rows belong to two parameters: they would be changed twice."""
    whole = {held.tensor for held in table.parameters.values() if not held.runs}
    whole |= {piece.tensor for target in table.targets.values() for fused in target.fused for piece in fused.pieces}
    runs = sorted(run for held in table.parameters.values() for run in held.runs)
    shared = [run for run, after in pairwise(runs) if after.tensor == run.tensor and after.first < run.first + run.rows]
    shared += [run for run in runs if run.tensor in whole]
    if shared:
        raise _refused(f"rows of {shown(shared[0].tensor)} are those of two parameters")


def _problems(target: Target, table: TargetTable, shapes: Shapes) -> Iterator[str]:
    tensor = target.tensor
    empty = tensor is not None and tensor in shapes and target.shape == shapes[tensor][1]  # one may hold nothing
    if not target.shape or (min(target.shape) < 1 and not empty):
        yield "has an invalid shape"
    if target.tensor is not None and (target.tensor not in shapes or target.shape != shapes[target.tensor][1]):
        yield "is not a tensor of that shape"
    if target.tie is not None and target.tie not in table.targets:
        yield "is tied to a module that does not exist"
    for parameter in target.fused:
        yield from _piece_problems(parameter, shapes)


def _piece_problems(parameter: FusedParameter, shapes: Shapes) -> Iterator[str]:
    for piece in parameter.pieces:
        shape = shapes[piece.tensor][1] if piece.tensor in shapes else ()
        matrices = math.prod(shape[:-2]) if len(shape) in (2, 3) else 0
        first, stop = piece.out
        outputs = stop - first
        expected = (parameter.in_features, outputs) if piece.transposed else (outputs, parameter.in_features)
        inside = 0 <= piece.expert < parameter.experts and 0 <= first < stop <= parameter.out_features
        if not inside or not 0 <= piece.matrix < matrices or tuple(shape[-2:]) != expected:
            yield f"has a parameter {shown(parameter.name)} with a piece that is not in its tensor"


def _refused(why: str) -> InvalidBaseError:
    return InvalidBaseError(
        f"The target table that came with the base model can't be used: {why}.", code="bad_declaration"
    )


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
    for path in filter(is_document, claims):
        if path not in request.documents:
            raise InvalidBaseError(f"{request.name} has a {path} that was not sent; send it too.", code="missing_file")
    listing = list_model(request.name, claims, request.documents.get)
    heads = {}
    for path in listing.shards:
        heads[path] = Head(path, request.headers.get(path, b""), claims[path].size, InvalidBaseError)

    def header(path: str) -> Header:
        return read_model_header(heads[path], path, error=InvalidBaseError)

    left_out = tuple(sorted([*request.left_out, *listing.left_out], key=lambda left: left.path))
    files = {path: claims[path] for path in listing.files}
    return _Checked(check_model(listing, header, _sent(request)), files, heads, left_out)


def _sent(request: BaseRequest) -> ReadTensor:
    """The values that a request sends of a quantised model's tensors."""

    def read(path: str, entry: TensorEntry) -> bytes:
        value = request.small.get(entry.name)
        if value is None or len(value) != entry.stop - entry.start:
            raise InvalidBaseError(
                f"The values of {shown(entry.name)} in {path}, which say how the base model is quantised, were not "
                "sent as they are: add it with a client of this version.",
                code="quantised_base",
            )
        return value

    return read


def _is_there(deployment: Deployment, there: BaseSummary, checked: _Checked) -> bool:
    """Whether the existing base model of this name has identical weight files.

    False leaves it to the tensors' digests: the same tensors may be split into files differently.

    Raises:
        ConflictError: ``other_weights`` if names, dtypes or shapes already differ, or ``name_taken``.
    """
    stored = {file.path: file.digest for file in there.files}
    digests = {path: claim.digest for path, claim in checked.files.items()}
    listing = checked.model.listing
    if all(digests[path] == stored.get(path) for path in (*listing.shards, *listing.identity)):
        check_same(there, there.digest, digests)
        return True
    base = load_path(deployment, Reference.parse(there.name)).base
    index = stored_tensors(read_document(deployment, base.index))
    theirs = {name: (tensor["dtype"], tuple(tensor["shape"])) for name, tensor in index.items()}
    if theirs != checked.model.stored_shapes:
        raise other_weights(there, "tensors of other names, dtypes or shapes")
    return False


def _table(request: BaseRequest, model: CheckedModel) -> TargetTable:
    """The target table: made from the model, or for a copy the table of the source registry."""
    if request.table is None:
        return understood(model)
    table = check_table(request.table, model.shapes)
    if table.quantised != model.decoding_digest:
        raise _refused("the quantised weights are decoded in another way here")
    return table


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
        index = _index(checked, hashes)
        digests = {path: claim.digest for path, claim in checked.files.items()}
        if there is not None:
            check_same(there, index.weights_digest, digests)
            return answer(deployment, there, checked.left_out, (), created=False)
        if table is None:
            raise AssertionError("a base model that is not there gets a table")
        model = checked.model
        _check_small(model, index)
        with ExitStack() as opened:
            sources = {path: opened.enter_context(intake.opened(checked.files[path].digest)) for path in hashes}
            index, rows = decoded(index, model.plain, model.small, sources, energies_of(energies), progress)
        index = replace(index, not_finite=not_finite(energies, index.tensors))
        if commit.request.table is None:  # a copied table stays unchanged
            table = settled(table, index)
        stored = intake.commit()
        request, left_out = commit.request, checked.left_out
        return make_visible(
            deployment,
            intake,
            request.name,
            Made(index, table, norms_row(table, rows)),
            stored,
            left_out,
            request.source,
            request.derived_from,
        )


def _check_small(model: CheckedModel, index: ModelIndex) -> None:
    """Check that the values by which quantised tensors were read are those in the files."""
    for name, value in model.small.items():
        if sha256_digest(value) != index.tensors[name].digest:
            raise IntegrityError(
                f"Tensor {shown(name)} was sent with other bytes than the file has: add the base model again.",
                code="upload_mismatch",
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
    files = {path: (claim.digest, claim.size) for path, claim in checked.files.items()}
    return ModelIndex(tensors, files, identity=identity_of(checked.model.listing, files))
