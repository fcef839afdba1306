"""Records the examples of the API: what a demo registry was asked, and answered, in the examples of the Python API.

What these don't ask for over HTTP is asked for here.

``python -m tests.api.recorded`` writes `registry/api/examples.json`.
"""

from __future__ import annotations

import doctest
import json
import os
import re
import shutil
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final
from unittest.mock import patch

import httpx

import registry
from registry.api import openapi
from registry.api.routes import About, Alive, Ready
from registry.app import service_app
from registry.operations.operation import Listing, Operation
from registry.operations.table import RETABLE
from registry.schemas import Identity, Schema
from registry.schemas.parents import HashesFound
from registry.schemas.protocol import API, Problem
from registry.schemas.requests import RetableRequest
from registry.schemas.transfer import ArtifactPlan
from registry.services.deployment import Deployment
from registry.services.jobs import submit
from registry.services.local import LocalRegistry
from tests.kit import serving
from tests.operations.documented import with_examples
from tests.operations.workshop import REGISTRY, furnish
from tests.root import ROOT

FILE: Final = ROOT / "registry" / "api" / "examples.json"
_AT: Final = "2026-11-25T09:30:00Z"
_MOST: Final = 2  # items of a list
_OF_HERE: Final = {
    "host": "registry-0", "process": 17, "processor": "AMD EPYC 7B13",
    "secret": "SECRET", "numerics": "0123456789abcdef", "torch": "2.13.0",
}  # fmt: skip
_ASKED: Final[dict[type[Schema], str]] = {
    About: API,
    Alive: "/healthz",
    Ready: "/readyz",
    Identity: f"{API}/whoami",
    HashesFound: f"{API}/hashes?hashes=1a2b3c4d5e6f",
    ArtifactPlan: f"{API}/artifacts?ref=llama/support",
    Problem: f"{API}/log?path=llama/suport",
}
_LONG: Final = re.compile(r"[A-Za-z0-9+/=]{200,}")  # bytes as a text


class Recorder:
    """An ASGI middleware that keeps the bodies of JSON, by the names of their schemas."""

    def __init__(self, app: Any, found: dict[str, Any], document: Any) -> None:
        self._app, self._found, self._document = app, found, document

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        asked, told, status = bytearray(), bytearray(), [0]

        async def listening() -> Any:
            message = await receive()
            asked.extend(message.get("body", b""))
            return message

        async def telling(message: Any) -> None:
            if message["type"] == "http.response.start":
                status[0] = message["status"]
            told.extend(message.get("body", b""))
            await send(message)

        await self._app(scope, listening, telling)
        if 200 <= status[0] < 300:
            for path, methods in self._document()["paths"].items():
                if re.fullmatch(re.sub(r"\\{[^}]*\\}", "[^/]+", re.escape(path)), scope["path"]):
                    self._keep(methods.get(scope["method"].lower(), {}), status[0], bytes(asked), bytes(told))

    def _keep(self, described: dict[str, Any], status: int, asked: bytes, told: bytes) -> None:
        response = described.get("responses", {}).get(str(status), {})
        for body, text in ((described.get("requestBody", {}), asked), (response, told)):
            schema = body.get("content", {}).get("application/json", {}).get("schema")
            if schema and text:
                for name, value in _named(schema, json.loads(text)):
                    self._found.setdefault(name, []).append(value)


def _named(schema: dict[str, Any], value: Any) -> Iterator[tuple[str, Any]]:
    if "anyOf" in schema:
        schema = schema["anyOf"][0]
    if schema.get("type") == "array":
        for one in value:
            yield from _named(schema["items"], one)
        return
    name = schema.get("$ref", "").rpartition("/")[2]
    if name.startswith("Page_"):
        for one in value["items"]:
            yield name.removeprefix("Page_").removesuffix("_"), one
    elif name and value is not None:
        yield name, value


@contextmanager
def recording(found: dict[str, Any]) -> Iterator[None]:
    """Services of this process keep what they are asked and answer."""

    def made(*given: Any, **more: Any) -> Any:
        app = service_app(*given, **more)
        documents: list[Any] = []

        def document() -> Any:
            if not documents:
                documents.append(openapi.describe(app))
            return documents[0]

        app.add_middleware(Recorder, found=found, document=document)
        return app

    def keep(answer: Any) -> None:
        if isinstance(answer, Schema):
            found.setdefault(type(answer).__name__, []).append(answer.model_dump(mode="json"))

    def do(deployment: Deployment, operation: Operation[Any, Any], request: Any, progress: Any) -> Any:
        answer = done(deployment, operation, request, progress)
        if operation.address:
            for one in answer if isinstance(answer, tuple) else (answer,):
                keep(one)
        return answer

    def page(deployment: Deployment, listing: Listing[Any, Any], *given: Any) -> Any:
        part = listed(deployment, listing, *given)
        for one in part.items:
            keep(one)
        return part

    done, listed = Deployment.do, Deployment.page
    with (
        patch.object(openapi, "EXAMPLES", defaultdict(dict)),
        patch.object(serving, "service_app", made),
        patch.object(Deployment, "do", do),
        patch.object(Deployment, "page", page),
    ):
        yield


def recorded() -> dict[str, Any]:
    """An example of each schema that a demo registry was asked for, or answered with."""
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as made, recording(found):
        furnished, here = Path(made) / "furnished", Path.cwd()
        furnish(furnished)
        for name, text in with_examples().items():
            folder = Path(made) / "workshop"
            shutil.copytree(furnished, folder)
            os.chdir(folder)
            try:
                local = LocalRegistry.open(folder / REGISTRY, cache_folder=folder / "cache")
                with serving.ServedRegistry(local, folder / "cache") as team:
                    names = {"team": team, "registry": registry}
                    example = doctest.DocTestParser().get_doctest(text, names, name, None, 0)
                    doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(example)
            finally:
                os.chdir(here)
                shutil.rmtree(folder)
        for answers in (of_service, of_jobs):
            with LocalRegistry.open(furnished / REGISTRY, cache_folder=furnished / "cache") as team:
                for one in answers(team, furnished):
                    found.setdefault(type(one).__name__, []).append(one.model_dump(mode="json"))
    return {name: shortened(max(values, key=richness)) for name, values in sorted(found.items())}


def of_service(local: LocalRegistry, furnished: Path) -> Iterator[Schema]:
    """What only a service answers, and what a client does not ask for in the examples."""
    with serving.ServedRegistry(local, furnished / "cache") as team:
        team.tag("llama/support@1", "prod")
        team.tag("llama/support", "prod", undo=True)
        token = team.create_token("writer", name="ci of support", scopes=["llama/support"]).secret
        for schema, address in _ASKED.items():
            answer = httpx.get(team.url + address, headers={"Authorization": f"Bearer {token}"}, timeout=120)
            yield schema.model_validate_json(answer.text)


def of_jobs(team: LocalRegistry, furnished: Path) -> Iterator[Schema]:
    """What jobs answer, of which a service tells only the job at first; and what is left of a revision."""
    yield submit(team.deployment, RETABLE, RetableRequest(base="llama"))
    yield from team.jobs()
    yield team.add_base("tiny", furnished / "Llama-3.2-1B")
    yield team.retable("llama")
    yield team.dense_stats("llama/support")
    yield team.fsck(deep=True)
    yield team.gc(dry_run=True)
    team.delete("llama/support@1")
    yield team.log("llama/support", deleted=True).deleted[0]


def richness(value: Any) -> tuple[int, int]:
    """The one that says most is kept: the fields that say something, then the shorter one."""
    if isinstance(value, dict):
        return sum(one not in (None, [], {}, "") for one in value.values()), -len(json.dumps(value))
    return 0, 0


def shortened(value: Any) -> Any:
    """The same with short lists, and without what is of one machine or moment."""
    if isinstance(value, dict):
        return {name: _OF_HERE.get(name, shortened(one)) for name, one in value.items()}
    if isinstance(value, list):
        return [shortened(one) for one in value[:_MOST]]
    if isinstance(value, str):
        value = re.sub(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|\+00:00)", _AT, value)
        value = re.sub(r"http://127.0.0.1:\d+", "https://registry.team", value)
        value = re.sub(r"/\S*/workshop/", "/home/ada/", value)
        return value[:64] if _LONG.fullmatch(value) else value
    return value


def shape(value: Any) -> Any:
    """Which fields there are; what they hold may be another each time."""
    if isinstance(value, dict):
        return {name: shape(one) for name, one in value.items()}
    return [shape(one) for one in value[:1]] if isinstance(value, list) else None


def main() -> None:
    """Write the file."""
    FILE.write_text(json.dumps(recorded(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
