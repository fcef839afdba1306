"""How a quantised tensor is decoded, as data: what a format's reader finds, and what the tensor core computes with.

The real number that code, scale and zero point mean is an exact product of what is stored. It is the base model's
weight, whatever a loader rounds it to (docs/quantised.md). Needs no torch: a client reads a folder with this.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final, Literal

from registry.errors import InvalidBaseError
from registry.files.strict_json import shown

SMALL: Final = 1 << 20
"""Bytes of the largest tensor whose values determine how others are read, such as a state or a shape."""


MAPS: Final[Mapping[str, tuple[float, ...]]] = {
    name: tuple(float.fromhex(value) for value in values.split())
    for name, values in {
        "nf4": (
            "-0x1p0 -0x1.647362p-1 -0x1.0cd66p-1 -0x1.946540p-2 -0x1.23449ap-2 -0x1.7a6a7ep-3 -0x1.74f0e2p-4 0x0p0 "
            "0x1.45f5fep-4 0x1.4995c6p-3 0x1.f809bap-3 0x1.5a0674p-2 0x1.c34970p-2 0x1.200f56p-1 0x1.722766p-1 0x1p0"
        ),
        "fp4": (
            "0x0p0 0x1.555556p-8 0x1.555556p-1 0x1p0 0x1.555556p-2 0x1p-1 0x1.555556p-3 0x1p-2 "
            "0x0p0 -0x1.555556p-8 -0x1.555556p-1 -0x1p0 -0x1.555556p-2 -0x1p-1 -0x1.555556p-3 -0x1p-2"
        ),
    }.items()
}
"""The numbers that bitsandbytes' 4-bit codes stand for, float32 each (bitsandbytes 0.50, ``get_4bit_type``).

NF4: quantiles of a normal distribution (Dettmers et al. 2023, "QLoRA", appendix E).
"""


@dataclass(frozen=True)
class StoredTensor:
    """A tensor as the files hold it."""

    dtype: str  # as in the header: F8_E4M3, U8, ...
    shape: tuple[int, ...]

    @property
    def elements(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class Quantised:
    """A checkpoint that is quantised by its configuration or its tensors: what a format's reader gets.

    ``method`` is the quant_method, ``block`` the object that describes it (``quantization_config``), ``config`` all of
    config.json. ``small`` reads a tensor of at most `SMALL` bytes; it raises `InvalidBaseError` for a larger one.
    """

    method: str
    block: Mapping[str, Any]
    config: Mapping[str, Any]
    tensors: Mapping[str, StoredTensor]
    small: Callable[[str], bytes]

    def refuse(self, what: str, expected: str, *, code: str = "quantised_base") -> InvalidBaseError:
        """The error for a checkpoint that is not understood; ``what`` names the tensor or field and its fault."""
        return refuse(self.method, what, expected, code=code)

    def modules(self) -> dict[str, dict[str, StoredTensor]]:
        """Every module with tensors of its own: its name -> the last part of their names -> tensor."""
        found: dict[str, dict[str, StoredTensor]] = {}
        for name, stored in self.tensors.items():
            module, _, part = name.rpartition(".")
            found.setdefault(module, {})[part] = stored
        return found

    def names(self, *fields: str) -> tuple[str, ...]:
        """The names of modules in those lists of ``block`` that it has."""
        found: list[str] = []
        for key in fields:
            value = self.block.get(key)
            if value is None:
                continue
            if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
                raise self.refuse(f"{key} is {shown(value)}", "a list of names")
            found += value
        return tuple(found)


def tensor_name(module: str, part: str) -> str:
    """The name of a tensor of a module."""
    return f"{module}.{part}" if module else part


OF_ACTIVATIONS: Final = frozenset(
    f"{of}_scale" for of in ("activation", "input", "output", "k", "v", "q", "kv", "prob_output")
)
"""Last parts of names of scales that an engine multiplies activations and its cache by; no weight depends on them."""


def refuse(method: str, what: str, expected: str, *, code: str = "quantised_base") -> InvalidBaseError:
    """See `Quantised.refuse`; ``expected`` completes a sentence: "... , and EXPECTED is expected"."""
    return InvalidBaseError(
        f"The base is quantised ({shown(method)}) and {what}, and {expected} is expected. Add the model that it was "
        "made from, or a copy of it that is saved as the format says.",
        code=code,
    )


@dataclass(frozen=True)
class Codes:
    """The tensor of codes.

    ``float8``: elements of F8_E4M3 or F8_E5M2. ``int8``: I8. ``e2m1``: two of a byte along the last axis, low nibble
    first. ``packed``: ``bits`` each, a row a little-endian stream of bits in words of I32, less 2^(bits - 1).
    """

    name: str
    coding: Literal["float8", "int8", "e2m1", "packed"]
    bits: int = 8


@dataclass(frozen=True)
class Scale:
    """The tensor of scales: one for each block of ``block`` rows and columns of the matrix of codes, the last ones cut.

    ``float``: the number. ``exponent``: of U8 or F8_E8M0, 2^(byte - 127), and 255 is no number. Its elements are the
    grid (matrices, cdiv(rows, block rows), cdiv(columns, block columns)), whatever shape it is stored in.
    """

    name: str
    coding: Literal["float", "exponent"]
    block: tuple[int, int]


@dataclass(frozen=True)
class ZeroPoint:
    """The zero points, on the grid of the scales: I8 numbers, or packed as codes are, but down the columns."""

    name: str
    coding: Literal["int8", "packed"]
    bits: int = 8


@dataclass(frozen=True)
class Factor:
    """One number for the whole tensor by which the products are multiplied or divided; a tensor's or a constant."""

    operation: Literal["multiply", "divide"]
    name: str | None = None
    value: float | None = None


@dataclass(frozen=True)
class Grid:
    """(code - zero point) * scale, then ``factor``: what all formats but bitsandbytes' 4 bits are.

    ``shape`` is that of the codes' matrices as they multiply, (rows, columns) or (matrices, rows, columns), before
    ``transposed`` swaps the last two: then the plain tensor is (..., columns, rows).
    """

    shape: tuple[int, ...]
    codes: Codes
    scale: Scale
    zero: ZeroPoint | None = None
    factor: Factor | None = None
    transposed: bool = False
    said: tuple[str, ...] = field(default=())  # other tensors of it, whose values are in the fields here

    @property
    def parts(self) -> tuple[str, ...]:
        """The stored tensors that it is made of, the codes first."""
        named = (self.codes.name, self.scale.name, self.zero and self.zero.name, self.factor and self.factor.name)
        return (*(name for name in named if name), *self.said)

    @property
    def plain_shape(self) -> tuple[int, ...]:
        """Of the tensor that it means."""
        return _turned(self.shape) if self.transposed else self.shape


@dataclass(frozen=True)
class Nested:
    """Scales that are quantised themselves: (map[code] * absmax of its block) + offset, one operation each."""

    absmax: str
    map: str
    offset: float
    block: int


@dataclass(frozen=True)
class FlatBlocks:
    """bitsandbytes' 4 bits: map[code] * absmax of ``block`` consecutive elements of the flat tensor, high nibble first.

    The bytes of ``codes`` are codes whatever dtype stores them. ``shape`` is as in `Grid`.
    """

    shape: tuple[int, ...]
    codes: str
    map: Literal["nf4", "fp4"]
    absmax: str
    block: int
    nested: Nested | None = None
    transposed: bool = False
    said: tuple[str, ...] = field(default=())  # other tensors of it, whose values are in the fields here

    @property
    def parts(self) -> tuple[str, ...]:
        """The stored tensors that it is made of, the codes first."""
        nested = (self.nested.absmax, self.nested.map) if self.nested else ()
        return (self.codes, self.absmax, *nested, *self.said)

    @property
    def plain_shape(self) -> tuple[int, ...]:
        """Of the tensor that it means."""
        return _turned(self.shape) if self.transposed else self.shape


def _turned(shape: tuple[int, ...]) -> tuple[int, ...]:
    return (*shape[:-2], shape[-1], shape[-2])


Decoding = Grid | FlatBlocks
"""How one plain tensor is made of stored ones."""


@dataclass(frozen=True)
class Reading:
    """What a format's reader found.

    Attributes:
        kind: the format by its common name: ``bitsandbytes nf4``, ``fp8``.
        decoded: plain tensor name -> how it is made.
        dropped: stored tensors that are not part of a weight: scales of activations and caches.
        notices: sentences for the person who adds the base.
    """

    kind: str
    decoded: Mapping[str, Decoding]
    dropped: frozenset[str] = frozenset()
    notices: tuple[str, ...] = ()


def decoding_document(decoding: Decoding) -> dict[str, Any]:
    """A decoding as JSON; fields that are not set are left out."""
    document = {"as": "grid" if isinstance(decoding, Grid) else "flat", **asdict(decoding)}
    return {key: value for key, value in document.items() if value not in (None, False, ())}


def decoding_from(document: Mapping[str, Any]) -> Decoding:
    """Read what `decoding_document` wrote."""
    said = {key: value for key, value in document.items() if key != "as"}
    said["shape"] = tuple(said["shape"])
    if document["as"] == "flat":
        said["nested"] = Nested(**said["nested"]) if "nested" in said else None
        return FlatBlocks(**{**said, "said": tuple(said.get("said", ()))})
    scale = {**said.pop("scale")}
    return Grid(
        **{key: said[key] for key in ("shape", "transposed") if key in said},
        codes=Codes(**said["codes"]),
        scale=Scale(**{**scale, "block": tuple(scale["block"])}),
        zero=ZeroPoint(**said["zero"]) if "zero" in said else None,
        factor=Factor(**said["factor"]) if "factor" in said else None,
        said=tuple(said.get("said", ())),
    )
