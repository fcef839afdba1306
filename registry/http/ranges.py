"""Which bytes a request asks for: a single range, and the conditions that go with it (RFC 9110, sections 13 and 14)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

_RANGE: Final = re.compile(r"[ \t]*bytes[ \t]*=[ \t]*([0-9]*)[ \t]*-[ \t]*([0-9]*)[ \t]*", re.IGNORECASE)
_TAG: Final = re.compile(r'(W/)?"([^"]*)"')
_MOST_DIGITS: Final = 18


@dataclass(frozen=True)
class Whole:
    """All bytes: no range was asked for, or one that a server ignores."""


@dataclass(frozen=True)
class Part:
    """Bytes ``start`` to ``stop``."""

    start: int
    stop: int


@dataclass(frozen=True)
class Unsatisfiable:
    """A range that holds no byte of the file."""


Asked = Whole | Part | Unsatisfiable


def asked_range(header: str | None, size: int) -> Asked:
    """What a ``Range`` header asks for of ``size`` bytes; several ranges, and malformed ones, are ignored."""
    match = _RANGE.fullmatch(header) if header is not None else None
    if match is None or max(map(len, match.groups())) > _MOST_DIGITS:
        return Whole()
    first, last = match.groups()
    if not first and not last:
        return Whole()
    if not first:
        count = int(last)
        return Part(max(0, size - count), size) if count and size else Unsatisfiable()
    if last and int(last) < int(first):
        return Whole()
    if int(first) >= size:
        return Unsatisfiable()
    return Part(int(first), min(int(last) + 1, size) if last else size)


def names(header: str | None, etag: str) -> bool:
    """Whether an ``If-None-Match`` header names this tag (unquoted), weakly compared."""
    if header is None:
        return False
    return header.strip() == "*" or any(match[2] == etag for match in _TAG.finditer(header))


def still(header: str | None, etag: str) -> bool:
    """Whether a range may be taken by an ``If-Range`` header: it names this very tag. A date never does."""
    if header is None:
        return True
    match = _TAG.fullmatch(header.strip())
    return match is not None and match[1] is None and match[2] == etag
