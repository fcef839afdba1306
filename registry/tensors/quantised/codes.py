"""What codes and scales stand for: a table of numbers for each coding, indexed by the byte that holds them.

All numbers here are exact in float32. One look-up gives two of them, of a byte with two codes or of two bytes with one
each: that takes a tenth of the time of torch's conversion of float8, which computes each element by itself.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from typing import Final

import torch

from registry.files.header import TensorEntry
from registry.files.source import ByteSource, look_at
from registry.quantised.reading import MAPS
from registry.tensors.arithmetic.blocks import scratch

_MANY: Final = 1 << 12
"""Bytes for which a table of pairs is worth its half a MiB."""
_E2M1: Final = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
_E2M1_SIGNED: Final = (*_E2M1, *(-value for value in _E2M1))  # code 8 is -0: the sign of zero is kept


@cache
def float8(dtype: str) -> torch.Tensor:
    """The 256 numbers of F8_E4M3 (bias 7, no infinity), F8_E5M2 (bias 15), and F8_E8M0: 2^(byte - 127), 255 is NaN."""
    if dtype == "F8_E8M0":
        return _table([2.0 ** (byte - 127) for byte in range(255)] + [float("nan")], 1)
    fraction, bias = (3, 7) if dtype == "F8_E4M3" else (2, 15)
    return _table((_float8(byte, fraction, bias) for byte in range(256)), 1)


def _float8(byte: int, fraction: int, bias: int) -> float:
    exponent, rest = divmod(byte & 0x7F, 1 << fraction)
    most = (0x7F >> fraction, (1 << fraction) - 1)
    if fraction == 3 and (exponent, rest) == most:
        value = float("nan")
    elif fraction == 2 and exponent == most[0]:
        value = float("nan") if rest else float("inf")
    else:  # below exponent 1 are the subnormals
        value = (rest + (1 << fraction if exponent else 0)) * 2.0 ** (max(exponent, 1) - bias - fraction)
    return -value if byte & 0x80 else value


@cache
def numbers_of(coding: str, bits: int, dtype: str) -> torch.Tensor:
    """The numbers of the codes in each byte, (256, codes in a byte), float32.

    Args:
        coding: of `registry.quantised.reading.Codes`, or a map of bitsandbytes.
        bits: of a packed code: 1, 2, 4 or 8, so that none lies in two bytes.
        dtype: of the stored tensor.
    """
    if coding == "float8":
        return float8(dtype)
    if coding == "int8":
        return _table((byte - 256 if byte > 127 else byte for byte in range(256)), 1)
    if coding == "packed":
        mask, offset = (1 << bits) - 1, 1 << (bits - 1)
        places = range(0, 8, bits)
        return _table(((byte >> at & mask) - offset for byte in range(256) for at in places), len(places))
    if coding == "e2m1":
        return _table((_E2M1_SIGNED[half] for byte in range(256) for half in (byte & 15, byte >> 4)), 2)
    if bits == 8:  # a byte for each code
        return _table((MAPS[coding][byte & 15] for byte in range(256)), 1)
    return _table((MAPS[coding][half] for byte in range(256) for half in (byte >> 4, byte & 15)), 2)


@cache
def _pairs(table: torch.Tensor) -> torch.Tensor:
    """The numbers of two bytes with a code each, by the 16 bits of both."""
    both = torch.arange(1 << 16)
    return torch.stack((table.view(-1)[both & 255], table.view(-1)[both >> 8]), dim=1).view(torch.complex64).view(-1)


def _table(values: Iterable[float], codes: int) -> torch.Tensor:
    return torch.tensor(list(values), dtype=torch.float32).view(256, codes)


def look_up(table: torch.Tensor, data: torch.Tensor) -> torch.Tensor:
    """The numbers of the codes in ``data``, bytes (rows, bytes of a row): (rows, codes of a row), float32."""
    rows, width = data.shape
    codes = table.shape[1]
    flat = data.reshape(-1)
    if codes == 1 and len(flat) >= _MANY and len(flat) % 2 == 0:
        if flat.data_ptr() % 2 or flat.storage_offset() % 2:
            flat = flat.clone()
        flat, numbers = flat.view(torch.uint16), _pairs(table)
    elif codes == 1:
        numbers = table.view(-1)
    else:  # a pair is one element: a complex number of 8 bytes
        numbers = table.view(torch.complex64).view(-1) if codes == 2 else table
    index = scratch((len(flat),), torch.int32).copy_(flat)
    found = scratch((len(flat), *numbers.shape[1:]), numbers.dtype)
    torch.index_select(numbers, 0, index, out=found)
    return found.view(torch.float32).view(rows, width * codes)


def raw(source: ByteSource, entry: TensorEntry, start: int, stop: int) -> torch.Tensor:
    """Bytes ``start`` to ``stop`` of a tensor, uint8; not to be changed."""
    found = look_at(source, entry.start + start, entry.start + stop)
    if found.readonly:  # torch warns of memory that it may not write, even where nobody does
        found = memoryview(bytearray(found))
    return torch.frombuffer(found, dtype=torch.uint8) if found else torch.empty(0, dtype=torch.uint8)
