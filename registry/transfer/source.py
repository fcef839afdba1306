"""The source of what is added or published: a local folder, or a repository of a Hub that is downloaded first.

Of a full model, what is published of it is made in a folder of its own, and then published as any other. Needs neither
torch nor a database, since clients use it: what makes that folder is passed in.

A base model's folder becomes the request to add it: names, digests, documents and headers, without the weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from os import PathLike, fspath
from pathlib import Path
from typing import Final

from registry.errors import InvalidAdapterError, InvalidBaseError, NotFoundError, RegistryError, UsageError
from registry.files.hashed import HashedFile
from registry.folders.archives import Opened, archive_of
from registry.folders.foreign import is_checkpoint, no_folder, tensor_names
from registry.folders.hub.repository import Choose, Listing, Snapshot, as_repository, bring, names_a_hub
from registry.folders.local_files import hash_found, head_of, telling_unreadable, telling_unwritable
from registry.folders.lora_files import ENDING, only_weights
from registry.folders.receipts import derived_from
from registry.folders.scan import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    MODEL_CONFIG,
    PICKLED_WEIGHTS,
    RECEIPT,
    Folder,
    FoundFile,
    has_pickle_alone,
    models_beside,
    require_adapter,
)
from registry.folders.staging import temporary_folder
from registry.operations.publication import FullModel, Publication
from registry.progress import Progress
from registry.schemas import LeftOut
from registry.schemas.artifacts import Extraction
from registry.schemas.transfer import BaseRequest, FileClaim
from registry.transfer.model_files import is_document, list_model, read_document, read_model_files


@dataclass(frozen=True)
class Given:
    """A local folder, and the Hub snapshot that it was downloaded from, if any."""

    folder: Path
    snapshot: Snapshot | None = None
    only: str | None = None  # the file in it that was given, a model of its own

    @property
    def source(self) -> str | None:
        """``hf:ORG/REPO@COMMIT``; None: a folder of the user's own."""
        return self.snapshot.source if self.snapshot else None

    def with_left_out(self, left_out: Iterable[LeftOut]) -> tuple[LeftOut, ...]:
        """These files, and those that were not downloaded."""
        before = {left.path: left for left in self.snapshot.left_out} if self.snapshot else {}
        return tuple(sorted((before | {left.path: left for left in left_out}).values(), key=lambda left: left.path))

    def check(self, files: Mapping[str, tuple[str, int]]) -> None:
        """Check digests and sizes of files against the Hub's; raises `IntegrityError`."""
        if self.snapshot is not None:
            self.snapshot.check(files)


def given_base(place: str | PathLike[str], progress: Progress, variant: str | None = None) -> Given:
    """A base model; of a repository only the files of the model are downloaded.

    ``variant`` is that of a pipeline's weights (`registry.transfer.model_files.list_model`).

    Raises:
        What `registry.folders.hub.repository.bring` and `registry.transfer.model_files.list_model` raise.
    """

    def choose(listing: Listing) -> tuple[Iterable[str], Iterable[LeftOut]]:
        found = list_model(
            listing.where, listing.names, lambda path: listing.read(path) if path in listing.names else None, variant
        )
        return found.files, found.left_out

    if not names_a_hub(place) and _is_checkpoint(file := Path(place)):
        return Given(file.parent, only=file.name)
    return _given(place, choose, InvalidBaseError, progress)


def _is_checkpoint(file: Path) -> bool:
    """Whether it is a file that is an image model."""
    with telling_unreadable(file):
        there = file.suffix == ENDING and file.is_file()
    return there and is_checkpoint(tensor_names(head_of(file)))


def given_adapter(place: str | PathLike[str], progress: Progress, opened: Opened | None = None) -> Given:
    """An adapter; of a repository only the files are downloaded that a publish folder would include.

    Args:
        place: the folder, the repository; an archive with one adapter, or a folder in an archive; or a LoRA file.
        progress: of the download.
        opened: unpacks archives; None: they are no folders.

    Raises:
        What `registry.folders.hub.repository.bring` and `registry.folders.scan.require_adapter` raise.
    """

    def choose(listing: Listing) -> tuple[Iterable[str], Iterable[LeftOut]]:
        pickle = (PICKLED_WEIGHTS,) if opened is not None and has_pickle_alone(listing.names, listing.left_out) else ()
        bare = opened is not None and {ADAPTER_CONFIG, MODEL_CONFIG}.isdisjoint(listing.names)
        alone = bare and only_weights(listing.names)
        if not pickle and not alone:  # the file can be recognised once it is downloaded
            require_adapter(listing.where, listing.names, listing.left_out)
        models = models_beside(listing.names)
        names = (name for name in listing.names if name not in {model.path for model in models})
        return (*names, *pickle, *_receipt(listing)), models

    if opened is not None and not names_a_hub(place):
        file = Path(place)
        if archive_of(file) is not None or (file.suffix == ENDING and file.is_file()):
            return Given(opened.one(place, "adapter"))
    return _given(place, choose, InvalidAdapterError, progress)


def _receipt(listing: Listing) -> Iterable[str]:
    """The receipt of an export: it belongs to no revision, but proves the parent."""
    return (left.path for left in listing.left_out if left.path == RECEIPT)


def _given(place: str | PathLike[str], choose: Choose, error: type[RegistryError], progress: Progress) -> Given:
    if not names_a_hub(place):
        return Given(_there(fspath(place), as_repository(place)))
    snapshot = bring(fspath(place), choose, error, progress)
    return Given(snapshot.folder, snapshot)


def _there(place: str, repository: str | None) -> Path:
    """The folder; if it is none and is named as a ``repository`` is, `NotFoundError` explains how to name that."""
    folder = Path(place)
    with telling_unreadable(folder):
        if repository is None or folder.exists():
            return folder
    raise NotFoundError(f"There is no folder {place!r}. From a Hub: {repository}", code="missing_file")


def own_folder(place: str | PathLike[str], what: str) -> Path:
    """A local folder, if repositories are not accepted; ``what`` names the command for the error.

    Raises:
        UsageError: it names a repository of a Hub.
    """
    if names_a_hub(place):
        raise UsageError(f"{what} needs a folder on this machine, but {fspath(place)} is a Hub repository.")
    return Path(place)


@dataclass(frozen=True)
class HashedFiles:
    """The files that a request names, by digest."""

    hashed: Mapping[str, HashedFile]

    @property
    def sources(self) -> dict[str, Path]:
        """The path of the file with each digest."""
        return {digest: one.path for digest, one in self.hashed.items()}


@dataclass(frozen=True)
class BaseFolder(HashedFiles):
    """A base model's folder and the request to add it."""

    request: BaseRequest
    folder: Path


def hash_files(
    what: str, given: Given, files: Iterable[FoundFile], progress: Progress
) -> tuple[tuple[FileClaim, ...], dict[str, HashedFile]]:
    """Names, sizes and digests of all files, and the files themselves by digest."""
    listed = list(files)
    progress.begin(what, sum(found.size for found in listed))
    hashed = {found.path: hash_found(found.file, progress) for found in listed}
    given.check({path: (one.digest, one.stamp.size) for path, one in hashed.items()})
    claims = tuple(FileClaim(path=path, size=one.stamp.size, digest=one.digest) for path, one in hashed.items())
    return claims, {one.digest: one for one in hashed.values()}


def base_request(name: str, place: str | PathLike[str], progress: Progress, variant: str | None = None) -> BaseFolder:
    """Read a base model's folder (a repository of a Hub is downloaded first) and hash its files.

    Raises:
        NotFoundError: the folder does not exist.
        InvalidBaseError: see `registry.transfer.model_files.read_model_files`.
        What `registry.folders.hub.repository.bring` raises.
    """
    given = given_base(place, progress, variant)
    files_read = read_model_files(given.folder, variant, given.only)
    found, model = files_read.folder, files_read.model
    listing = model.listing
    refuse_adapter_beside(found)
    files = {entry.path: entry for entry in found.files if entry.path in set(listing.files)}
    claims, hashed = hash_files("Hashing the base model", given, files.values(), progress)
    derived, left_out = derived_from(
        found.root, listing.shards, given.with_left_out([*found.left_out, *listing.left_out])
    )
    documents = {path: read_document(found, path) for path in filter(is_document, files)}
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
    """Refuse a base model with an adapter in its folder: trained on that folder is trained on both.

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


@dataclass(frozen=True)
class MadeOfFull:
    """What was written of a full model."""

    extracted: Extraction | None  # the report of an extraction, if it is one
    left_out: tuple[LeftOut, ...]  # files of the model's folder that are not published


Extract = Callable[[Path, FullModel, Path], MadeOfFull]
"""Writes what is published of a full model into an empty folder: the model's folder, the request, the empty one."""


@contextmanager
def extracted(publication: Publication, extract: Extract, progress: Progress) -> Iterator[Publication]:
    """The publication of what was made of a full model; its folder lasts as long as the context.

    Raises:
        What ``extract`` and `registry.transfer.source.given_base` raise.
    """
    if publication.full is None:
        raise AssertionError("the folder of an adapter is published as it is")
    place, opened = publication.folder, publication.opened
    if opened is not None and not names_a_hub(place):
        place = opened.one(place, "model")
    given = given_base(place, progress)
    if given.only is not None:
        raise no_folder(given.folder / given.only)
    with ExitStack() as stack:
        with telling_unwritable(Path("the folder for temporary files")):
            out = stack.enter_context(temporary_folder("registry-full"))
        made = extract(given.folder, publication.full, out)
        left_out = given.with_left_out(made.left_out)
        yield replace(publication, folder=out, full=None, extracted=made.extracted, left_out=left_out)
