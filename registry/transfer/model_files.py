"""Which files of a base model are its weights, and which do not belong to it, by their names and three small documents.

The same rule lists local folders and checks clients' requests. Needs no tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from registry.errors import InvalidBaseError
from registry.files.strict_json import parse, shown
from registry.folders.foreign import gguf_in
from registry.folders.scan import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from registry.schemas import LeftOut

INDEX: Final = "model.safetensors.index.json"
SINGLE: Final = "model.safetensors"
CONFIG: Final = "config.json"
DECLARATION: Final = "registry.json"
HF_QUANT: Final = "hf_quant_config.json"
DOCUMENTS: Final = (CONFIG, INDEX, DECLARATION, HF_QUANT)
"""The documents that are read of a base model, besides the headers of its weights."""

MAX_DOCUMENT: Final = 64 << 20
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

ReadDocument = Callable[[str], bytes | None]
"""Reads a document by name, at most one byte more than `MAX_DOCUMENT` of it; None where there is none."""


@dataclass(frozen=True)
class ModelListing:
    """The files of a base model by role, as far as names and documents tell."""

    where: str
    config: Mapping[str, Any] | None
    weight_map: Mapping[str, str] | None  # of the index
    declaration: Mapping[str, Any] | None  # registry.json: what can't be seen from the tensors
    hf_quant: Mapping[str, Any] | None  # hf_quant_config.json: how ModelOpt quantised it
    shards: tuple[str, ...]  # the files that hold the weights
    files: tuple[str, ...]  # all that belong to the model
    left_out: tuple[LeftOut, ...]


def list_model(where: str, paths: Iterable[str], read: ReadDocument) -> ModelListing:
    """Sort files into weights, other files of the model, and files that do not belong to it.

    Args:
        where: how messages name the place of the files.
        paths: names of all files.
        read: reads one of `DOCUMENTS`.

    Raises:
        InvalidBaseError: ``missing_file``, ``bad_index``, ``path_traversal``, ``bad_config``, ``bad_declaration``,
            ``adapter_as_base``.
    """
    names = sorted(paths)
    weights = {path for path in names if path.endswith(".safetensors") and "/" not in path}
    if ADAPTER_CONFIG in names and weights <= {ADAPTER_WEIGHTS}:
        raise adapter_as_base(f"{where} contains {ADAPTER_CONFIG} but no weights of a whole model")
    config = _json(read, CONFIG)
    index = _json(read, INDEX)
    shards = tuple(_shards(where, names, index))
    left_out = tuple(left for path in names if (left := _other_weights(path, shards)) is not None)
    gone = {left.path for left in left_out}
    return ModelListing(
        where=where,
        config=config,
        weight_map=None if index is None else index["weight_map"],
        declaration=_json(read, DECLARATION, "bad_declaration"),
        hf_quant=_json(read, HF_QUANT),
        shards=shards,
        files=tuple(path for path in names if path not in gone),
        left_out=left_out,
    )


def adapter_as_base(what: str) -> InvalidBaseError:
    """The error for adding an adapter as a base model; ``what`` is the evidence that it is an adapter."""
    return InvalidBaseError(
        f"{what}, so it is an adapter, not a whole model: publish it with `registry publish DIR BASE/NAME`. A base "
        "model is the folder that adapters are trained on.",
        code="adapter_as_base",
    )


def _json(read: ReadDocument, path: str, code: str = "bad_config") -> dict[str, Any] | None:
    data = read(path)
    if data is None:
        return None
    if len(data) > MAX_DOCUMENT:
        raise InvalidBaseError(f"{path} has more than {MAX_DOCUMENT} bytes.", code=code)
    document = parse(data, what=path, limit=MAX_DOCUMENT, error=InvalidBaseError, code=code)
    if not isinstance(document, dict):
        raise InvalidBaseError(f"{path} is not a JSON object.", code=code)
    return document


def _shards(where: str, paths: Iterable[str], index: Mapping[str, Any] | None) -> list[str]:
    """Names of the files that hold the weights."""
    weights = [path for path in paths if path.endswith(".safetensors") and "/" not in path]
    if index is None:
        if SINGLE in weights or len(weights) == 1:
            return [SINGLE] if SINGLE in weights else weights
        if weights:
            raise InvalidBaseError(
                f"{where} has {len(weights)} safetensors files and no {INDEX} that describes them.",
                code="bad_index",
            )
        raise InvalidBaseError(
            gguf_in(where, list(paths), "Add the model")
            or f"{where} has no safetensors weights; save it with save_pretrained(..., safe_serialization=True).",
            code="missing_file",
        )
    weight_map = index.get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map or not all(isinstance(v, str) for v in weight_map.values()):
        raise InvalidBaseError(f"{INDEX} needs a weight_map from tensor names to file names.", code="bad_index")
    shards = sorted(set(weight_map.values()))
    if SINGLE in weights and shards != [SINGLE]:  # mlx-lm writes an index of one file, too: it contradicts nothing
        raise InvalidBaseError(
            f"{where} has both {SINGLE} and {INDEX}, which names other files, and loaders differ in which they use; "
            "remove one.",
            code="bad_index",
        )
    for shard in shards:
        if "/" in shard or "\\" in shard or shard in ("", ".", ".."):
            raise InvalidBaseError(
                f"{INDEX} names the file {shown(shard)}, which is not a plain file name in the folder.",
                code="path_traversal",
            )
        if shard not in weights:
            raise InvalidBaseError(f"{INDEX} names {shown(shard)}, which is not in the folder.", code="bad_index")
    return shards


def _other_weights(path: str, shards: Iterable[str]) -> LeftOut | None:
    """Why a file is left out: a merge would not change these weights, so they would contradict the merged ones."""
    if path.lower().endswith(_OTHER_FORMATS):
        return LeftOut(path=path, reason="weights in another format, which a merge would not change")
    if path.endswith(".safetensors") and path not in shards:
        return LeftOut(path=path, reason="safetensors file that is not part of the model's weights")
    if path.endswith(".safetensors.index.json") and path != INDEX:
        return LeftOut(path=path, reason="index of other weights")
    return None
