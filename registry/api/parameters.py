"""Fields of a request as parameters of a route: in the address, in the query, or as a body of JSON."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict
from inspect import Parameter, Signature
from typing import Annotated, Any, Final, TypeVar, get_type_hints

from fastapi import Path, Query

from registry.http.payloads import JsonBody
from registry.schemas import Schema
from registry.schemas.form import Param
from registry.schemas.protocol import MOST

S = TypeVar("S", bound=Schema)
LIMIT: Final = 100
_OF_COMMANDS: Final = {"help", "metavar", "option", "repeated"}

Id = Annotated[str, Path(min_length=1, max_length=64, pattern="^[A-Za-z0-9_-]+$")]
Cursor = Annotated[
    str | None, Query(max_length=512, description="`next` of the previous page; without it, the first page.")
]
Limit = Annotated[int, Query(ge=1, le=MOST, description="The maximum number of items on a page.", examples=[LIMIT])]


def with_signature(function: Callable[..., Any], *parameters: Parameter) -> Callable[..., Any]:
    """The function, which FastAPI reads as one with these parameters."""
    function.__signature__ = Signature(list(parameters))  # type: ignore[attr-defined]
    return function


def named(name: str, annotation: object, default: object = Parameter.empty) -> Parameter:
    """A parameter of a route."""
    return Parameter(name, Parameter.KEYWORD_ONLY, annotation=annotation, default=default)


def from_query(schema: type[S], address: str = "") -> Callable[..., S]:
    """A dependency: the request whose fields come in the query, or if ``address`` has ``{field}``, in it."""

    def read(**given: Any) -> S:
        return schema(**given)

    return with_signature(read, *_parameters(schema, address))


def from_body(schema: type[S]) -> Callable[..., S]:
    """A dependency: the request that comes as a body of JSON."""
    return JsonBody(schema)


def _parameters(schema: type[Schema], address: str) -> Iterator[Parameter]:
    hints = get_type_hints(schema, include_extras=True)
    for name, field in schema.model_fields.items():
        bounds = next((one for one in field.metadata if isinstance(one, Param)), Param())
        given = {key: value for key, value in asdict(bounds).items() if value is not None and key not in _OF_COMMANDS}
        if bounds.examples is not None:
            given["examples"] = list(bounds.examples)
        kind = Path if f"{{{name}}}" in address else Query
        default = Parameter.empty if field.is_required() else field.default
        yield named(name, Annotated[_bare(hints[name]), kind(**given)], default)


def _bare(hint: Any) -> Any:
    """The type without what is noted beside it."""
    return hint.__origin__ if hasattr(hint, "__metadata__") else hint
