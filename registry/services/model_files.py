"""The weights of a base model: that the headers of its files and its index agree, and that nothing is quantised."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from registry.errors import InvalidBaseError
from registry.folders.refusals import telling_unreadable
from registry.folders.scan import Folder, FoundFile, scan
from registry.schemas import LeftOut
from registry.services.model_listing import INDEX, ModelListing
from registry.services.requests import list_folder
from registry.tensors.files.header import Header, TensorEntry, read_header
from registry.tensors.files.source import FileSource
from registry.tensors.files.strict_json import shown

_QUANTISED_TAILS: Final = re.compile(
    r"\.(absmax|nested_absmax|quant_map|nested_quant_map|quant_state\..+|SCB|qweight|qzeros|g_idx|weight_scale|"
    r"weight_scale_inv|weight_packed|weight_shape|weight_zero_point|[^.]+_blocks|[^.]+_scales)"
)


@dataclass(frozen=True)
class CheckedModel:
    """A base model that passed every check that needs no weights."""

    listing: ModelListing
    headers: Mapping[str, Header]  # by file, the weights only

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
    """Hold the headers of the weight files against each other and the index.

    Raises:
        InvalidBaseError: ``bad_safetensors``, ``bad_index``, ``missing_file``, ``quantised_base``.
    """
    headers = {path: header(path) for path in listing.shards}
    _check_tensors(headers, listing.weight_map)
    return CheckedModel(listing, headers)


@dataclass(frozen=True)
class ModelFiles:
    """A base folder that was checked."""

    folder: Folder
    model: CheckedModel

    @property
    def files(self) -> tuple[FoundFile, ...]:
        """All files that belong to the base, weights and others."""
        kept = set(self.model.listing.files)
        return tuple(found for found in self.folder.files if found.path in kept)

    @property
    def headers(self) -> Mapping[str, Header]:
        """The headers of the weight files, by name."""
        return self.model.headers

    @property
    def left_out(self) -> tuple[LeftOut, ...]:
        """What does not belong to it."""
        return tuple(sorted([*self.folder.left_out, *self.model.listing.left_out], key=lambda left: left.path))


def read_model_files(folder: Path) -> ModelFiles:
    """List and check a base folder.

    Raises:
        NotFoundError: there is no such folder.
        UnavailableError: the folder, or a file, can't be read.
        InvalidBaseError: ``missing_file``, ``bad_index``, ``path_traversal``, ``bad_safetensors``, ``quantised_base``,
            ``bad_config``, ``bad_declaration``.
    """
    found = scan(folder, InvalidBaseError)
    return ModelFiles(found, check_model(list_folder(found), lambda path: _header(found, path)))


def _header(folder: Folder, path: str) -> Header:
    file = folder.find(path)
    if file is None:
        raise AssertionError("shards are files of the folder")
    with telling_unreadable(file), FileSource(file) as source:
        return read_header(source, what=path, error=InvalidBaseError)


def _check_tensors(headers: Mapping[str, Header], weight_map: Mapping[str, str] | None) -> None:
    places: dict[str, str] = {}
    for path, header in headers.items():
        for entry in header.entries.values():
            if entry.name in places:
                raise InvalidBaseError(
                    f"Tensor {shown(entry.name)} is in {places[entry.name]} and in {path}; one place is expected.",
                    code="bad_index",
                )
            places[entry.name] = path
            if _is_quantised(entry):
                raise InvalidBaseError(
                    f"Tensor {shown(entry.name)} ({entry.dtype}) belongs to quantised weights; add the model that they "
                    "were made from.",
                    code="quantised_base",
                )
    if not places:
        raise InvalidBaseError("The weight files hold no tensors.", code="missing_file")
    if weight_map is not None and dict(weight_map) != places:
        name = min(set(weight_map.items()) ^ set(places.items()))[0]
        raise InvalidBaseError(
            f"{INDEX} puts tensor {shown(name)} in {shown(weight_map.get(name))}, the files have it in "
            f"{shown(places.get(name))}.",
            code="bad_index",
        )


def _is_quantised(entry: TensorEntry) -> bool:
    """Packed weights, or what a quantiser keeps beside them; a byte mask (GPT-2's attn.bias) is neither."""
    packed = entry.dtype.startswith("F8") or (entry.dtype in ("U8", "I8") and entry.name.endswith(".weight"))
    return packed or _QUANTISED_TAILS.search(entry.name) is not None
