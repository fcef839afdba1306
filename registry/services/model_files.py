"""The weights of a base folder: which safetensors files they are, and that their headers and index agree."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from registry.errors import InvalidBaseError
from registry.folders.scan import Folder, FoundFile, scan
from registry.schemas import LeftOut
from registry.tensors.files.header import Header, TensorEntry, read_header
from registry.tensors.files.source import FileSource
from registry.tensors.files.strict_json import parse, shown
from registry.tensors.table.declaration import FILE as DECLARATION

INDEX: Final = "model.safetensors.index.json"
SINGLE: Final = "model.safetensors"
CONFIG: Final = "config.json"
_MAX_JSON: Final = 64 << 20

_QUANTISED_TAILS: Final = re.compile(
    r"\.(absmax|nested_absmax|quant_map|nested_quant_map|quant_state\..+|SCB|qweight|qzeros|g_idx|weight_scale|"
    r"weight_scale_inv|weight_packed|weight_shape|weight_zero_point|[^.]+_blocks|[^.]+_scales)"
)
_OTHER_FORMATS: Final = (
    ".onnx",
    ".onnx_data",
    ".h5",
    ".msgpack",
    ".gguf",
    ".ggml",
    ".tflite",
    ".ot",
    ".mlmodel",
    ".nemo",
)


@dataclass(frozen=True)
class ModelFiles:
    """A base folder that was checked."""

    folder: Folder
    config: Mapping[str, Any] | None
    headers: Mapping[str, Header]  # by file, the weights only
    left_out: tuple[LeftOut, ...]
    declaration: Mapping[str, Any] | None = None  # registry.json: what the tensors can't tell

    @property
    def files(self) -> tuple[FoundFile, ...]:
        """All files that belong to the base, weights and others."""
        gone = {left.path for left in self.left_out}
        return tuple(found for found in self.folder.files if found.path not in gone)

    def tensors(self) -> dict[str, tuple[str, TensorEntry]]:
        """Every tensor with the file it lies in."""
        return {entry.name: (path, entry) for path, header in self.headers.items() for entry in header.entries.values()}


def read_model_files(folder: Path) -> ModelFiles:
    """List and check a base folder.

    Raises:
        NotFoundError: there is no such folder.
        InvalidBaseError: ``missing_file``, ``bad_index``, ``path_traversal``, ``bad_safetensors``, ``quantised_base``,
            ``bad_config``, ``bad_declaration``.
    """
    found = scan(folder, InvalidBaseError)
    config = _json(found, CONFIG)
    if config is not None and config.get("quantization_config"):
        method = config["quantization_config"]
        name = method.get("quant_method") if isinstance(method, dict) else None
        raise InvalidBaseError(
            f"The base in {folder} is quantised (config.json: quantization_config"
            f"{f', {shown(name)}' if isinstance(name, str) else ''}); merging needs the weights it was quantised from. "
            "Add that model; adapters trained on the quantised copy may be published on it.",
            code="quantised_base",
        )
    index = _json(found, INDEX)
    shards = _shards(found, index)
    headers = {path: _header(found, path) for path in shards}
    _check_tensors(headers, None if index is None else index["weight_map"])
    others = [left for path in found.files if (left := _other_weights(path, shards)) is not None]
    left_out = tuple(sorted([*found.left_out, *others], key=lambda left: left.path))
    return ModelFiles(found, config, headers, left_out, _json(found, DECLARATION, "bad_declaration"))


def _json(folder: Folder, path: str, code: str = "bad_config") -> dict[str, Any] | None:
    file = folder.find(path)
    if file is None:
        return None
    if file.stat().st_size > _MAX_JSON:
        raise InvalidBaseError(f"{path} has more than {_MAX_JSON} bytes.", code=code)
    document = parse(file.read_bytes(), what=path, limit=_MAX_JSON, error=InvalidBaseError, code=code)
    if not isinstance(document, dict):
        raise InvalidBaseError(f"{path} is not a JSON object.", code=code)
    return document


def _shards(folder: Folder, index: Mapping[str, Any] | None) -> list[str]:
    """Names of the files that hold the weights."""
    weights = [found.path for found in folder.files if found.path.endswith(".safetensors") and "/" not in found.path]
    if index is None:
        if SINGLE in weights or len(weights) == 1:
            return [SINGLE] if SINGLE in weights else weights
        if weights:
            raise InvalidBaseError(
                f"{folder.root} has {len(weights)} safetensors files and no {INDEX} that says how they go together.",
                code="bad_index",
            )
        raise InvalidBaseError(
            f"{folder.root} has no safetensors weights; save the model with "
            "save_pretrained(..., safe_serialization=True).",
            code="missing_file",
        )
    if SINGLE in weights:
        raise InvalidBaseError(
            f"{folder.root} has both {SINGLE} and {INDEX}, and loaders differ in which they take; remove one.",
            code="bad_index",
        )
    weight_map = index.get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map or not all(isinstance(v, str) for v in weight_map.values()):
        raise InvalidBaseError(f"{INDEX} needs a weight_map from tensor names to file names.", code="bad_index")
    shards = sorted(set(weight_map.values()))
    for shard in shards:
        if "/" in shard or "\\" in shard or shard in ("", ".", ".."):
            raise InvalidBaseError(
                f"{INDEX} names the file {shown(shard)}, which is not a plain file name in the folder.",
                code="path_traversal",
            )
        if shard not in weights:
            raise InvalidBaseError(f"{INDEX} names {shown(shard)}, which is not in the folder.", code="bad_index")
    return shards


def _header(folder: Folder, path: str) -> Header:
    file = folder.find(path)
    if file is None:
        raise AssertionError("shards are files of the folder")
    with FileSource(file) as source:
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


def _other_weights(found: FoundFile, shards: Iterable[str]) -> LeftOut | None:
    """Weights that a merge would not change, and which would then contradict the merged ones."""
    if found.path.lower().endswith(_OTHER_FORMATS):
        return LeftOut(path=found.path, reason="weights in another format, which a merge would not change")
    if found.path.endswith(".safetensors") and found.path not in shards:
        return LeftOut(path=found.path, reason="safetensors file that is not part of the model's weights")
    if found.path.endswith(".safetensors.index.json") and found.path != INDEX:
        return LeftOut(path=found.path, reason="index of other weights")
    return None
