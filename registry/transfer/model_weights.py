"""Checking a base model's weight files: headers and index agree, and what is quantised is understood."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from registry.errors import InvalidBaseError
from registry.files.header import Header, TensorEntry, read_header
from registry.files.source import FileSource, read_range
from registry.files.strict_json import shown
from registry.folders.contents import read_start
from registry.folders.errors import telling_unreadable
from registry.folders.foreign import dialect_of
from registry.folders.scan import Folder, FoundFile, scan
from registry.quantised.listing import PlainListing, decoding_digest, plain_config, plain_listing
from registry.quantised.reading import SMALL, StoredTensor
from registry.quantised.table import read_quantised
from registry.schemas import LeftOut
from registry.transfer.model_files import INDEX, MAX_DOCUMENT, ModelListing, adapter_as_base, list_model

_ADAPTER_TENSOR: Final = re.compile(
    r"^base_model\.model\.|(^|\.)lora_(A|B|embedding_A|embedding_B|magnitude_vector)(\.|$)"
)
"""Names that PEFT gives to the tensors of a LoRA. A model may contain some, but not only such tensors."""


@dataclass(frozen=True)
class CheckedModel:
    """A base model that passed every check that needs no weights."""

    listing: ModelListing
    headers: Mapping[str, Header]  # by weight file
    plain: PlainListing | None = None  # what a quantised one means
    small: Mapping[str, bytes] = field(default_factory=dict)  # the tensors whose values say how others are read

    @property
    def config(self) -> Mapping[str, Any] | None:
        """config.json, without what it says of quantisation."""
        config = self.listing.config
        return plain_config(config) if config is not None and self.plain is not None else config

    @property
    def decoding_digest(self) -> str | None:
        """See the function `registry.quantised.listing.decoding_digest`."""
        return decoding_digest(self.plain)

    @property
    def declaration(self) -> Mapping[str, Any] | None:
        """registry.json."""
        return self.listing.declaration

    @property
    def shapes(self) -> dict[str, tuple[str, tuple[int, ...]]]:
        """dtype and shape of every tensor, plain ones of a quantised model."""
        if self.plain is None:
            return self.stored_shapes
        return {name: (one.dtype, one.shape) for name, one in self.plain.tensors.items()}

    @property
    def stored_shapes(self) -> dict[str, tuple[str, tuple[int, ...]]]:
        """dtype and shape of every tensor as the files hold it."""
        entries = (entry for header in self.headers.values() for entry in header.entries.values())
        return {entry.name: (entry.dtype, entry.shape) for entry in entries}


ReadTensor = Callable[[str, TensorEntry], bytes]
"""Reads a tensor of at most `registry.quantised.reading.SMALL` bytes of one of the weight files."""


def check_model(listing: ModelListing, header: Callable[[str], Header], read: ReadTensor) -> CheckedModel:
    """Check the headers of the weight files against each other and the index, and find what is quantised.

    Args:
        listing: the model's files.
        header: reads the header of one.
        read: reads a small tensor, of a quantised model alone.

    Raises:
        InvalidBaseError: ``bad_safetensors``, ``bad_index``, ``missing_file``, ``quantised_base``, ``adapter_as_base``.
    """
    headers = {path: header(path) for path in listing.shards}
    _check_tensors(headers, listing.weight_map, has_config=listing.config is not None)
    small: dict[str, bytes] = {}
    places = {name: (path, entry) for path, one in headers.items() for name, entry in one.entries.items()}

    def value_of(name: str) -> bytes:
        path, entry = places[name]
        if entry.stop - entry.start > SMALL:
            raise InvalidBaseError(
                f"Tensor {shown(name)} has {entry.stop - entry.start} bytes, and at most {SMALL} are expected of one "
                "that says how others are quantised.",
                code="quantised_base",
            )
        if name not in small:
            small[name] = read(path, entry)
        return small[name]

    tensors = {name: StoredTensor(entry.dtype, entry.shape) for name, (_, entry) in places.items()}
    reading = read_quantised(listing.config, listing.hf_quant, tensors, value_of)
    plain = None if reading is None else plain_listing(reading, headers, listing.config)
    return CheckedModel(listing, headers, plain, small)


def unquantised(model: CheckedModel) -> CheckedModel:
    """The model, for what needs weights that training changed.

    Raises:
        InvalidBaseError: ``quantised_base``.
    """
    if model.plain is not None:
        raise InvalidBaseError(
            f"The model in {model.listing.where} is quantised ({model.plain.kind}), and weights that are not are "
            "expected here. Use the model that it was made from; as a base model `registry base add` takes it.",
            code="quantised_base",
        )
    return model


@dataclass(frozen=True)
class ModelFiles:
    """A checked base folder."""

    folder: Folder
    model: CheckedModel

    @property
    def files(self) -> tuple[FoundFile, ...]:
        """All files that belong to the model."""
        kept = set(self.model.listing.files)
        return tuple(found for found in self.folder.files if found.path in kept)

    @property
    def headers(self) -> Mapping[str, Header]:
        """The headers of the weight files, by name."""
        return self.model.headers

    @property
    def left_out(self) -> tuple[LeftOut, ...]:
        """The files that do not belong to the model."""
        return tuple(sorted([*self.folder.left_out, *self.model.listing.left_out], key=lambda left: left.path))


def read_model_files(folder: Path) -> ModelFiles:
    """List and check a base folder.

    Raises:
        NotFoundError: there is no such folder.
        UnavailableError: the folder, or a file, can't be read.
        InvalidBaseError: ``missing_file``, ``bad_index``, ``path_traversal``, ``bad_safetensors``, ``quantised_base``,
            ``bad_config``, ``bad_declaration``, ``adapter_as_base``.
    """
    found = scan(folder, InvalidBaseError)
    return ModelFiles(found, check_folder(found))


def check_folder(folder: Folder) -> CheckedModel:
    """Check the weight files of a listed base folder; raises what `read_model_files` raises."""

    def opened(path: str) -> Path:
        file = folder.find(path)
        if file is None:
            raise AssertionError("shards are files of the folder")
        return file

    def header(path: str) -> Header:
        with telling_unreadable(opened(path)), FileSource(opened(path)) as source:
            return read_header(source, what=path, error=InvalidBaseError)

    def tensor(path: str, entry: TensorEntry) -> bytes:
        with telling_unreadable(opened(path)), FileSource(opened(path)) as source:
            return bytes(read_range(source, entry.start, entry.stop))

    return check_model(list_folder(folder), header, tensor)


def list_folder(folder: Folder) -> ModelListing:
    """Sort the files of a base folder; see `registry.transfer.model_files.list_model`."""
    paths = [found.path for found in folder.files]
    return list_model(str(folder.root), paths, lambda path: read_document(folder, path))


def read_document(folder: Folder, path: str) -> bytes | None:
    """A small document of a base folder, up to one byte beyond the limit; None where there is none."""
    file = folder.find(path)
    return None if file is None else read_start(file, MAX_DOCUMENT + 1)


def _check_tensors(headers: Mapping[str, Header], weight_map: Mapping[str, str] | None, *, has_config: bool) -> None:
    places: dict[str, str] = {}
    for path, header in headers.items():
        for entry in header.entries.values():
            if entry.name in places:
                raise InvalidBaseError(
                    f"Tensor {shown(entry.name)} is in {places[entry.name]} and in {path}; one place is expected.",
                    code="bad_index",
                )
            places[entry.name] = path
    if not places:
        raise InvalidBaseError("The weight files contain no tensors.", code="missing_file")
    if (dialect := dialect_of(places)) is not None and (dialect.adapter or not has_config):
        first = next(name for name in sorted(places) if dialect.some.fullmatch(name))
        raise InvalidBaseError(
            f"{places[first]} holds {shown(first)}, so it is {dialect.what}, and the folder of a model that adapters "
            f"are trained on is expected. {dialect.remedy}",
            code="adapter_as_base" if dialect.adapter else "missing_file",
        )
    if all(_ADAPTER_TENSOR.search(name) for name in places):
        first = min(places)
        raise adapter_as_base(f"{places[first]} holds {shown(first)}, and only weights of an adapter")
    if weight_map is not None and dict(weight_map) != places:
        name = min(set(weight_map.items()) ^ set(places.items()))[0]
        raise InvalidBaseError(
            f"{INDEX} puts tensor {shown(name)} in {shown(weight_map.get(name))}, the files have it in "
            f"{shown(places.get(name))}.",
            code="bad_index",
        )
