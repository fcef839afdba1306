"""Local folders as requests to a registry: names, digests and headers, without the weights.

Needs neither torch nor a database, since clients use it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import Final

from registry.errors import InvalidBaseError, UnavailableError
from registry.files.hashed import HashedFile
from registry.folders.archives import Opened
from registry.folders.local_files import hash_found, head_of
from registry.folders.receipts import derived_from
from registry.folders.scan import ADAPTER_CONFIG, ADAPTER_WEIGHTS, PICKLED_WEIGHTS, Folder, FoundFile, scan
from registry.operations.publication import Publication
from registry.progress import Progress
from registry.schemas import FileEntry, LeftOut, PublishPreview
from registry.schemas.artifacts import Extraction, FourBits
from registry.schemas.tags import NoticeCode
from registry.schemas.transfer import BaseRequest, FileClaim, PublishPlan, PublishRequest
from registry.transfer.adapter_folder import AdapterFolder, read_adapter
from registry.transfer.model_files import DOCUMENTS, check_folder, read_document
from registry.transfer.source import Given, given_base


@dataclass(frozen=True)
class HashedFiles:
    """The files that a request names, by digest."""

    hashed: Mapping[str, HashedFile]

    @property
    def sources(self) -> dict[str, Path]:
        """The path of the file with each digest."""
        return {digest: one.path for digest, one in self.hashed.items()}


@dataclass(frozen=True)
class PublishFolder(HashedFiles):
    """An adapter's folder and the request to publish it."""

    request: PublishRequest
    adapter: AdapterFolder

    def with_request(self, **changes: object) -> PublishFolder:
        """The same files with another request."""
        return replace(self, request=self.request.model_copy(update=changes))


@dataclass(frozen=True)
class BaseFolder(HashedFiles):
    """A base model's folder and the request to add it."""

    request: BaseRequest
    folder: Path


def request_of(publication: Publication, progress: Progress) -> PublishFolder:
    """A publication as a request; raises what `publish_request` raises."""
    labels = publication.labels
    return publish_request(
        publication.folder,
        str(publication.path),
        parent=publication.parent,
        receipt=publication.receipt,
        skip_parent_check=publication.skip_parent_check,
        find_parent=publication.find_parent,
        look_in=publication.look_in,
        sampled=publication.sampled,
        trained_quantised=publication.trained_quantised,
        message=labels.message,
        metrics=labels.metrics,
        tags=labels.tags,
        annotations=labels.annotations,
        strict=publication.strict,
        extracted=publication.extracted,
        before=publication.left_out,
        opened=publication.opened,
        progress=progress,
    )


def publish_request(
    place: str | PathLike[str],
    path: str,
    *,
    parent: str | None,
    receipt: Path | None,
    skip_parent_check: bool = False,
    find_parent: bool = False,
    look_in: Sequence[Path] = (),
    sampled: bool = False,
    trained_quantised: FourBits | None = None,
    message: str = "",
    metrics: Mapping[str, float] = {},
    tags: Iterable[str] = (),
    annotations: Mapping[str, str] = {},
    progress: Progress,
    nested: bool = False,
    strict: tuple[NoticeCode, ...] = (),
    extracted: Extraction | None = None,
    before: Iterable[LeftOut] = (),
    opened: Opened | None = None,
) -> PublishFolder:
    """Read an adapter's folder (an archive is unpacked first, a repository of a Hub downloaded) and hash its files.

    Raises:
        What `registry.transfer.adapter_folder.read_adapter` raises.
    """
    adapter = read_adapter(
        place,
        receipt=receipt,
        skip_parent_check=skip_parent_check,
        look_in=look_in,
        sampled=sampled,
        trained_quantised=trained_quantised,
        before=before,
        opened=opened,
        progress=progress,
    )
    claims, hashed = _claims("Hashing", adapter.given, adapter.files, progress)
    request = PublishRequest(
        path=path,
        parent=parent,
        receipt=adapter.receipt,
        message=message,
        metrics=dict(metrics),
        tags=tuple(tags),
        annotations=dict(annotations),
        config=adapter.config,
        header=adapter.header,
        files=claims,
        left_out=adapter.left_out,
        source=adapter.given.source,
        skip_parent_check=skip_parent_check,
        find_parent=find_parent,
        derived_from=adapter.derived_from,
        quantised=adapter.quantised,
        trained_quantised=None if extracted is not None else adapter.trained_quantised,
        cached=adapter.cached,
        nested=nested,
        strict=strict,
        extracted=extracted,
    )
    return PublishFolder(hashed, request, adapter)


def preview(made: PublishFolder, plan: PublishPlan, registry: str, unchecked: Iterable[str]) -> PublishPreview:
    """What publishing a folder would do.

    Raises:
        UnavailableError: the service is too old to report that.
    """
    request = made.request
    if plan.digest is None or plan.rank is None or plan.parameters is None:
        raise UnavailableError(
            f"The registry at {registry} is older than this program and does not support --dry-run here; ask its "
            "operator to upgrade it, or publish without --dry-run, folder by folder.",
            code="other_version",
        )
    sizes = {claim.digest: claim.size for claim in request.files}
    return PublishPreview(
        path=request.path,
        reference=plan.existing,
        digest=plan.digest,
        parent=plan.parent,
        parent_digest=plan.parent_digest,
        parent_reason=plan.parent_reason,
        parent_known_by=plan.parent_known_by,
        rank=plan.rank,
        parameters=plan.parameters,
        size=sum(claim.size for claim in request.files),
        files=tuple(FileEntry(path=claim.path, size=claim.size, digest=claim.digest) for claim in request.files),
        left_out=request.left_out,
        missing=plan.missing,
        bytes_missing=sum(sizes.get(digest, 0) for digest in plan.missing),
        notices=plan.notices,
        unchecked=tuple(unchecked),
        source=request.source,
        registry=registry,
        extracted=request.extracted,
    )


def base_request(name: str, place: str | PathLike[str], progress: Progress) -> BaseFolder:
    """Read a base model's folder (a repository of a Hub is downloaded first) and hash its files.

    Raises:
        NotFoundError: there is no such folder.
        InvalidBaseError: see `registry.transfer.model_files.read_model_files`.
        What `registry.folders.hub.repository.bring` raises.
    """
    given = given_base(place, progress)
    found = scan(given.folder, InvalidBaseError)
    model = check_folder(found)
    listing = model.listing
    refuse_adapter_beside(found)
    files = {entry.path: entry for entry in found.files if entry.path in set(listing.files)}
    claims, hashed = _claims("Hashing the base model", given, files.values(), progress)
    derived, left_out = derived_from(
        found.root, listing.shards, given.with_left_out([*found.left_out, *listing.left_out])
    )
    documents = {path: read_document(found, path) for path in DOCUMENTS if path in files}
    request = BaseRequest(
        name=name,
        files=claims,
        documents={path: data for path, data in documents.items() if data is not None},
        headers={path: head_of(files[path].file) for path in listing.shards},
        small=dict(model.small),
        left_out=left_out,
        source=given.source,
        derived_from=derived,
    )
    return BaseFolder(hashed, request, given.folder)


_ADAPTER_WEIGHTS: Final = (ADAPTER_WEIGHTS, PICKLED_WEIGHTS)


def refuse_adapter_beside(folder: Folder) -> None:
    """Refuse a base model beside which an adapter lies: trained on that folder is trained on both.

    Raises:
        InvalidBaseError: ``adapter_as_base``.
    """
    names = {*(one.path for one in folder.files), *(one.path for one in folder.left_out)}
    if ADAPTER_CONFIG in names and not names.isdisjoint(_ADAPTER_WEIGHTS):
        raise InvalidBaseError(
            f"{folder.root} holds a whole model and beside it an adapter ({ADAPTER_CONFIG} and its weights), which "
            "transformers puts on top of the model: move the adapter into a folder of its own and add the model alone.",
            code="adapter_as_base",
        )


def _claims(
    what: str, given: Given, files: Iterable[FoundFile], progress: Progress
) -> tuple[tuple[FileClaim, ...], dict[str, HashedFile]]:
    """Names, sizes and digests of all files, and the files themselves by digest."""
    listed = list(files)
    progress.begin(what, sum(found.size for found in listed))
    hashed = {found.path: hash_found(found.file, progress) for found in listed}
    given.check({path: (one.digest, one.stamp.size) for path, one in hashed.items()})
    claims = tuple(FileClaim(path=path, size=one.stamp.size, digest=one.digest) for path, one in hashed.items())
    return claims, {one.digest: one for one in hashed.values()}
