"""JSON bodies: read whole within the bounds, then checked and parsed in a thread, by the schema of the route."""

from __future__ import annotations

import re
from typing import Annotated, Final, Generic, TypeVar

from fastapi import Depends, Request
from pydantic import ValidationError

from registry.errors import UnavailableError
from registry.http.problems import MalformedError
from registry.schemas import Schema

S = TypeVar("S", bound=Schema)
JSON: Final = "application/json"
DEPTH: Final = 64
# Possessive, and an open string ends with the text: no way back, so the time grows with the length alone.
_STRINGS: Final = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?', re.DOTALL)


async def _received(request: Request) -> bytes:
    kind = request.headers.get("content-type", "")
    if kind.partition(";")[0].strip().lower() != JSON:
        # Also keeps web pages of other hosts out: a browser asks before it sends this type, and nobody says yes.
        raise MalformedError(f"The body has the type {kind or 'none'!r}, {JSON} is expected.")
    return await request.body()


class JsonBody(Generic[S]):
    """A dependency: the body as a schema."""

    def __init__(self, schema: type[S]) -> None:
        self.schema = schema

    def __call__(self, data: Annotated[bytes, Depends(_received)]) -> S:
        """Parse the body."""
        check_depth(data)
        try:
            return self.schema.model_validate_json(data, strict=True)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            where = ".".join(["body", *map(str, first["loc"])])
            raise MalformedError(f"The request is malformed at {where}: {first['msg'].lower()}.") from None
        except RecursionError:
            raise _too_deep() from None


def check_depth(data: bytes) -> None:
    """Refuse JSON that is nested too deeply, in time that grows with its length alone.

    Raises:
        UnavailableError: ``too_large``.
    """
    if data.count(b"[") + data.count(b"{") <= DEPTH:
        return
    brackets = _STRINGS.sub(b"", data).translate(_ONE_KIND, _NO_BRACKETS)
    for _ in range(DEPTH):  # each turn takes the innermost level away
        if not brackets:
            return
        brackets = brackets.replace(b"[]", b"")
    if brackets:
        raise _too_deep()


_ONE_KIND: Final = bytes.maketrans(b"{}", b"[]")
_NO_BRACKETS: Final = bytes(sorted(set(range(256)) - set(b"[]{}")))


def _too_deep() -> UnavailableError:
    sentence = f"The body is nested deeper than {DEPTH} levels, or its brackets don't match: send less deep JSON."
    return UnavailableError(sentence, code="too_large")
