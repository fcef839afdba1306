"""The description of the API: what the routes declare, and what all of them share is added here once.

Its examples are requests to a demo registry and its answers: ``python -m tests.api.recorded`` writes examples.json.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib.resources import files
from typing import Any, Final, get_args

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute
from pydantic.json_schema import models_json_schema

from registry.http.errors import MEDIA_TYPE
from registry.http.payloads import JSON, JsonBody, call_of
from registry.operations.operation import Listing
from registry.operations.table import OPERATIONS
from registry.schemas import Schema
from registry.schemas.protocol import API, Problem
from registry.version import __version__

ALWAYS: Final = (401, 403, 413, 422, 500, 503)  # any route that needs a principal may answer these
_REF: Final = "#/components/schemas/{model}"
_MEANINGS: Final = {
    304: "The client already has it.",
    307: "The bytes are temporarily at another address.",
    400: "The request is malformed or contradicts itself.",
    401: "A token is needed, or the given one is not valid.",
    403: "The token does not allow this.",
    404: "Not found, or not visible to the token.",
    408: "The body was sent too slowly.",
    409: "The request conflicts with the state of the registry.",
    410: "The revision, or one that it contains, was retracted.",
    413: "The request is larger than the service accepts.",
    416: "The range lies outside the file.",
    422: "The request does not match the schema of the route, or what it describes can't be accepted.",
    500: "A bug, or stored bytes are damaged.",
    503: "The service can't answer now; retry after the time in Retry-After.",
}


def _own_examples() -> Iterator[tuple[str, Any]]:
    """Of schemas that bring theirs, as pydantic has it."""
    for operation in OPERATIONS:
        answer = operation.item if isinstance(operation, Listing) else operation.answer
        for schema in (operation.request, answer, *get_args(answer)):
            extra = getattr(schema, "model_config", {}).get("json_schema_extra")
            if isinstance(extra, dict):
                yield schema.__name__, extra["example"]


EXAMPLES: Final[dict[str, Any]] = {
    **json.loads((files(__package__) / "examples.json").read_text(encoding="utf-8")),
    **dict(_own_examples()),
}


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """What a route declares: the problems that it may answer with, besides those that every route may."""
    content = {MEDIA_TYPE: {"schema": {"$ref": _REF.format(model=Problem.__name__)}}}
    return {
        status: {"description": _MEANINGS[status]} | ({"content": content} if status >= 400 else {})
        for status in sorted({*ALWAYS, *statuses})
    }


def octets(description: str) -> dict[str, Any]:
    """What a route declares that answers with bytes."""
    schema = {"type": "string", "format": "binary"}
    return {"description": description, "content": {"application/octet-stream": {"schema": schema}}}


def json_routes(app: FastAPI) -> Iterator[tuple[APIRoute, str]]:
    """Every route of the API with each of its methods: other faces of the app leave theirs out of the description."""
    for route in app.state.routes:
        if not route.include_in_schema:
            continue
        for method in sorted(route.methods or ()):
            yield route, method


def body_schema(route: APIRoute) -> type[Schema] | None:
    """The schema of a route's JSON body."""
    for _, need in call_of(route).needs:
        if isinstance(need.function, JsonBody):
            found: type[Schema] = need.function.schema
            return found
    return None


def describe(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI document of an app."""
    document = get_openapi(
        title="Adapter registry",
        version=__version__,
        summary="Keeps LoRA adapters as a tree, and serves the weights that a path of it stands for.",
        description=_ABOUT,
        routes=app.routes,
    )
    bodies = {}
    for route, method in json_routes(app):
        schema = body_schema(route)
        operation = document["paths"].get(route.path_format, {}).get(method.lower())
        if operation is not None and schema is not None:
            bodies[schema.__name__] = schema
            operation["requestBody"] = _request_body(schema)
    _add_components(document, list(bodies.values()))
    for operations in document["paths"].values():
        for operation in operations.values():
            _add_examples(operation)
            if operation["operationId"] not in _OPEN:
                operation["security"] = [{"token": []}]
    return document


def _request_body(schema: type[Schema]) -> dict[str, Any]:
    reference = {"$ref": _REF.format(model=schema.__name__)}
    content = {JSON: {"schema": reference, "example": EXAMPLES[schema.__name__]}}
    return {"required": True, "content": content}


def _add_components(document: dict[str, Any], bodies: list[type[Schema]]) -> None:
    components = document.setdefault("components", {})
    schemas = components.setdefault("schemas", {})
    wanted = [*((one, "validation") for one in bodies), (Problem, "serialization")]
    _, made = models_json_schema(wanted, ref_template=_REF)  # type: ignore[arg-type]
    for name, schema in made["$defs"].items():
        schemas.setdefault(name, schema)
    for unused in ("HTTPValidationError", "ValidationError"):
        schemas.pop(unused, None)
    scheme = {"type": "http", "scheme": "bearer", "description": "A token of `registry token create`."}
    components["securitySchemes"] = {"token": scheme}


def _add_examples(operation: dict[str, Any]) -> None:
    for status, response in operation["responses"].items():
        for media_type, content in response.get("content", {}).items():
            if media_type == MEDIA_TYPE:
                content["example"] = {**EXAMPLES[Problem.__name__], "status": int(status)}
            elif media_type == JSON:
                example = _example(content.get("schema", {}))
                if example is not None:
                    content["example"] = example


def _example(schema: dict[str, Any]) -> Any:
    if schema.get("type") == "array":
        return [_example(schema["items"])]
    if schema.get("type") == "string":
        return "llama/support@3"
    if "anyOf" in schema:
        return _example(schema["anyOf"][0])
    name = schema.get("$ref", "").rpartition("/")[2]
    if name.startswith("Page_"):
        return {"items": [EXAMPLES[name.removeprefix("Page_").removesuffix("_")]], "next": None}
    return EXAMPLES.get(name)


_OPEN: Final = frozenset({"healthz", "readyz", "metrics"})
_ABOUT: Final = f"""\
Routes are under `{API}`. Send a token as `Authorization: Bearer SECRET`.

Every response has `X-Registry-Version`, `X-Registry-Protocol` and `X-Request-Id`. Errors are
`application/problem+json` with a stable `code`. Lists are pages: `next` is the `cursor` of the next page.
What a token may not see is reported as not found.
"""
