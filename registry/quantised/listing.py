"""The plain listing of a quantised base model: the tensors and files that it would have if it were not quantised.

To what composes and merges, a quantised base is this listing: names, dtypes, shapes, and files laid out anew. A plain
tensor is made of codes and scales while it is read, or it is a stored one as it is.

Mixed models: a quantised base whose changed weights are dense, and all others byte for byte as they are stored.

Nothing that a path changed is rounded to codes, and nothing else grows. Engines load projections that they fuse as one
weight, so those become dense together; what is dense is named in the list of modules that the loader is not to convert.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

from registry.digest import document_digest
from registry.errors import InvalidBaseError
from registry.files.header import SIZES, Header, write_header
from registry.files.strict_json import shown
from registry.folders.quantised import is_quantised
from registry.quantised.reading import Decoding, Reading, StoredTensor, decoding_document, decoding_from, refuse

SHARD: Final = 5_000_000_000
"""Bytes that a plain file has at most, unless one tensor alone has more."""

_ONE_FILE: Final = "model.safetensors"
_DTYPES: Final = {"bfloat16": "BF16", "float16": "F16", "float32": "F32"}
_KEYS: Final = ("dtype", "torch_dtype")

QUANTISED_KEYS: Final = ("quantization_config", "compression_config")
"""Fields of config.json that mark a model as quantised; no plain model has them."""

QUANTISED_FILES: Final = ("hf_quant_config.json", "quantize_config.json")
"""Files next to the weights that mark the same."""


@dataclass(frozen=True)
class PlainListing:
    """The plain tensors of a quantised base model.

    Attributes:
        kind: the format, by its common name.
        dtype: the one that decoded tensors are written in unless another is requested, as in headers.
        stored: dtype and shape of the stored tensors.
        decoded: plain name -> how it is made; every other plain tensor is the stored one of its name.
        names: of all plain tensors, in the order of their bytes.
        notices: for the person who adds the base.
    """

    kind: str
    dtype: str
    stored: Mapping[str, StoredTensor]
    decoded: Mapping[str, Decoding]
    names: tuple[str, ...]
    notices: tuple[str, ...] = ()

    @cached_property
    def tensors(self) -> dict[str, StoredTensor]:
        """dtype and shape of every plain tensor."""
        return {name: self._plain(name) for name in self.names}

    @cached_property
    def files(self) -> dict[str, tuple[bytes, Header]]:
        """The bytes before the first tensor, and the header, of each plain file."""
        parts = list(self._cut())
        count = len(parts)
        named = [_ONE_FILE] if count == 1 else [f"model-{n:05}-of-{count:05}.safetensors" for n in range(1, count + 1)]
        return {
            file: write_header(
                [(name, self.tensors[name].dtype, self.tensors[name].shape) for name in part], {"format": "pt"}
            )
            for file, part in zip(named, parts, strict=True)
        }

    @property
    def headers(self) -> dict[str, Header]:
        """The header of each plain file."""
        return {file: header for file, (_, header) in self.files.items()}

    def document(self) -> dict[str, Any]:
        """How the plain tensors are made, as JSON; `plain_from` reads it together with the stored tensors."""
        return {
            "kind": self.kind,
            "dtype": self.dtype,
            "names": list(self.names),
            "decoded": {name: decoding_document(decoding) for name, decoding in sorted(self.decoded.items())},
        }

    def _plain(self, name: str) -> StoredTensor:
        decoding = self.decoded.get(name)
        return self.stored[name] if decoding is None else StoredTensor(self.dtype, decoding.plain_shape)

    def _cut(self) -> Iterator[list[str]]:
        part: list[str] = []
        size = 0
        for name in self.names:
            one = self.tensors[name]
            bytes_of = one.elements * SIZES[one.dtype]
            if part and size + bytes_of > SHARD:
                yield part
                part, size = [], 0
            part.append(name)
            size += bytes_of
        yield part


def decoding_digest(plain: PlainListing | None) -> str | None:
    """Digest of how a quantised model is decoded; None of one that is not."""
    return None if plain is None else document_digest(plain.document())


def plain_from(document: Mapping[str, Any], stored: Mapping[str, StoredTensor]) -> PlainListing:
    """Read what `PlainListing.document` wrote."""
    return PlainListing(
        kind=document["kind"],
        dtype=document["dtype"],
        stored=stored,
        decoded={name: decoding_from(one) for name, one in document["decoded"].items()},
        names=tuple(document["names"]),
    )


def plain_listing(reading: Reading, headers: Mapping[str, Header], config: Mapping[str, Any] | None) -> PlainListing:
    """The plain listing of a checkpoint by what a format's reader found in it.

    Args:
        reading: what was found.
        headers: of the weight files, by name.
        config: config.json.

    Raises:
        InvalidBaseError: ``quantised_base`` if a tensor next to the codes is not understood, ``bad_index`` if two
            tensors get one plain name.
    """
    entries = {name: entry for header in headers.values() for name, entry in header.entries.items()}
    first_part = {decoding.parts[0]: name for name, decoding in reading.decoded.items()}
    parts = {part for decoding in reading.decoded.values() for part in decoding.parts}
    names = []
    for name, entry in entries.items():
        if name in first_part:
            names.append(first_part[name])
        elif name in parts or name in reading.dropped:
            continue
        elif name in reading.decoded:
            raise InvalidBaseError(
                f"Tensor {shown(name)} is in the files, and {shown(reading.decoded[name].parts[0])} is decoded to a "
                "tensor of that name; one of them is expected.",
                code="bad_index",
            )
        elif is_quantised(entry) or _beside(name, reading.decoded) or entry.dtype not in SIZES:
            raise refuse(
                reading.kind,
                f"tensor {shown(name)} ({entry.dtype} {list(entry.shape)}) lies beside its codes",
                "only what the format names",
            )
        else:
            names.append(name)
    stored = {name: StoredTensor(entry.dtype, entry.shape) for name, entry in entries.items()}
    return PlainListing(reading.kind, plain_dtype(config), stored, reading.decoded, tuple(names), reading.notices)


def _beside(name: str, decoded: Mapping[str, Decoding]) -> bool:
    """Whether a tensor's name is that of a decoded one with something after it, as companions are named."""
    at = len(name)
    while (at := max(name.rfind(".", 0, at), name.rfind("_", 0, at))) > 0:
        if name[:at] in decoded and name[:at].endswith("weight"):
            return True
    return False


def plain_dtype(config: Mapping[str, Any] | None) -> str:
    """The dtype that a config.json gives its weights, as named in headers; bf16 if it gives none of 16 or 32 bits."""
    plain = plain_config(config or {})  # the quantisation block may name other dtypes
    for document in (plain, *(value for value in plain.values() if isinstance(value, dict))):
        for key in _KEYS:
            found = _DTYPES.get(str(document.get(key)).removeprefix("torch."))
            if found is not None:
                return found
    return "BF16"


def plain_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """A config.json without the fields that mark the model as quantised, in it and in the configs inside it."""
    return {
        key: plain_config(value) if isinstance(value, dict) else value
        for key, value in config.items()
        if key not in QUANTISED_KEYS
    }


_TOGETHER: Final = (
    ("q_proj", "k_proj", "v_proj"),
    ("gate_proj", "up_proj"),
    ("q_a_proj", "kv_a_proj_with_mqa"),
    ("w1", "w3"),
)
"""Sibling modules that engines load as one weight (vLLM's and SGLang's stacked parameters)."""

_EXPERTS: Final = "experts"
_SKIPPED: Final[Mapping[str, str]] = {"bitsandbytes": "llm_int8_skip_modules", "compressed-tensors": "ignore"}
"""quant_method -> the field of its block that lists what is not converted; others have one of `_OTHERS`."""
_OTHERS: Final = ("modules_to_not_convert", "ignored_layers", "ignore", "exclude_modules")
_MODELOPT: Final = "quantization"
"""The object of hf_quant_config.json; its list is ``exclude_modules``, and ``ignore`` in a config.json of ModelOpt."""


@dataclass(frozen=True)
class MixedFile:
    """A file of a mixed model: its layout, and which of its tensors are plain ones that were codes."""

    lead: bytes
    header: Header
    dense: frozenset[str]


def dense_with(changed: Collection[str], listing: PlainListing) -> frozenset[str]:
    """The decoded tensors that are dense where some plain tensors change: those among them, and what lies with them."""
    groups: dict[tuple[str, ...], set[str]] = defaultdict(set)
    for name in listing.decoded:
        groups[_group(name)].add(name)
    return frozenset(one for name in changed if name in listing.decoded for one in groups[_group(name)])


def _group(name: str) -> tuple[str, ...]:
    parts = name.split(".")
    if _EXPERTS in parts:
        return tuple(parts[: parts.index(_EXPERTS) + 1])
    leaf = parts[-2] if len(parts) > 1 else ""
    together = next((group for group in _TOGETHER if leaf in group), None)
    return (*parts[:-2], *together) if together else tuple(parts)


def mixed_files(listing: PlainListing, headers: Mapping[str, Header], dense: Collection[str]) -> dict[str, MixedFile]:
    """The files of a mixed model, by the names of the stored ones; one that has no tensor left is omitted.

    Args:
        listing: of the base model.
        headers: of its stored weight files.
        dense: the decoded tensors that are dense, by their plain names.
    """
    of = {part: name for name, decoding in listing.decoded.items() for part in decoding.parts}
    first = {decoding.parts[0] for decoding in listing.decoded.values()}
    files = {}
    for path, header in headers.items():
        kept: list[tuple[str, str, tuple[int, ...]]] = []
        made = set()
        for entry in header.entries.values():
            plain = of.get(entry.name)
            if plain in dense and plain is not None:
                if entry.name in first:
                    kept.append((plain, listing.dtype, listing.tensors[plain].shape))
                    made.add(plain)
            elif plain is not None or entry.name in listing.tensors or not _stands_beside(entry.name, dense):
                kept.append((entry.name, entry.dtype, entry.shape))
        if kept:
            files[path] = MixedFile(*write_header(kept, header.metadata), frozenset(made))
    return files


def _stands_beside(name: str, dense: Collection[str]) -> bool:
    """Whether a companion, such as the scale of an input, is of a module that is dense."""
    return f"{name.rpartition('.')[0]}.weight" in dense


def skipping(config: Mapping[str, Any], dense: Iterable[str], others: Iterable[str]) -> dict[str, Any]:
    """A configuration whose lists of modules that are not converted have more.

    Args:
        config: config.json, or ModelOpt's hf_quant_config.json.
        dense: names of modules that became dense.
        others: those of the linear layers that always were: a list in the configuration replaces a loader's default.
    """
    changed: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping) and (key in QUANTISED_KEYS or key == _MODELOPT):
            changed[key] = _longer(key, value, list(dense), list(others))
        else:
            changed[key] = skipping(value, dense, others) if isinstance(value, Mapping) else value
    return changed


def _longer(where: str, block: Mapping[str, Any], dense: list[str], others: list[str]) -> dict[str, Any]:
    there = [key for key in _OTHERS if key in block]
    method = str(block.get("quant_method", ""))
    usual = "exclude_modules" if where == _MODELOPT else "ignore" if method.startswith("modelopt") else _OTHERS[0]
    fields = [_SKIPPED[method]] if method in _SKIPPED else there or [usual]
    longer = {key: list(_merged(block.get(key), dense, others)) for key in fields}
    return {**block, **longer}


def _merged(listed: object, dense: list[str], others: list[str]) -> Iterator[str]:
    known = [str(one) for one in listed] if isinstance(listed, list) else others
    yield from dict.fromkeys([*known, *dense])
