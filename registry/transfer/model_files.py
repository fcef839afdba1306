"""Which files of a base model are its weights, and whether headers and index agree on them.

The same rule lists local folders and checks clients' requests. What does not belong to the model is known by its name
and three small documents. What is quantised has to be understood. Needs no torch.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from registry.errors import InvalidBaseError
from registry.files.header import Header, TensorEntry, read_model_header
from registry.files.source import FileSource, read_range
from registry.files.strict_json import parse, shown
from registry.folders.foreign import dialect_of, gguf_in, is_checkpoint
from registry.folders.local_files import read_start, telling_unreadable
from registry.folders.scan import ADAPTER_CONFIG, ADAPTER_WEIGHTS, Folder, FoundFile, alone, scan
from registry.quantised.listing import PlainListing, decoding_digest, plain_config, plain_listing
from registry.quantised.reading import SMALL, StoredTensor
from registry.quantised.table import read_quantised
from registry.schemas import LeftOut
from registry.transfer.pipeline_files import PIPELINE, Pipeline, is_pipeline_document, list_pipeline

INDEX: Final = "model.safetensors.index.json"
SINGLE: Final = "model.safetensors"
COMPONENT: Final = "diffusion_pytorch_model.safetensors"
COMPONENT_INDEX: Final = f"{COMPONENT}.index.json"
"""What diffusers calls the two in the folder of one component."""
CONFIG: Final = "config.json"
DECLARATION: Final = "registry.json"
HF_QUANT: Final = "hf_quant_config.json"
_DOCUMENTS: Final = frozenset({CONFIG, INDEX, COMPONENT_INDEX, DECLARATION, HF_QUANT})

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
"""Reads a document by name, at most one byte more than `MAX_DOCUMENT` of it; None: it does not exist."""


def index_name(names: Collection[str]) -> str:
    """What the index of a model with files of these names is called: as transformers does, or as diffusers."""
    return COMPONENT_INDEX if COMPONENT_INDEX in names and INDEX not in names else INDEX


def is_document(path: str) -> bool:
    """Whether a file is one of the documents that are read of a base model, besides the headers of its weights."""
    return path in _DOCUMENTS or is_pipeline_document(path)


@dataclass(frozen=True)
class ModelListing:
    """The files of a base model by role, as far as names and documents show."""

    where: str
    config: Mapping[str, Any] | None
    weight_map: Mapping[str, str] | None  # of the index
    declaration: Mapping[str, Any] | None  # registry.json: what can't be seen from the tensors
    hf_quant: Mapping[str, Any] | None  # hf_quant_config.json: how ModelOpt quantised it
    shards: tuple[str, ...]  # the files that hold the weights
    files: tuple[str, ...]  # all that belong to the model
    left_out: tuple[LeftOut, ...]
    pipeline: Pipeline | None = None

    @property
    def identity(self) -> tuple[str, ...]:
        """The files that say what it is, besides its weights: of a pipeline."""
        return () if self.pipeline is None else self.pipeline.identity


def list_model(where: str, paths: Iterable[str], read: ReadDocument, variant: str | None = None) -> ModelListing:
    """Sort files into weights, other files of the model, and files that do not belong to it.

    Args:
        where: how messages name the place of the files.
        paths: names of all files.
        read: reads one of which `is_document` is true.
        variant: of the weights of a pipeline (``fp16``); see `registry.transfer.pipeline_files.list_pipeline`.

    Raises:
        InvalidBaseError: ``missing_file``, ``bad_index``, ``path_traversal``, ``bad_config``, ``bad_declaration``,
            ``adapter_as_base``, ``remote_code``, ``variant_unclear``.
    """
    names = sorted(paths)
    if PIPELINE in names:
        return _list_pipeline(where, names, read, variant)
    if variant is not None:
        raise InvalidBaseError(
            f"{where} is no pipeline (it has no {PIPELINE}), so it has no variants. Leave --variant out.",
            code="variant_unclear",
        )
    weights = {path for path in names if path.endswith(".safetensors") and "/" not in path}
    if ADAPTER_CONFIG in names and weights <= {ADAPTER_WEIGHTS}:
        raise adapter_as_base(f"{where} contains {ADAPTER_CONFIG} but no weights of a whole model")
    config = _json(read, CONFIG)
    called = index_name(names)
    index = _json(read, called)
    shards = tuple(_shards(where, names, index, called))
    left_out = tuple(left for path in names if (left := _other_weights(path, shards, called)) is not None)
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


def _list_pipeline(where: str, names: list[str], read: ReadDocument, variant: str | None) -> ModelListing:
    found = list_pipeline(where, names, lambda path: _json(read, path) if path in names else None, variant)
    formats = (left for path in names if (left := _other_format(path)) is not None)
    left_out = tuple(sorted([*found.left_out, *formats], key=lambda left: left.path))
    gone = {left.path for left in left_out}
    return ModelListing(
        where=where,
        config=None,
        weight_map=found.weight_map,
        declaration=_json(read, DECLARATION, "bad_declaration"),
        hf_quant=None,
        shards=found.shards,
        files=tuple(path for path in names if path not in gone),
        left_out=left_out,
        pipeline=replace(found, identity=tuple(path for path in found.identity if path not in gone)),
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


def _shards(where: str, paths: Iterable[str], index: Mapping[str, Any] | None, called: str) -> list[str]:
    """Names of the files that hold the weights; ``called`` is the index's."""
    weights = [path for path in paths if path.endswith(".safetensors") and "/" not in path]
    if index is None:
        for whole in (SINGLE, COMPONENT):  # beside it, diffusers keeps variants
            if whole in weights:
                return [whole]
        if len(weights) == 1:
            return weights
        if weights:
            raise InvalidBaseError(
                f"{where} has {len(weights)} safetensors files and no {called} that describes them.",
                code="bad_index",
            )
        raise InvalidBaseError(
            gguf_in(where, list(paths), "Add the model")
            or f"{where} has no safetensors weights; save it with save_pretrained(..., safe_serialization=True).",
            code="missing_file",
        )
    weight_map = index.get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map or not all(isinstance(v, str) for v in weight_map.values()):
        raise InvalidBaseError(f"{called} needs a weight_map from tensor names to file names.", code="bad_index")
    shards, single = sorted(set(weight_map.values())), called.removesuffix(".index.json")
    if single in weights and shards != [single]:  # mlx-lm writes an index of one file, too: it contradicts nothing
        raise InvalidBaseError(
            f"{where} has both {single} and {called}, which names other files, and loaders differ in which they use; "
            "remove one.",
            code="bad_index",
        )
    for shard in shards:
        if "/" in shard or "\\" in shard or shard in ("", ".", ".."):
            raise InvalidBaseError(
                f"{called} names the file {shown(shard)}, which is not a plain file name in the folder.",
                code="path_traversal",
            )
        if shard not in weights:
            raise InvalidBaseError(f"{called} names {shown(shard)}, which is not in the folder.", code="bad_index")
    return shards


def _other_weights(path: str, shards: Iterable[str], index: str) -> LeftOut | None:
    """Why a file is left out: a merge would not change these weights, so they would contradict the merged ones."""
    if (other := _other_format(path)) is not None:
        return other
    if path.endswith(".safetensors") and path not in shards:
        return LeftOut(path=path, reason="safetensors file that is not part of the model's weights")
    if path.endswith(".safetensors.index.json") and path != index:
        return LeftOut(path=path, reason="index of other weights")
    return None


def _other_format(path: str) -> LeftOut | None:
    if path.lower().endswith(_OTHER_FORMATS):
        return LeftOut(path=path, reason="weights in another format, which a merge would not change")
    return None


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
    small: Mapping[str, bytes] = field(default_factory=dict)  # the tensors whose values control how others are decoded

    @property
    def config(self) -> Mapping[str, Any] | None:
        """config.json, without its fields of quantisation."""
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
    def single_file(self) -> str | None:
        """The file of an image model that is one file alone, without a configuration; None: it is another model."""
        if self.listing.config is not None or self.listing.pipeline is not None or len(self.listing.shards) != 1:
            return None
        return self.listing.shards[0] if is_checkpoint(self.stored_shapes) else None

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
    _check_tensors(headers, listing.weight_map)
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


def read_model_files(folder: Path, variant: str | None = None, only: str | None = None) -> ModelFiles:
    """List and check a base folder; ``variant`` is that of a pipeline's weights, ``only`` the one file that counts.

    Raises:
        NotFoundError: the folder does not exist.
        UnavailableError: the folder, or a file, can't be read.
        InvalidBaseError: ``missing_file``, ``bad_index``, ``path_traversal``, ``bad_safetensors``, ``quantised_base``,
            ``bad_config``, ``bad_declaration``, ``adapter_as_base``.
    """
    found = scan(folder, InvalidBaseError) if only is None else alone(folder / only, InvalidBaseError)
    return ModelFiles(found, check_folder(found, variant))


def check_folder(folder: Folder, variant: str | None = None) -> CheckedModel:
    """Check the weight files of a listed base folder; raises what `read_model_files` raises."""

    def opened(path: str) -> Path:
        file = folder.find(path)
        if file is None:
            raise AssertionError("shards are files of the folder")
        return file

    def header(path: str) -> Header:
        with telling_unreadable(opened(path)), FileSource(opened(path)) as source:
            return read_model_header(source, path, error=InvalidBaseError)

    def tensor(path: str, entry: TensorEntry) -> bytes:
        with telling_unreadable(opened(path)), FileSource(opened(path)) as source:
            return bytes(read_range(source, entry.start, entry.stop))

    return check_model(list_folder(folder, variant), header, tensor)


def list_folder(folder: Folder, variant: str | None = None) -> ModelListing:
    """Sort the files of a base folder; see `registry.transfer.model_files.list_model`."""
    paths = [found.path for found in folder.files]
    return list_model(str(folder.root), paths, lambda path: read_document(folder, path), variant)


def read_document(folder: Folder, path: str) -> bytes | None:
    """A small document of a base folder, up to one byte beyond the limit; None: it does not exist."""
    file = folder.find(path)
    return None if file is None else read_start(file, MAX_DOCUMENT + 1)


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
    if not places:
        raise InvalidBaseError("The weight files contain no tensors.", code="missing_file")
    if (dialect := dialect_of(places)) is not None and dialect.adapter:
        first = next(name for name in sorted(places) if dialect.some.fullmatch(name))
        raise InvalidBaseError(
            f"{places[first]} holds {shown(first)}, so it is {dialect.what}, and the folder of a model that adapters "
            f"are trained on is expected. {dialect.remedy}",
            code="adapter_as_base",
        )
    if all(_ADAPTER_TENSOR.search(name) for name in places):
        first = min(places)
        raise adapter_as_base(f"{places[first]} holds {shown(first)}, and only weights of an adapter")
    if weight_map is None:
        return
    indexed = set(weight_map.values())  # of a pipeline, some components have an index
    places = {name: path for name, path in places.items() if path in indexed}
    if dict(weight_map) != places:
        name = min(set(weight_map.items()) ^ set(places.items()))[0]
        raise InvalidBaseError(
            f"{INDEX} puts tensor {shown(name)} in {shown(weight_map.get(name))}, the files have it in "
            f"{shown(places.get(name))}.",
            code="bad_index",
        )
