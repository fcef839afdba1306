"""The description of the API is complete and true."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from pydantic import BaseModel

from registry import schemas
from registry.api import routes as routes_of_the_api
from registry.api.openapi import EXAMPLES, body_schema, describe, json_routes
from registry.app import service_app
from registry.schemas import (
    artifacts,
    difference,
    followed,
    jobs,
    labels,
    parents,
    protocol,
    publishing,
    receipt,
    requests,
    running,
    statistics,
    tags,
    transfer,
    usage,
)
from tests.kit.library import Library

MODULES = (
    *(schemas, artifacts, transfer, difference, followed, jobs, labels, parents, protocol, publishing, receipt),
    *(requests, running, statistics, tags, transfer, usage, routes_of_the_api),
)
OPEN = {"/healthz", "/readyz", "/metrics"}


@pytest.fixture(scope="module")
def document(library: Library) -> dict[str, Any]:
    return describe(service_app(library.registry))


def operations(document: dict[str, Any]) -> list[tuple[str, str, dict[str, Any]]]:
    return [(path, method, one) for path, methods in document["paths"].items() for method, one in methods.items()]


@pytest.mark.parametrize("name", sorted(EXAMPLES))
def test_every_example_is_one_of_its_schema(name: str) -> None:
    kind: type[BaseModel] = next(vars(module)[name] for module in MODULES if name in vars(module))
    kind.model_validate_json(json.dumps(EXAMPLES[name]), strict=True)


def test_every_route_is_described(document: dict[str, Any], library: Library) -> None:
    described = {(path, method.upper()) for path, method, _ in operations(document)}
    routes = {(route.path_format, method) for route, method in json_routes(service_app(library.registry))}
    assert described == routes


def test_every_operation_has_a_name_of_its_own(document: dict[str, Any]) -> None:
    names = [one["operationId"] for _, _, one in operations(document)]
    assert len(names) == len(set(names))
    assert all(re.fullmatch(r"[a-z_]+", name) for name in names)


def test_every_operation_says_what_it_does_and_answers(document: dict[str, Any]) -> None:
    for path, method, one in operations(document):
        assert one["description"], path
        assert one["tags"], path
        assert ("security" in one) == (path not in OPEN)
        for status, response in one["responses"].items():
            assert response["description"]
            if int(status) >= 400:
                assert set(response["content"]) == {"application/problem+json"}, (path, status)
            for media_type, content in response.get("content", {}).items():
                if media_type.endswith("json") and not path.endswith("openapi.json"):
                    assert "example" in content or content["schema"] == {}, (path, method, status)
        if path not in OPEN:
            assert {"401", "403", "413", "422", "500", "503"} <= set(one["responses"])


def test_every_body_is_described_with_an_example(document: dict[str, Any], library: Library) -> None:
    for route, method in json_routes(service_app(library.registry)):
        schema = body_schema(route)
        described = document["paths"][route.path_format][method.lower()].get("requestBody")
        if schema is None:
            assert described is None or "application/octet-stream" in described["content"]
            continue
        content = described["content"]["application/json"]
        assert content["schema"]["$ref"].endswith(f"/{schema.__name__}")
        schema.model_validate_json(json.dumps(content["example"]), strict=True)


def test_every_reference_in_the_document_leads_somewhere(document: dict[str, Any]) -> None:
    text = json.dumps(document)
    for name in set(re.findall(r'"#/components/schemas/([^"]+)"', text)):
        assert name in document["components"]["schemas"], name
    assert "HTTPValidationError" not in text
