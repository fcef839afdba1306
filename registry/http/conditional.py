"""Conditional requests and ranges: ETags, of JSON too, and a single range of bytes (RFC 9110, sections 13 and 14)."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import Final

from fastapi import Request, Response
from starlette.datastructures import Headers

from registry.http.payloads import JSON
from registry.schemas import Schema

_RANGE: Final = re.compile(r"[ \t]*bytes[ \t]*=[ \t]*([0-9]*)[ \t]*-[ \t]*([0-9]*)[ \t]*", re.IGNORECASE)
_TAG: Final = re.compile(r'(W/)?"([^"]*)"')
_MOST_DIGITS: Final = 18  # larger than any file


@dataclass(frozen=True)
class Whole:
    """All bytes: no range was requested, or one that is ignored."""


@dataclass(frozen=True)
class Part:
    """Bytes ``start`` to ``stop``."""

    start: int
    stop: int


@dataclass(frozen=True)
class Unsatisfiable:
    """A range beyond the end of the file."""


Asked = Whole | Part | Unsatisfiable


def asked_range(header: str | None, size: int) -> Asked:
    """The ``Range`` header applied to ``size`` bytes; several ranges, and malformed ones, are ignored."""
    match = _RANGE.fullmatch(header) if header is not None else None
    if match is None:
        return Whole()
    first, last = (_number(digits) for digits in match.groups())
    if first is None:
        if last is None:
            return Whole()
        return Part(max(0, size - last), size) if last and size else Unsatisfiable()
    if last is not None and last < first:
        return Whole()
    if first >= size:
        return Unsatisfiable()
    return Part(first, size if last is None else min(last + 1, size))


def _number(digits: str) -> int | None:
    """A position; too many digits count as beyond the end."""
    if not digits:
        return None
    digits = digits.lstrip("0")
    return 10**_MOST_DIGITS if len(digits) > _MOST_DIGITS else int(digits or "0")


def names(header: str | None, etag: str) -> bool:
    """Whether an ``If-None-Match`` header names this tag (unquoted), weakly compared."""
    if header is None:
        return False
    return header.strip() == "*" or any(match[2] == etag for match in _TAG.finditer(header))


def has(headers: Headers, etag: str) -> bool:
    """Whether ``If-None-Match`` has this ETag; the header may be repeated."""
    return names(", ".join(headers.getlist("if-none-match")), etag)


def still(header: str | None, etag: str) -> bool:
    """Whether ``If-Range`` allows the range: it has this very ETag. A date never does."""
    if header is None:
        return True
    match = _TAG.fullmatch(header.strip())
    return match is not None and match[1] is None and match[2] == etag


JsonAnswer = Response


def with_etag(request: Request, answer: Schema) -> JsonAnswer:
    """The answer as JSON, or 304 where ``If-None-Match`` has its ETag."""
    body = answer.model_dump_json().encode()
    etag = hashlib.sha256(body).hexdigest()
    headers = {"ETag": f'"{etag}"', "Cache-Control": "private, no-cache"}
    if has(request.headers, etag):
        return Response(status_code=304, headers=headers)
    return Response(body, headers=headers, media_type=JSON)
