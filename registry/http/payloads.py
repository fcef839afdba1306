"""What a request brings: parameters as signatures of routes say, JSON within the limits, and the cursors of lists."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from inspect import Signature, signature
from typing import Annotated, Any, Final, Generic, TypeVar, get_args, get_origin

import anyio.from_thread
from fastapi import Depends, Request, params
from fastapi.routing import APIRoute
from pydantic import TypeAdapter, ValidationError

from registry.errors import UnavailableError
from registry.http.errors import MalformedError
from registry.operations.operation import Listing
from registry.schemas import Schema
from registry.schemas.protocol import key_of


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


@dataclass(frozen=True)
class Parameter:
    """A parameter of one value, in the address or in the query."""

    name: str
    alias: str
    in_address: bool
    kind: TypeAdapter[Any]
    default: Any  # `Signature.empty`: it has to be given

    def value(self, request: Request) -> tuple[dict[str, Any], list[Any]]:
        """The argument that it becomes, or why it is none, in the form of `RequestValidationError`."""
        given = request.path_params if self.in_address else request.query_params
        text, place = given.get(self.alias), ("path" if self.in_address else "query", self.alias)
        if text is None and self.default is not Signature.empty:
            return {self.name: self.default}, []
        if text is None:
            return {}, [{"type": "missing", "loc": place, "msg": "Field required", "input": None}]
        try:
            return {self.name: self.kind.validate_python(text)}, []
        except ValidationError as error:
            return {}, [{**one, "loc": (*place, *one["loc"])} for one in error.errors(include_url=False)]


@dataclass(frozen=True)
class Call:
    """How a function of a route is called, as its signature says by ``Depends``, ``Path``, ``Query``, ``Request``."""

    function: Callable[..., Any]
    needs: tuple[tuple[str, Call], ...]
    parameters: tuple[Parameter, ...]
    request: str | None  # the argument that the request itself is

    @cached_property
    def query_names(self) -> frozenset[str]:
        """The query parameters that it accepts."""
        own = frozenset(one.alias for one in self.parameters if not one.in_address)
        return own.union(*(need.query_names for _, need in self.needs))

    def values(self, request: Request, known: dict[Any, Any]) -> tuple[dict[str, Any], list[Any]]:
        """What it is called with, and the parameters that are no values; ``known`` is what was called already."""
        found: dict[str, Any] = {}
        errors: list[Any] = []
        for name, need in self.needs:
            if need.function not in known:
                values, wrong = need.values(request, known)
                errors += wrong
                if wrong:
                    continue
                known[need.function] = need.function(**values)
            found[name] = known[need.function]
        for parameter in self.parameters:
            values, wrong = parameter.value(request)
            found |= values
            errors += wrong
        if self.request is not None:
            found[self.request] = request
        return found, errors


def call_of(route: APIRoute) -> Call:
    """How the endpoint of a route is called.

    Raises:
        AssertionError: the route, or a function that it needs, says something that would not be done here.
    """
    if route.dependencies:
        raise AssertionError(f"{route.path_format} has dependencies beside its signature, which reads would not call")
    return _call(route.endpoint, frozenset(route.param_convertors))


@lru_cache(maxsize=4096)
def _call(function: Callable[..., Any], in_address: frozenset[str]) -> Call:
    needs, parameters, request = [], [], None
    for name, one in signature(function, eval_str=True).parameters.items():
        kind, *notes = get_args(one.annotation) if get_origin(one.annotation) is Annotated else (one.annotation,)
        needed = next((note for note in notes if isinstance(note, params.Depends)), None)
        told = next((note for note in notes if isinstance(note, params.Param)), None)
        if any(isinstance(note, _NOT_READ) for note in notes) or isinstance(one.default, _ANY_NOTE):
            raise AssertionError(
                f"{name} of {function}: in its annotation, and in the address or the query, is expected"
            )
        if needed is not None:
            if needed.dependency is None:
                raise AssertionError(f"{name} of {function} does not say on what it depends")
            needs.append((name, _call(needed.dependency, in_address)))
        elif kind is Request:
            request = name
        else:
            alias = name if told is None or told.alias is None else told.alias
            parameters.append(Parameter(name, alias, name in in_address, TypeAdapter(one.annotation), one.default))
    parameters.sort(key=lambda found: not found.in_address)
    return Call(function, tuple(needs), tuple(parameters), request)


_NOT_READ: Final = (params.Header, params.Cookie, params.Body)
_ANY_NOTE: Final = (params.Depends, params.Param, params.Body)


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
