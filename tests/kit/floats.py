"""Float formats by their definition: decode, round once, spacing.

Nothing here uses torch: torch rounds float64 to bf16 twice (by way of float32), so it can't judge a rounding.
A format is given by its name in safetensors files: ``F64``, ``F32``, ``F16``, ``BF16``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Format:
    """A binary float format: ``digits`` bits of significand (with the hidden one), smallest normal ``2**lowest``."""

    digits: int
    lowest: int
    largest: float
    bytes: int


FORMATS: Final[dict[str, Format]] = {
    "F64": Format(53, -1022, float(np.finfo(np.float64).max), 8),
    "F32": Format(24, -126, (2.0 - 2.0**-23) * 2.0**127, 4),
    "F16": Format(11, -14, 65504.0, 2),
    "BF16": Format(8, -126, (2.0 - 2.0**-7) * 2.0**127, 2),
}


def spacing(values: Array, name: str) -> Array:
    """One unit in the last place of each value in format ``name`` (that of the smallest numbers at and near 0)."""
    chosen = FORMATS[name]
    _, exponent = np.frexp(np.abs(values))  # |value| = m * 2**exponent, 0.5 <= m < 1
    exponent = np.where(values == 0, chosen.lowest, np.maximum(exponent - 1, chosen.lowest))
    unit: Array = np.ldexp(1.0, exponent - (chosen.digits - 1))
    return unit


def round_once(values: Array, name: str) -> Array:
    """Each value rounded to the nearest number of format ``name``, ties to even; too large gives infinity.

    Dividing by the spacing is exact (it is a power of two), so the only rounding is that to a whole number.
    """
    if name == "F64":
        return values
    unit = spacing(values, name)
    with np.errstate(over="ignore"):  # only of values near the end of float64
        rounded: Array = np.rint(values / unit) * unit
    too_large = np.abs(rounded) > FORMATS[name].largest
    return np.where(too_large, np.copysign(np.inf, rounded), rounded)


def to_bytes(values: Array, name: str) -> bytes:
    """Little-endian bytes of the values in format ``name``, rounded once."""
    rounded = round_once(np.asarray(values, dtype=np.float64), name)
    if name == "F64":
        return rounded.astype("<f8").tobytes()
    if name == "F32":
        return rounded.astype("<f4").tobytes()
    if name == "F16":
        return rounded.astype("<f2").tobytes()
    bits = rounded.astype("<f4").view("<u4") >> 16
    return bits.astype("<u2").tobytes()


def from_bytes(data: bytes, name: str, shape: tuple[int, ...]) -> Array:
    """The values that little-endian bytes of format ``name`` stand for, in float64 (exact for every format)."""
    raw: NDArray[Any]
    if name == "BF16":
        raw = (np.frombuffer(data, "<u2").astype("<u4") << 16).view("<f4")
    else:
        raw = np.frombuffer(data, {"F64": "<f8", "F32": "<f4", "F16": "<f2"}[name])
    with np.errstate(invalid="ignore"):  # numpy warns when it casts a signalling NaN
        return raw.astype(np.float64).reshape(shape)
