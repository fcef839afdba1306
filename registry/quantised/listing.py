"""The plain listing of a quantised base model: the tensors and files that it would have if it were not quantised.

To what composes and merges, a quantised base is this listing: names, dtypes, shapes, and files laid out anew. A plain
tensor is made of codes and scales while it is read, or it is a stored one as it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
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
"""Fields of config.json that say that a model is quantised; no plain model has them."""

QUANTISED_FILES: Final = ("hf_quant_config.json", "quantize_config.json")
"""Files beside the weights that say the same."""


@dataclass(frozen=True)
class PlainListing:
    """The plain tensors of a quantised base model.

    Attributes:
        kind: the format, as people say it.
        dtype: the one that decoded tensors are written in unless another is asked for, as in headers.
        stored: dtype and shape of the stored tensors.
        decoded: plain name -> how it is made; every other plain tensor is the stored one of its name.
        names: of all plain tensors, in the order of their bytes.
        notices: for who adds the base.
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
        InvalidBaseError: ``quantised_base`` where a tensor beside the codes is not understood, ``bad_index`` where two
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
    """The dtype that a config.json gives its weights, as headers say it; bf16 where it gives none of 16 or 32 bits."""
    plain = plain_config(config or {})  # what is quantised may name dtypes of its own
    for document in (plain, *(value for value in plain.values() if isinstance(value, dict))):
        for key in _KEYS:
            found = _DTYPES.get(str(document.get(key)).removeprefix("torch."))
            if found is not None:
                return found
    return "BF16"


def plain_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """A config.json without what says that the model is quantised, in it and in the configs inside it."""
    return {
        key: plain_config(value) if isinstance(value, dict) else value
        for key, value in config.items()
        if key not in QUANTISED_KEYS
    }
