"""What a page is asked for and what a form sends, read by a schema: unknown fields are refused, empty ones left out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypeVar
from urllib.parse import parse_qsl

from pydantic import ValidationError

from registry.http.request.errors import MalformedError
from registry.schemas import Schema
from registry.schemas.texts import is_plain

S = TypeVar("S", bound=Schema)


def read_fields(schema: type[S], fields: Iterable[tuple[str, str]]) -> S:
    """The request that some fields of texts make.

    Raises:
        MalformedError: one is unknown, given twice, or not what the schema expects.
    """
    given: dict[str, str] = {}
    for name, value in fields:
        if name in given:
            raise MalformedError(f"The field {name[:64]!r} is given more than once, once is expected.")
        if not is_plain(value):
            raise MalformedError(f"The field {name[:64]!r} contains an invalid character, plain text is expected.")
        if value.strip():
            given[name] = value
    return request_of(schema, given)


def request_of(schema: type[S], given: Mapping[str, object]) -> S:
    """A request with these values; raises `MalformedError` where one is not what the schema expects."""
    try:
        return schema.model_validate(given)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise MalformedError(f"The field {where} is not as expected: {str(first['msg']).lower()}.") from None


def form_fields(body: bytes) -> list[tuple[str, str]]:
    """The fields of a form as browsers send it; raises `MalformedError`."""
    try:
        return parse_qsl(body.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=200)
    except ValueError:
        raise MalformedError("The form can't be read: fields in the encoding of HTML forms are expected.") from None
