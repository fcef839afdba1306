"""Figures of a tensor's values, or of the first of them, from bytes of any dtype that a header may name.

In float64, in which the values of all of these but the largest integers are exact. Needs no torch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

Values = NDArray[Any]


@dataclass(frozen=True)
class Summary:
    """Figures of some values; those that are not finite are counted, and left out of the others."""

    count: int
    zeros: int
    nans: int
    infinities: int
    minimum: float | None  # None: no value is finite
    maximum: float | None
    mean: float | None
    std: float | None  # of these values as the whole population: divided by their number
    norm: float | None  # the square root of the sum of their squares


def values_of(dtype: str, data: bytes | bytearray | memoryview) -> Values:
    """The elements in bytes of a dtype as headers spell it, flat, in a type of numpy that holds each exactly."""
    if dtype == "BF16":  # the upper half of a float32
        return (np.frombuffer(data, "<u2").astype("<u4") << 16).view("<f4")
    if dtype == "F8_E5M2":  # the upper half of a float16
        return (np.frombuffer(data, "u1").astype("<u2") << 8).view("<f2")
    if dtype in _BYTES:
        found: Values = _BYTES[dtype][np.frombuffer(data, "u1")]
        return found
    return np.frombuffer(data, _DTYPES[dtype])


def summarised(values: Values) -> Summary | None:
    """Figures of values; None of complex ones, which have no order."""
    if np.iscomplexobj(values):
        return None
    wide = values.astype(np.float64)
    finite = wide[np.isfinite(wide)]
    nans = int(np.isnan(wide).sum())
    counts = (len(wide), int((wide == 0).sum()), nans, len(wide) - len(finite) - nans)
    if not len(finite):
        return Summary(*counts, None, None, None, None, None)
    peak = float(np.abs(finite).max())
    scale = 2.0 ** (math.frexp(peak)[1] - 1)  # a power of two, which divides exactly: squares stay inside the range
    scaled = finite / scale
    mean, std = float(scaled.mean()), float(scaled.std())
    norm = float(np.sqrt(np.square(scaled).sum()))
    return Summary(*counts, float(finite.min()), float(finite.max()), mean * scale, std * scale, norm * scale)


def _four_three() -> Values:
    """Every value of F8_E4M3: no infinity, and NaN where all other bits are ones."""
    bits = np.arange(128)
    exponent, fraction = bits >> 3, bits & 7
    sizes = np.where(exponent == 0, fraction / 8 * 2.0**-6, (1 + fraction / 8) * 2.0 ** (exponent - 7))
    sizes[127] = np.nan
    return np.concatenate([sizes, -sizes]).astype("<f4")


def _powers() -> Values:
    """Every value of F8_E8M0: a power of two, or NaN."""
    return np.append(2.0 ** (np.arange(255) - 127), np.nan)


_BYTES: Final[Mapping[str, Values]] = {"BOOL": np.arange(256) > 0, "F8_E4M3": _four_three(), "F8_E8M0": _powers()}
_DTYPES: Final[Mapping[str, str]] = {
    "U8": "u1", "I8": "i1", "I16": "<i2", "U16": "<u2", "I32": "<i4", "U32": "<u4", "I64": "<i8",
    "U64": "<u8", "F16": "<f2", "F32": "<f4", "F64": "<f8", "C64": "<c8",
}  # fmt: skip
