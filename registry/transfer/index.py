"""The index of a base model: one pass over its files gives a digest per file and per tensor."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any, Final

from registry.digest import PREFIX, document_digest
from registry.errors import IntegrityError
from registry.files.hashed import Each, hash_stream
from registry.files.header import Header, TensorEntry, read_model_header
from registry.files.source import FileSource
from registry.folders.scan import FoundFile
from registry.progress import Progress
from registry.quantised.listing import PlainListing, plain_from
from registry.quantised.reading import StoredTensor
from registry.transfer.model_files import ModelFiles, ModelListing

INDEX_FORMAT: Final = 1


@dataclass(frozen=True)
class IndexedTensor:
    """A tensor of a base model with its digest and file."""

    entry: TensorEntry
    digest: str
    file: str


@dataclass(frozen=True)
class Decoded:
    """How a quantised model is stored, in addition to the plain tensors that it means."""

    stored: Mapping[str, IndexedTensor]
    plain: PlainListing
    said: tuple[str, ...] = ()  # the stored tensors whose values control how others are decoded


@dataclass(frozen=True)
class ModelIndex:
    """All tensors of a base model with their digests, and the digests of all its files.

    Those of a quantised one are its plain tensors, in the files that its plain listing lays out.
    """

    tensors: Mapping[str, IndexedTensor]
    files: Mapping[str, tuple[str, int]]  # path -> (digest, size)
    not_finite: Mapping[str, Sequence[int]] = field(default_factory=dict)  # tensor -> rows with NaN or infinity
    quantised: Decoded | None = None
    identity: Mapping[str, str] = field(default_factory=dict)  # of a pipeline: its other files, and their digests

    @property
    def weights_digest(self) -> str:
        """The identity of the base model: over every stored tensor's dtype, shape, digest, whatever file holds it.

        That of a pipeline is over its other files, too: another scheduler makes it another model.
        """
        return weights_digest(self.to_document())

    @property
    def parameters(self) -> int:
        """Elements of all tensors."""
        return sum(tensor.entry.elements for tensor in self.tensors.values())

    def to_document(self) -> dict[str, Any]:
        """The index as a JSON document, which is stored as a blob."""
        return {
            "format": INDEX_FORMAT,
            **({"not_finite": {name: list(rows) for name, rows in self.not_finite.items()}} if self.not_finite else {}),
            "tensors": _tensors_document(self.tensors),
            **({} if self.quantised is None else {"quantised": _quantised_document(self.quantised)}),
            **({"identity": dict(sorted(self.identity.items()))} if self.identity else {}),
        }


def _tensors_document(tensors: Mapping[str, IndexedTensor]) -> dict[str, Any]:
    return {
        name: {
            "dtype": tensor.entry.dtype,
            "shape": list(tensor.entry.shape),
            "digest": tensor.digest,
            "file": tensor.file,
            "start": tensor.entry.start,
            "stop": tensor.entry.stop,
        }
        for name, tensor in sorted(tensors.items())
    }


def _quantised_document(quantised: Decoded) -> dict[str, Any]:
    stored = _tensors_document(quantised.stored)
    return {**quantised.plain.document(), "said": list(quantised.said), "stored": stored}


def stored_tensors(document: Mapping[str, Any]) -> Mapping[str, Any]:
    """The tensors as the files of a base model hold them, from an index document."""
    quantised = document.get("quantised")
    tensors: Mapping[str, Any] = document["tensors"] if quantised is None else quantised["stored"]
    return tensors


def plain_of(document: Mapping[str, Any]) -> PlainListing | None:
    """What a quantised base model means, from an index document; None: it is not quantised."""
    quantised = document.get("quantised")
    if quantised is None:
        return None
    stored = quantised["stored"].items()
    return plain_from(quantised, {name: StoredTensor(one["dtype"], tuple(one["shape"])) for name, one in stored})


def said_in(document: Mapping[str, Any]) -> dict[str, tuple[str, int, int]]:
    """The stored tensors whose values control how others are decoded, if quantised: file, first byte, byte after it."""
    tensors = stored_tensors(document)
    said = document.get("quantised", {}).get("said", ())
    return {name: (tensors[name]["file"], tensors[name]["start"], tensors[name]["stop"]) for name in said}


def stored_index(document: Mapping[str, Any]) -> ModelIndex:
    """The index of the tensors as the files hold them, from an index document."""
    tensors = {
        name: IndexedTensor(
            TensorEntry(name, one["dtype"], tuple(one["shape"]), one["start"], one["stop"]), one["digest"], one["file"]
        )
        for name, one in stored_tensors(document).items()
    }
    return ModelIndex(tensors, {})


def weights_digest(document: Mapping[str, Any]) -> str:
    """`ModelIndex.weights_digest` from an index document."""
    tensors = {
        name: {"dtype": tensor["dtype"], "shape": tensor["shape"], "digest": tensor["digest"]}
        for name, tensor in stored_tensors(document).items()
    }
    identity = document.get("identity")
    return document_digest(tensors if identity is None else {"tensors": tensors, "files": identity})


def weight_files(document: Mapping[str, Any]) -> tuple[str, ...]:
    """Names of the stored files that hold weights, from an index document."""
    return tuple(sorted({tensor["file"] for tensor in stored_tensors(document).values()}))


def files_digest(files: Mapping[str, tuple[str, int]]) -> str:
    """Digest of a list of files: of their names and digests."""
    return document_digest({path: digest for path, (digest, _) in files.items()})


def tensors_of(path: str, header: Header, digests: Mapping[str, str]) -> dict[str, IndexedTensor]:
    """The tensors of one weight file, by its header and their digests."""
    return {name: IndexedTensor(entry, digests[name], path) for name, entry in header.entries.items()}


def index_model(model: ModelFiles, progress: Progress, watches: Mapping[str, Each]) -> ModelIndex:
    """Hash all files of a base folder, each file as a whole and each tensor.

    Args:
        model: the files.
        progress: gets the bytes that are read.
        watches: called with the chunks of weight files, by path.

    Raises:
        IntegrityError: the header of a file changed since ``model`` was read.
    """
    files = model.files
    progress.begin("Hashing the base model", sum(found.file.stat().st_size for found in files))
    tensors: dict[str, IndexedTensor] = {}
    digests: dict[str, tuple[str, int]] = {}
    for found in files:
        header = model.headers.get(found.path)
        digest, size, by_tensor = _hash_file(found, header, watches.get(found.path), progress)
        digests[found.path] = (digest, size)
        if header is not None:
            tensors |= tensors_of(found.path, header, by_tensor)
    return ModelIndex(tensors, digests, identity=identity_of(model.model.listing, digests))


def identity_of(listing: ModelListing, files: Mapping[str, tuple[str, int]]) -> dict[str, str]:
    """What says what a model is besides its tensors, by the digests and sizes of all its files."""
    return {path: files[path][0] for path in listing.identity}


def _hash_file(
    found: FoundFile, header: Header | None, watch: Each | None, progress: Progress
) -> tuple[str, int, dict[str, str]]:
    """Digest and size of a file, and its tensors' digests, hashed on two threads (hashlib releases the GIL)."""
    parts, file = TensorHashes(header), found.file
    at = 0
    with closing(FileSource(file)) as source:

        def fill(buffer: memoryview) -> int:
            nonlocal at
            count = min(len(buffer), source.size - at)
            source.read_into(at, buffer[:count])
            at += count
            return count

        def each(offset: int, chunk: memoryview) -> None:
            parts(offset, chunk)
            if watch is not None:
                watch(offset, chunk)
            progress.advance(len(chunk))

        digest, size = hash_stream(fill, each)
        # The header was read before hashing began, which may be minutes ago for a large model.
        if header is not None and read_model_header(source, found.path, what=str(file), error=IntegrityError) != header:
            raise IntegrityError(
                f"{file} changed while it was being added; wait until nothing writes to it and add it again."
            )
    return digest, size, parts.digests()


class TensorHashes:
    """sha256 of each tensor's bytes: call it with the file's chunks in order."""

    def __init__(self, header: Header | None) -> None:
        self._entries = list(header.entries.values()) if header else []
        self._hashes = [hashlib.sha256() for _ in self._entries]
        self._next = 0

    def __call__(self, offset: int, chunk: memoryview) -> None:
        end = offset + len(chunk)
        while self._next < len(self._entries):
            entry = self._entries[self._next]
            if entry.start >= end and entry.stop > entry.start:
                return
            first, last = max(entry.start, offset), min(entry.stop, end)
            if first < last:
                self._hashes[self._next].update(chunk[first - offset : last - offset])
            if entry.stop > end:
                return
            self._next += 1

    def digests(self) -> dict[str, str]:
        """The digests by tensor name, after the last chunk."""
        return {
            entry.name: PREFIX + hashed.hexdigest() for entry, hashed in zip(self._entries, self._hashes, strict=True)
        }
