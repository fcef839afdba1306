"""JSON as clients send it: bodies within the limits, validated by the schema of a route, and the cursors of lists."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import AsyncIterator, Iterator
from typing import Annotated, Any, Final, Generic, TypeVar

import anyio.from_thread
from fastapi import Depends, Request
from pydantic import ValidationError

from registry.errors import UnavailableError
from registry.http.errors import MalformedError
from registry.operations.operation import Listing
from registry.schemas import Schema


def cursor_to(key: object) -> str:
    """The cursor that leads on from an item with this key."""
    return base64.urlsafe_b64encode(json.dumps(key).encode()).rstrip(b"=").decode()


def key_of(cursor: str) -> object:
    """The key of a cursor.

    Raises:
        MalformedError: it is none.
    """
    try:
        key: object = json.loads(base64.urlsafe_b64decode(cursor.encode() + b"=" * (-len(cursor) % 4)))
    except (ValueError, RecursionError):
        raise foreign() from None
    return key


def position_of(listing: Listing[Any, Any], cursor: str | None) -> object | None:
    """Where a listing goes on; None: it begins.

    Raises:
        MalformedError: no page of the listing gave the cursor.
    """
    try:
        return None if cursor is None else listing.key(key_of(cursor))
    except ValueError:
        raise foreign() from None


def foreign() -> MalformedError:
    """The error of a cursor that no page of the list gave."""
    return MalformedError("The cursor does not belong to this list: use `next` of the previous page, or leave it out.")


S = TypeVar("S", bound=Schema)
JSON: Final = "application/json"
DEPTH: Final = 64
_GATHER: Final = 1 << 20
# Possessive quantifiers, and an open string ends with the text: no backtracking, so the time is linear.
_STRINGS: Final = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?', re.DOTALL)


async def _received(request: Request) -> bytes:
    kind = request.headers.get("content-type", "")
    if kind.partition(";")[0].strip().lower() != JSON:
        # Also stops cross-site requests: a browser sends a CORS preflight for this type, which is never granted.
        raise MalformedError(f"The body has the type {kind or 'none'!r}, {JSON} is expected.")
    return await request.body()


def chunks_of(request: Request) -> Iterator[bytes]:
    """The body as it comes, for a thread that stores it: in pieces of about a MiB."""
    stream = request.stream()
    while chunk := anyio.from_thread.run(_gather, stream):
        yield chunk


async def _gather(stream: AsyncIterator[bytes]) -> bytes:
    gathered = bytearray()
    async for piece in stream:
        gathered += piece
        if len(gathered) >= _GATHER:
            break
    return bytes(gathered)


class JsonBody(Generic[S]):
    """A dependency: the body, validated by a schema."""

    def __init__(self, schema: type[S]) -> None:
        self.schema = schema

    def __call__(self, data: Annotated[bytes, Depends(_received)]) -> S:
        """Parse the body."""
        check_depth(data)
        check_keys(data)
        try:
            return self.schema.model_validate_json(data, strict=True)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            where = ".".join(["body", *map(str, first["loc"])])
            raise MalformedError(f"The request is malformed at {where}: {first['msg'].lower()}.") from None
        except RecursionError:
            raise _too_deep() from None


def check_depth(data: bytes) -> None:
    """Refuse JSON that is nested too deeply, in linear time.

    Raises:
        UnavailableError: ``too_large``.
    """
    if data.count(b"[") + data.count(b"{") <= DEPTH:
        return
    brackets = _STRINGS.sub(b"", data).translate(_ONE_KIND, _NO_BRACKETS)
    for _ in range(DEPTH):  # each pass removes the innermost level
        if not brackets:
            return
        brackets = brackets.replace(b"[]", b"")
    if brackets:
        raise _too_deep()


def check_keys(data: bytes) -> None:
    """Refuse duplicate keys, which parsers resolve differently. What is no JSON passes.

    Raises:
        MalformedError: a key is given twice in one object.
    """
    try:
        _PAIRS.decode(str(data, "utf-8"))
    except (ValueError, RecursionError):  # the parser reports it
        return


def _keys(pairs: list[tuple[str, Any]]) -> None:
    seen: set[str] = set()
    for key, _ in pairs:
        if key in seen:
            raise MalformedError(
                f"The request is malformed: a JSON object gives the key {key[:64]!a} twice, once is expected."
            )
        seen.add(key)


# Keys only: converting long numbers is expensive.
_PAIRS: Final = json.JSONDecoder(object_pairs_hook=_keys, parse_int=len, parse_float=len, parse_constant=len)
_ONE_KIND: Final = bytes.maketrans(b"{}", b"[]")
_NO_BRACKETS: Final = bytes(sorted(set(range(256)) - set(b"[]{}")))


def _too_deep() -> UnavailableError:
    sentence = (
        f"The body is nested deeper than {DEPTH} levels, or its brackets don't match: send JSON with fewer levels."
    )
    return UnavailableError(sentence, code="too_large")
