"""A folder of this machine as a request to a registry elsewhere: names, digests and headers, and no weights.

Needs neither torch nor a database: a client makes these.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Final

from registry.digest import PREFIX
from registry.errors import InvalidAdapterError, InvalidBaseError, NotFoundError, UnavailableError
from registry.folders.receipts import read_receipt
from registry.folders.scan import ADAPTER_CONFIG, ADAPTER_WEIGHTS, RECEIPT, Folder, FoundFile, adapter_folder, scan
from registry.progress import Progress
from registry.services.given import Given, given_adapter, given_base
from registry.services.model_listing import DOCUMENTS, MAX_DOCUMENT, ModelListing, list_model
from registry.wire import BaseRequest, FileClaim, GivenReceipt, PublishRequest

MAX_CONFIG: Final = 8 << 20
MAX_HEAD: Final = 100_000_008  # what a safetensors header may take, its length field included
_LENGTH: Final = 8
_CHUNK: Final = 8 << 20


@dataclass(frozen=True)
class PublishFolder:
    """An adapter's request, and where the bytes of each digest are."""

    request: PublishRequest
    sources: Mapping[str, Path]


@dataclass(frozen=True)
class BaseFolder:
    """A base model's request, and where the bytes of each digest are."""

    request: BaseRequest
    sources: Mapping[str, Path]
    folder: Path


def publish_request(
    place: str | PathLike[str],
    path: str,
    *,
    parent: str | None,
    receipt: Path | None,
    message: str,
    metrics: Mapping[str, float],
    tags: Iterable[str],
    annotations: Mapping[str, str],
    progress: Progress,
) -> PublishFolder:
    """Read an adapter's folder, brought here where it is a repository of a Hub.

    Raises:
        NotFoundError, InvalidAdapterError: see `registry.folders.scan.adapter_folder`; or what
            `registry.folders.hub_source.bring` raises.
    """
    given = given_adapter(place, progress)
    found = adapter_folder(given.folder)
    config = read_config(found)
    proof = given_receipt(receipt, config)
    head = head_of(weights_file(found))
    claims, sources = _claims("Hashing", given, found.files, progress)
    request = PublishRequest(
        path=path,
        parent=parent,
        receipt=proof,
        message=message,
        metrics=dict(metrics),
        tags=tuple(tags),
        annotations=dict(annotations),
        config=config,
        header=head,
        files=claims,
        left_out=given.with_left_out(found.left_out),
        source=given.source,
    )
    return PublishFolder(request, sources)


def base_request(name: str, place: str | PathLike[str], progress: Progress) -> BaseFolder:
    """Read a base model's folder, brought here where it is a repository of a Hub.

    Raises:
        NotFoundError: there is no such folder.
        InvalidBaseError: see `registry.services.model_listing.list_model`.
        What `registry.folders.hub_source.bring` raises.
    """
    given = given_base(place, progress)
    found = scan(given.folder, InvalidBaseError)
    listing = list_folder(found)
    files = {entry.path: entry for entry in found.files if entry.path in set(listing.files)}
    claims, sources = _claims("Hashing the base model", given, files.values(), progress)
    documents = {path: read_document(found, path) for path in DOCUMENTS if path in files}
    request = BaseRequest(
        name=name,
        files=claims,
        documents={path: data for path, data in documents.items() if data is not None},
        headers={path: head_of(files[path].file) for path in listing.shards},
        left_out=given.with_left_out([*found.left_out, *listing.left_out]),
        source=given.source,
    )
    return BaseFolder(request, sources, given.folder)


def list_folder(folder: Folder) -> ModelListing:
    """Tell the files of a base folder apart; see `registry.services.model_listing.list_model`."""
    paths = [found.path for found in folder.files]
    return list_model(str(folder.root), paths, lambda path: read_document(folder, path))


def read_document(folder: Folder, path: str) -> bytes | None:
    """A small document of a base folder, at most one byte more of it than is allowed; None where there is none."""
    file = folder.find(path)
    return None if file is None else _read(file, MAX_DOCUMENT + 1)


def read_config(folder: Folder) -> bytes:
    """adapter_config.json, at most one byte more of it than is allowed."""
    file = folder.find(ADAPTER_CONFIG)
    if file is None:
        raise AssertionError("an adapter folder has its configuration")
    return _read(file, MAX_CONFIG + 1)


def weights_file(folder: Folder) -> Path:
    """adapter_model.safetensors."""
    file = folder.find(ADAPTER_WEIGHTS)
    if file is None:
        raise AssertionError("an adapter folder has its weights")
    return file


def head_of(file: Path) -> bytes:
    """The header of a safetensors file with its length field, as far as it is there; the service checks it."""
    length = int.from_bytes(_read(file, _LENGTH), "little")
    return _read(file, min(_LENGTH + length, MAX_HEAD))


def given_receipt(given: Path | None, config: bytes) -> GivenReceipt | None:
    """The receipt that proves the parent: the one that was given, or that of the folder which was trained on.

    Raises:
        NotFoundError, InvalidAdapterError: the receipt can't be read.
    """
    if given is not None:
        return GivenReceipt(receipt=read_receipt(given, InvalidAdapterError), words=f"the receipt {given}")
    trained_on = _trained_on(config)
    if not trained_on or "\0" in trained_on:
        return None
    folder = Path(trained_on).expanduser()
    try:
        there = (folder / RECEIPT).is_file()
    except OSError:  # a name too long for a path is no folder of this machine
        there = False
    if not there:
        return None
    words = f"the receipt in {folder}, which the adapter was trained on"
    return GivenReceipt(receipt=read_receipt(folder, InvalidAdapterError), words=words)


def _trained_on(config: bytes) -> str | None:
    """``base_model_name_or_path``; whether the rest is a configuration is checked by whoever publishes it."""
    try:
        document = json.loads(config)
    except (ValueError, RecursionError):
        return None
    found = document.get("base_model_name_or_path") if isinstance(document, dict) else None
    return found if isinstance(found, str) else None


def _claims(
    what: str, given: Given, files: Iterable[FoundFile], progress: Progress
) -> tuple[tuple[FileClaim, ...], dict[str, Path]]:
    """Names, sizes and digests of all files, and where the bytes of each digest are."""
    listed = list(files)
    progress.begin(what, sum(found.file.stat().st_size for found in listed))
    claims = []
    sources: dict[str, Path] = {}
    for found in listed:
        digest, size = _hash(found.file, progress)
        claims.append(FileClaim(path=found.path, size=size, digest=digest))
        sources[digest] = found.file
    given.check({claim.path: (claim.digest, claim.size) for claim in claims})
    return tuple(claims), sources


def _hash(file: Path, progress: Progress) -> tuple[str, int]:
    digest, size = hashlib.sha256(), 0
    buffer = memoryview(bytearray(_CHUNK))
    try:
        with file.open("rb", buffering=0) as stream:
            while count := stream.readinto(buffer):
                digest.update(buffer[:count])
                size += count
                progress.advance(count)
    except OSError as problem:
        raise _unreadable(file, problem) from problem
    return PREFIX + digest.hexdigest(), size


def _read(file: Path, length: int) -> bytes:
    try:
        with file.open("rb") as stream:
            return stream.read(length)
    except OSError as problem:
        raise _unreadable(file, problem) from problem


def _unreadable(file: Path, problem: OSError) -> NotFoundError | UnavailableError:
    if isinstance(problem, FileNotFoundError):
        return NotFoundError(f"There is no file {file}: check the name, or whether something removed it.")
    reason = os.strerror(problem.errno) if problem.errno else str(problem)
    return UnavailableError(f"The file {file} can't be read ({reason}): make it readable and run this again.")
