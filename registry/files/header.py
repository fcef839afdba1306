"""Safetensors headers, read strictly and written the same everywhere; sizes of dtypes; the weight files of a model.

Format: 8 bytes little-endian length of the header, the header as JSON (name -> dtype, shape, data_offsets; and
``__metadata__``), then the tensors' bytes. The reader accepts what the reference implementation accepts and refuses
everything else: holes, overlaps, bytes left over, unknown dtypes, duplicate names (safetensors 0.8, ``tensor.rs``).

How large an element of each dtype of a safetensors file is. Needs no torch, so that files can be read without it.

The weight files of a model as they are read: headers, and every tensor with the open file that holds it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from registry.errors import RegistryError
from registry.files.source import ByteSource, read_range
from registry.files.strict_json import instead_of_file, parse, shown

SIZES: Final[dict[str, int]] = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1,
    "I16": 2, "U16": 2, "F16": 2, "BF16": 2,
    "I32": 4, "U32": 4, "F32": 4,
    "I64": 8, "U64": 8, "F64": 8, "C64": 8,
}  # fmt: skip
"""Bytes an element, of every dtype that a header may name."""


MAX_HEADER: Final = 100_000_000
MAX_TENSORS: Final = 1_000_000
MAX_DIMENSIONS: Final = 16
MAX_DIMENSION: Final = 2**48
MAX_BYTES: Final = 2**63 - 1
MAX_NAME: Final = 1024
"""Characters of a tensor's name: what looks at a name may take time that grows with the square of its length."""
_LENGTH: Final = 8
_ALIGN: Final = 8


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """One tensor of a file: what it is, and its bytes ``start`` to ``stop`` counted from the start of the file."""

    name: str
    dtype: str  # as in the header: F32, BF16, ...
    shape: tuple[int, ...]
    start: int
    stop: int

    @property
    def elements(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class Header:
    """A file's tensors in the order of their bytes."""

    entries: Mapping[str, TensorEntry]
    metadata: Mapping[str, str]
    size: int  # bytes before the first tensor, length field included
    lead: str = ""  # what every name begins with that the file leaves out: "unet." of a pipeline's file


def read_header(source: ByteSource, *, what: str, error: type[RegistryError]) -> Header:
    """Read and check the header of a safetensors file.

    Args:
        source: the file.
        what: how to name the file in a message.
        error: class of the error to raise, with code ``bad_safetensors``.
    """

    def refuse(why: str) -> RegistryError:
        return error(
            f"{what} is not a valid safetensors file: {why}. Copy, download or save it once more.",
            code="bad_safetensors",
        )

    if source.size < _LENGTH + 2:
        raise refuse(f"it has {source.size} bytes, too few for a header")
    length = int.from_bytes(read_range(source, 0, _LENGTH), "little")
    if length > min(source.size - _LENGTH, MAX_HEADER):
        if (other := instead_of_file(length.to_bytes(_LENGTH, "little"))) is not None:
            raise error(f"{what} {other}.", code="bad_safetensors")
        raise refuse(f"its header claims {length} bytes of a file of {source.size}")
    raw = bytes(read_range(source, _LENGTH, _LENGTH + length))
    if not raw.startswith(b"{"):
        raise refuse("its header does not start with '{'")
    document = parse(raw, what=f"The header of {what}", limit=MAX_HEADER, error=error, code="bad_safetensors")
    try:
        return _check(document, data_start=_LENGTH + length, file_size=source.size)
    except _HeaderError as problem:
        raise refuse(str(problem)) from None


def lead_of(path: str) -> str:
    """What names of tensors begin with in a file of a model: the folder of the component that it belongs to.

    A pipeline of diffusers has a folder for each of its models, and each names its tensors by itself.
    """
    folder, slash, _ = path.rpartition("/")
    return f"{folder}." if slash else ""


def read_model_header(source: ByteSource, path: str, *, error: type[RegistryError], what: str | None = None) -> Header:
    """Read the header of one file of a model, whose tensors are named with their component (`lead_of`).

    Args:
        source: the file.
        path: its name in the model's folder.
        error: class of the error to raise, with code ``bad_safetensors``.
        what: how to name the file in a message, if not by its path.
    """
    header, lead = read_header(source, what=what or path, error=error), lead_of(path)
    if not lead:
        return header
    entries = {lead + name: replace(entry, name=lead + name) for name, entry in header.entries.items()}
    return Header(entries, header.metadata, header.size, lead)


class _HeaderError(ValueError):
    pass


def _check(document: Any, *, data_start: int, file_size: int) -> Header:
    if not isinstance(document, dict):
        raise _HeaderError("its header is not a JSON object")
    metadata = document.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise _HeaderError("its __metadata__ is not a map of strings")
    if len(document) > MAX_TENSORS:
        raise _HeaderError(f"it has more than {MAX_TENSORS} tensors")
    entries = sorted(
        (_entry(name, value, data_start) for name, value in document.items()),
        key=lambda entry: (entry.start, entry.stop),
    )
    at = data_start
    for entry in entries:
        if entry.start != at:
            fault = "overlaps another tensor" if entry.start < at else "leaves a hole before it"
            raise _HeaderError(f"tensor {shown(entry.name)} {fault}")
        at = entry.stop
    if at != file_size:
        raise _HeaderError(f"its tensors end at byte {at} but the file has {file_size}")
    return Header({entry.name: entry for entry in entries}, metadata, data_start)


def _is_size(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_DIMENSION


def _entry(name: str, value: Any, data_start: int) -> TensorEntry:
    if len(name) > MAX_NAME:
        raise _HeaderError(f"the name {shown(name)} has more than {MAX_NAME} characters")
    if not isinstance(value, dict) or set(value) != {"dtype", "shape", "data_offsets"}:
        raise _HeaderError(f"tensor {shown(name)} needs exactly dtype, shape and data_offsets")
    dtype, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
    if not isinstance(dtype, str) or dtype not in SIZES:
        raise _HeaderError(f"tensor {shown(name)} has the unknown dtype {shown(dtype)}")
    if not isinstance(shape, list) or len(shape) > MAX_DIMENSIONS or not all(map(_is_size, shape)):
        raise _HeaderError(f"tensor {shown(name)} has a malformed shape")
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(map(_is_size, offsets)):
        raise _HeaderError(f"tensor {shown(name)} has malformed data_offsets")
    # A dimension of 0 hides an overflow from the product, but not from programs that multiply one by one.
    if math.prod(size or 1 for size in shape) * SIZES[dtype] > MAX_BYTES:
        raise _HeaderError(f"tensor {shown(name)} has a shape whose product is out of range")
    start, stop = offsets
    needed = math.prod(shape) * SIZES[dtype]
    if stop - start != needed:
        raise _HeaderError(
            f"tensor {shown(name)} of shape {shape} and dtype {dtype} needs {needed} bytes, its data_offsets give "
            f"{stop - start}"
        )
    return TensorEntry(name, dtype, tuple(shape), data_start + start, data_start + stop)


def write_header(
    tensors: Iterable[tuple[str, str, tuple[int, ...]]], metadata: Mapping[str, str], lead: str = ""
) -> tuple[bytes, Header]:
    """Lay out tensors, given as (name, dtype, shape), one after another in the given order.

    The file has their names without ``lead``.

    Returns the bytes that come before the first tensor (padded with spaces to 8 bytes, as the reference
    implementation does) and the header that they encode.
    """
    document: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    laid_out: list[tuple[str, str, tuple[int, ...], int, int]] = []
    at = 0
    for name, dtype, shape in tensors:
        stop = at + math.prod(shape) * SIZES[dtype]
        document[name.removeprefix(lead)] = {"dtype": dtype, "shape": list(shape), "data_offsets": [at, stop]}
        laid_out.append((name, dtype, shape, at, stop))
        at = stop
    raw = json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode("utf-8")
    raw += b" " * (-len(raw) % _ALIGN)
    size = _LENGTH + len(raw)
    entries = {
        name: TensorEntry(name, dtype, shape, size + start, size + stop) for name, dtype, shape, start, stop in laid_out
    }
    return len(raw).to_bytes(_LENGTH, "little") + raw, Header(entries, dict(metadata), size, lead)


Tensors = Mapping[str, tuple[ByteSource, TensorEntry]]
"""Every tensor of a model, and the open file that holds it."""


@dataclass(frozen=True)
class ModelWeights:
    """The weights of a model: those that are stored, or made of stored ones while they are read."""

    headers: Mapping[str, Header]  # of all weight files, by name
    tensors: Tensors
    made: Mapping[str, ByteSource] = field(default_factory=dict)  # the weight files that are not stored as they are
    quantised: frozenset[str] = frozenset()  # the stored files of a quantised model, in whose place those are
