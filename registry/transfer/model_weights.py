"""Checking a base model's weight files: headers and index agree, and nothing is quantised."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from registry.errors import InvalidBaseError
from registry.files.header import Header, read_header
from registry.files.source import FileSource
from registry.files.strict_json import shown
from registry.folders.errors import telling_unreadable
from registry.folders.foreign import dialect_of
from registry.folders.quantised import is_quantised
from registry.folders.scan import Folder, FoundFile, scan
from registry.schemas import LeftOut
from registry.transfer.model_files import INDEX, ModelListing, adapter_as_base
from registry.transfer.requests import list_folder

_ADAPTER_TENSOR: Final = re.compile(
    r"^base_model\.model\.|(^|\.)lora_(A|B|embedding_A|embedding_B|magnitude_vector)(\.|$)"
)
"""Names that PEFT gives to the tensors of a LoRA. A model may contain some, but not only such tensors."""


@dataclass(frozen=True)
class CheckedModel:
    """A base model that passed every check that needs no weights."""

    listing: ModelListing
    headers: Mapping[str, Header]  # by weight file

    @property
    def config(self) -> Mapping[str, Any] | None:
        """config.json."""
        return self.listing.config

    @property
    def declaration(self) -> Mapping[str, Any] | None:
        """registry.json."""
        return self.listing.declaration

    @property
    def shapes(self) -> dict[str, tuple[str, tuple[int, ...]]]:
        """dtype and shape of every tensor."""
        return {
            entry.name: (entry.dtype, entry.shape)
            for header in self.headers.values()
            for entry in header.entries.values()
        }


def check_model(listing: ModelListing, header: Callable[[str], Header]) -> CheckedModel:
    """Check the headers of the weight files against each other and the index.

    Raises:
        InvalidBaseError: ``bad_safetensors``, ``bad_index``, ``missing_file``, ``quantised_base``, ``adapter_as_base``.
    """
    headers = {path: header(path) for path in listing.shards}
    _check_tensors(headers, listing.weight_map, has_config=listing.config is not None)
    return CheckedModel(listing, headers)


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
    return ModelFiles(found, check_model(list_folder(found), lambda path: _header(found, path)))


def _header(folder: Folder, path: str) -> Header:
    file = folder.find(path)
    if file is None:
        raise AssertionError("shards are files of the folder")
    with telling_unreadable(file), FileSource(file) as source:
        return read_header(source, what=path, error=InvalidBaseError)


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
            if is_quantised(entry):
                raise InvalidBaseError(
                    f"Tensor {shown(entry.name)} ({entry.dtype}) belongs to quantised weights; add the model they "
                    "were quantised from.",
                    code="quantised_base",
                )
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
