"""The inputs of artifacts: the open blobs of a path, as base tensors and stored files. Needs no torch."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack
from functools import cached_property

from registry.digest import BlobRef, StoredFile
from registry.errors import IntegrityError
from registry.files.header import Header, TensorEntry, read_header
from registry.files.source import ByteSource
from registry.services.lineage import Blobs, LoadedPath, read_document, target_table
from registry.tensors.artifacts.artifact import ArtifactFile, source_file
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

    def base_tensors(self) -> tuple[dict[str, Header], dict[str, tuple[ByteSource, TensorEntry]]]:
        """See the function `base_tensors`."""
        return base_tensors(self.blobs, self.path, self.opened)

    def source(self, blob: BlobRef) -> ByteSource:
        """An open blob."""
        return open_source(self.blobs, blob, self.opened)


def open_source(blobs: Blobs, blob: BlobRef, opened: ExitStack) -> ByteSource:
    """A blob, open until ``opened`` is closed."""
    reader = blobs.open_blob(blob)
    opened.callback(reader.close)
    return reader


def stored_files(blobs: Blobs, files: Iterable[StoredFile], opened: ExitStack) -> list[ArtifactFile]:
    """Stored files, byte for byte, with the headers of those that hold tensors."""
    found = []
    for file in files:
        source = open_source(blobs, file, opened)
        header = read_header(source, what=file.path, error=IntegrityError) if _is_weights(file.path) else None
        found.append(source_file(file.path, source, header, file.digest))
    return found


def base_tensors(
    blobs: Blobs, path: LoadedPath, open_blobs: ExitStack
) -> tuple[dict[str, Header], dict[str, tuple[ByteSource, TensorEntry]]]:
    """Headers of the base's weight files, and every tensor with the open file that holds it."""
    by_name = {file.path: file for file in path.base.files}
    headers: dict[str, Header] = {}
    tensors: dict[str, tuple[ByteSource, TensorEntry]] = {}
    for name in weight_files(read_document(blobs, path.base.index)):
        source = open_source(blobs, by_name[name], open_blobs)
        headers[name] = read_header(source, what=name, error=IntegrityError)
        tensors.update({tensor: (source, entry) for tensor, entry in headers[name].entries.items()})
    return headers, tensors


def _is_weights(path: str) -> bool:
    """Whether a file of an artifact holds tensors."""
    return path.endswith(".safetensors") and "/" not in path
