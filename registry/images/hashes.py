"""The hashes by which pictures and sites name a LoRA file: of the whole file, or of its tensors alone.

AutoV2 is the beginning of the file's sha256, as the digest of a stored file is. AutoV3 is the beginning of the sha256
of what follows the header, which kohya's scripts keep as ``sshs_model_hash``: another title does not change it. A1111
and Forge write both into one text beside the prompt: ``Lora hashes: "NAME: HASH"``, ``Hashes: {"lora:NAME": HASH}``,
``Model hash: HASH``; Civitai reads that. ComfyUI writes its graph, which names files and no hash. Sources: A1111's
``modules/hashes.py``, ``infotext_utils.py`` and ``extra_networks_lora.py``, sd-scripts ``library/train_util.py``.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from registry.errors import InvalidAdapterError, RegistryError
from registry.files.source import ByteSource, read_range
from registry.files.strict_json import parse
from registry.images.about import last_part, plain

MOST_NAMED: Final = 64
"""Models that one picture may name."""
AUTOV3: Final = "autov3"
"""The annotation that holds it."""
AUTOV3_DIGITS: Final = 12
_LENGTH: Final = 8
_CHUNK: Final = 1 << 20

_HEX: Final = r"[0-9a-fA-F]"
_LORA_HASHES: Final = re.compile(r'\bLora hashes: "([^"\n]{1,65536})"')
_HASHES: Final = re.compile(r"\bHashes: (\{[^{}\n]{1,65536}\})")
_MODEL: Final = re.compile(rf"\bModel hash: ({_HEX}{{8,64}})\b(?:, Model: ([^,\n]{{1,300}}))?")
_ADDED: Final = re.compile(rf"\bAddNet Model \d: ([^,\n()]{{1,300}})\(({_HEX}{{8,64}})\)")
_GRAPH: Final = re.compile(r'"(lora_name|ckpt_name|unet_name)"\s*:\s*"((?:[^"\\]|\\.){1,500})"')
_DIGITS: Final = re.compile(rf"{_HEX}{{8,64}}")


def tensors_hash(source: ByteSource) -> str:
    """The sha256 of all bytes of a safetensors file after its header, in hex digits."""
    start = _LENGTH + int.from_bytes(read_range(source, 0, _LENGTH), "little")
    found = hashlib.sha256()
    for at in range(start, source.size, _CHUNK):
        found.update(read_range(source, at, min(at + _CHUNK, source.size)))
    return found.hexdigest()


@dataclass(frozen=True)
class NamedModel:
    """A model that a picture names."""

    kind: str  # lora, model, or what else the writer calls it
    name: str
    hash: str | None  # in lower case; None: it is named without one


def named_models(texts: Iterable[str]) -> tuple[NamedModel, ...]:
    """The models that the texts in a picture name, at most `MOST_NAMED`; a name that has a hash stands there once."""
    found: dict[tuple[str, str, str | None], NamedModel] = {}
    for text in texts:
        for one in _in_text(text):
            found.setdefault((one.kind, one.name, one.hash), one)
    hashed = {(one.kind, _stem(one.name)) for one in found.values() if one.hash is not None}
    kept = [one for one in found.values() if one.hash is not None or (one.kind, _stem(one.name)) not in hashed]
    return tuple(kept)[:MOST_NAMED]


def _stem(name: str) -> str:
    return name.removesuffix(".safetensors")


def _in_text(text: str) -> Iterator[NamedModel]:
    for match in _LORA_HASHES.finditer(text):
        for part in match[1].split(","):
            name, _, digits = part.rpartition(":")
            yield from _named("lora", name, digits)
    for match in _HASHES.finditer(text):
        for key, value in _object(match[1]).items():
            kind, _, name = key.partition(":")
            yield from _named(kind, name, value if isinstance(value, str) else "")
    for match in _MODEL.finditer(text):
        yield from _named("model", match[2] or "", match[1])
    for match in _ADDED.finditer(text):
        yield from _named("lora", match[1], match[2])
    for match in _GRAPH.finditer(text):
        kind, name = "lora" if match[1] == "lora_name" else "model", plain(last_part(match[2]), 200)
        if name and name != "None":
            yield NamedModel(kind, name, None)


def _named(kind: str, name: str, digits: str) -> Iterator[NamedModel]:
    digits = digits.strip().lower()
    if _DIGITS.fullmatch(digits):
        yield NamedModel(plain(kind, 20), plain(last_part(name.strip()), 200), digits)


def _object(text: str) -> dict[str, object]:
    try:
        data = text.encode("utf-8", "replace")
        found = parse(data, what="It", limit=1 << 18, error=InvalidAdapterError, code="bad_config")
    except RegistryError:
        return {}
    return found if isinstance(found, dict) else {}
