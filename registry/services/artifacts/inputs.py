"""The inputs of artifacts: the open blobs of a path, as bound checkpoints, base tensors and stored files."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack
from functools import cached_property

from registry.digest import BlobRef, StoredFile
from registry.errors import IntegrityError, InvalidAdapterError
from registry.files.header import Header, TensorEntry, read_header
from registry.files.source import ByteSource
from registry.folders.scan import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from registry.services.lineage import Blobs, Link, LoadedPath, read_blob, read_document, target_table
from registry.tensors.artifacts.artifact import ArtifactFile, source_file
from registry.tensors.checkpoint.lora_config import parse_config
from registry.tensors.checkpoint.reading import read_checkpoint
from registry.tensors.path.programs import BoundLink
from registry.tensors.table.targets import TargetTable
from registry.transfer.index import weight_files


class Inputs:
    """The blobs of a path; ``opened`` closes those that are opened here."""

    def __init__(self, blobs: Blobs, path: LoadedPath, opened: ExitStack) -> None:
        self.blobs = blobs
        self.path = path
        self.opened = opened

    @cached_property
    def table(self) -> TargetTable:
        """The target table of the base model."""
        return target_table(self.blobs, self.path.base)

    def bound(self, links: Iterable[Link]) -> list[BoundLink]:
        """Links of the path, read as checkpoints.

        Raises:
            InvalidAdapterError: a link is invalid by the rules of this version.
        """
        found = []
        for link in links:
            try:
                found.append(bind_link(self.blobs, link, self.path, self.opened))
            except InvalidAdapterError as problem:
                # It was valid when it was published: a rule has become stricter since, or bytes have changed.
                raise InvalidAdapterError(f"{link.reference} can't be used: {problem}", code=problem.code) from problem
        return found

    def base_tensors(self) -> tuple[dict[str, Header], dict[str, tuple[ByteSource, TensorEntry]]]:
        """See the function `base_tensors`."""
        return base_tensors(self.blobs, self.path, self.opened)

    def source(self, blob: BlobRef) -> ByteSource:
        """An open blob."""
        return _source(self.blobs, blob, self.opened)


def _source(blobs: Blobs, blob: BlobRef, opened: ExitStack) -> ByteSource:
    reader = blobs.open_blob(blob)
    opened.callback(reader.close)
    return reader


def stored_files(blobs: Blobs, files: Iterable[StoredFile], opened: ExitStack) -> list[ArtifactFile]:
    """Stored files, byte for byte, with the headers of those that hold tensors."""
    found = []
    for file in files:
        source = _source(blobs, file, opened)
        header = read_header(source, what=file.path, error=IntegrityError) if _is_weights(file.path) else None
        found.append(source_file(file.path, source, header, file.digest))
    return found


def bind_link(blobs: Blobs, link: Link, path: LoadedPath, open_blobs: ExitStack) -> BoundLink:
    """The checkpoint of a published revision with the open file of its tensors."""
    config = parse_config(read_blob(blobs, link.file(ADAPTER_CONFIG)))
    source = _source(blobs, link.file(ADAPTER_WEIGHTS), open_blobs)
    header = read_header(source, what=ADAPTER_WEIGHTS, error=InvalidAdapterError)
    return BoundLink(read_checkpoint(config, header.entries, target_table(blobs, path.base)), source)


def base_tensors(
    blobs: Blobs, path: LoadedPath, open_blobs: ExitStack
) -> tuple[dict[str, Header], dict[str, tuple[ByteSource, TensorEntry]]]:
    """Headers of the base's weight files, and every tensor with the open file that holds it."""
    by_name = {file.path: file for file in path.base.files}
    headers: dict[str, Header] = {}
    tensors: dict[str, tuple[ByteSource, TensorEntry]] = {}
    for name in weight_files(read_document(blobs, path.base.index)):
        source = _source(blobs, by_name[name], open_blobs)
        headers[name] = read_header(source, what=name, error=IntegrityError)
        tensors.update({tensor: (source, entry) for tensor, entry in headers[name].entries.items()})
    return headers, tensors


def _is_weights(path: str) -> bool:
    """Whether a file of an artifact holds tensors."""
    return path.endswith(".safetensors") and "/" not in path
