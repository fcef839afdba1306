"""Safetensors files and checkpoint folders, read and written with struct and json only."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.kit.floats import FORMATS, Array, from_bytes, to_bytes

_SIZES = {name: chosen.bytes for name, chosen in FORMATS.items()} | {
    "I64": 8,
    "I32": 4,
    "U8": 1,
    "I8": 1,
    "F8_E4M3": 1,
    "BOOL": 1,
}


@dataclass(frozen=True)
class RawTensor:
    """A tensor as a file holds it."""

    dtype: str
    shape: tuple[int, ...]
    data: bytes

    @classmethod
    def of(cls, values: Array, dtype: str) -> RawTensor:
        """The values, rounded once to ``dtype``."""
        return cls(dtype, tuple(values.shape), to_bytes(values, dtype))

    @property
    def values(self) -> Array:
        """The values in float64; only of float dtypes."""
        return from_bytes(self.data, self.dtype, self.shape)


def write_tensors(path: Path, tensors: Mapping[str, RawTensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write one safetensors file, tensors in the order given, header padded to 8 bytes."""
    header: dict[str, Any] = {"__metadata__": dict(metadata if metadata is not None else {"format": "pt"})}
    position = 0
    for name, tensor in tensors.items():
        if math.prod(tensor.shape) * _SIZES[tensor.dtype] != len(tensor.data):
            raise ValueError(f"{name}: {len(tensor.data)} bytes don't fit {tensor.dtype} {tensor.shape}")
        stop = position + len(tensor.data)
        header[name] = {"dtype": tensor.dtype, "shape": list(tensor.shape), "data_offsets": [position, stop]}
        position = stop
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)))
        file.write(text)
        for tensor in tensors.values():
            file.write(tensor.data)


def read_tensors(path: Path) -> dict[str, RawTensor]:
    """All tensors of one safetensors file, in file order."""
    return parse_tensors(path.read_bytes())


def parse_tensors(content: bytes) -> dict[str, RawTensor]:
    """All tensors in the bytes of a safetensors file, in file order."""
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    header.pop("__metadata__", None)
    body = content[8 + length :]
    found = {}
    for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        start, stop = entry["data_offsets"]
        found[name] = RawTensor(entry["dtype"], tuple(entry["shape"]), body[start:stop])
    return found


def tensor_files(folder: Path) -> list[Path]:
    """The weight files of a model folder: those of its index, or the single file."""
    index = folder / "model.safetensors.index.json"
    if not index.exists():
        return [folder / "model.safetensors"]
    return [folder / name for name in sorted(set(json.loads(index.read_text())["weight_map"].values()))]


def read_model(folder: Path) -> dict[str, RawTensor]:
    """All tensors of a model folder, single file or sharded."""
    found: dict[str, RawTensor] = {}
    for path in tensor_files(folder):
        found |= read_tensors(path)
    return found


def write_model(folder: Path, tensors: Mapping[str, RawTensor], shards: int = 1) -> None:
    """Write the tensors as ``model.safetensors``, or dealt out in turn over several shards with an index."""
    if shards == 1:
        write_tensors(folder / "model.safetensors", tensors)
        return
    names = list(tensors)
    weight_map: dict[str, str] = {}
    for number in range(shards):
        file_name = f"model-{number + 1:05d}-of-{shards:05d}.safetensors"
        part = names[number * len(names) // shards : (number + 1) * len(names) // shards]
        write_tensors(folder / file_name, {name: tensors[name] for name in part})
        weight_map |= dict.fromkeys(part, file_name)
    total = sum(len(tensor.data) for tensor in tensors.values())
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2))


def other_files(folder: Path) -> Iterator[tuple[str, bytes]]:
    """Every file that holds no weights, nested ones too: relative name and content, by name."""
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.suffix != ".safetensors":
            yield path.relative_to(folder).as_posix(), path.read_bytes()
