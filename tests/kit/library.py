"""Services for tests of the HTTP face: an app on a real server in a thread of its own."""

from __future__ import annotations

import contextlib
import json
import logging
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from registry.app import service_app
from registry.http.limits import Limits
from registry.http.middleware import JsonLines
from registry.http.server import Server, address_of, listen
from registry.schemas.protocol import API, PROTOCOL
from registry.services.local import LocalRegistry
from tests.kit import plain_base, write_chain
from tests.kit.shelf import Shelf


@contextlib.contextmanager
def running(app: FastAPI, limits: Limits | None = None, trusted_proxies: Sequence[str] = ()) -> Iterator[str]:
    """The address of an app that is served."""
    listener = listen("127.0.0.1", 0)
    server = Server(app, limits or Limits(), trusted_proxies)
    thread = threading.Thread(target=server.run, args=([listener],))
    thread.start()
    try:
        assert server.ready.wait(120)
        yield address_of(listener)
    finally:
        server.stop()
        thread.join()
        listener.close()


def assert_problem(answer: httpx.Response, status: int, code: str) -> dict[str, Any]:
    """Every error has this shape: problem+json that names its class, its code and the request, and headers that fit."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    told: dict[str, Any] = answer.json()
    assert set(told) == {"type", "title", "status", "detail", "code", "kind", "request", "retry_after"}
    assert (told["status"], told["code"]) == (status, code)
    assert told["type"] == f"urn:adapter-registry:error:{code}"
    assert told["detail"].strip()
    assert "Traceback" not in answer.text
    assert answer.headers["x-registry-protocol"] == str(PROTOCOL)
    assert told["request"] == answer.headers.get("x-request-id")
    retry = answer.headers.get("retry-after")
    assert told["retry_after"] == (None if retry is None else int(retry))
    assert (retry is not None) == (status in {429, 503})
    assert ("www-authenticate" in answer.headers) == (status == 401)
    return told


class Lines(logging.Handler):
    """Collects what would be written to stderr."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []
        self.setFormatter(JsonLines())

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(self.format(record))

    @property
    def all(self) -> list[Mapping[str, Any]]:
        return [json.loads(line) for line in self.lines]

    @property
    def requests(self) -> list[Mapping[str, Any]]:
        return [line for line in self.all if line["event"] == "request"]

    def of_request(self, request: str) -> Mapping[str, Any]:
        """The line of the request with this id: written after the answer is out."""
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            found = [line for line in self.requests if line["request"] == request]
            if found:
                assert len(found) == 1
                return found[0]
            time.sleep(0.01)
        raise AssertionError(f"no line for {request}")

    def of_requests(self, count: int) -> list[Mapping[str, Any]]:
        """The lines of so many requests: a line is written after the answer is out."""
        deadline = time.monotonic() + 120
        while len(self.requests) < count and time.monotonic() < deadline:
            time.sleep(0.01)
        return self.requests


@pytest.fixture
def log() -> Iterator[Lines]:
    handler = Lines()
    logger = logging.getLogger("registry")
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield handler
    logger.removeHandler(handler)
    logger.setLevel(before)


@dataclass(frozen=True)
class Library:
    """A registry with two branches and a second base, and a token of every kind."""

    shelf: Shelf
    secrets: Mapping[str, str]  # who -> secret

    @property
    def registry(self) -> LocalRegistry:
        return self.shelf.registry

    def headers(self, who: str) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.secrets[who]}"} if who in self.secrets else {}


SCOPE = "tiny/a"


def fill(root: Path, *, hidden: bool = True) -> Shelf:
    """``tiny/a`` (two revisions), ``tiny/a/x``; and ``tiny/b``, ``tiny/b/y``, ``other/c``, which a scope hides."""
    shelf = Shelf(root)
    base = shelf.base("tiny", plain_base)
    first, second, third, fourth = write_chain(root / "chain", base, 4, list(base.modules)[:2])
    add = shelf.registry.publish
    add(first, "tiny/a", message="first", metrics={"acc": 0.5}, tags=["prod"])
    add(third, "tiny/a", annotations={"data": "third"})
    add(second, "tiny/a/x", parent="tiny/a@1")
    if hidden:
        add(fourth, "tiny/b", tags=["prod"])
        add(first, "tiny/b/y", parent="tiny/b@1")
        shelf.base("other", plain_base)
        add(second, "other/c")
    return shelf


def with_tokens(shelf: Shelf) -> Library:
    secrets = {}
    for role in ("reader", "writer", "admin"):
        secrets[role] = shelf.registry.create_token(role, name=role).secret
        secrets[f"{role} of a"] = shelf.registry.create_token(role, name=f"{role} of a", scopes=[SCOPE]).secret
    revoked = shelf.registry.create_token("admin", name="revoked")
    shelf.registry.revoke_token(revoked.token.id)
    return Library(shelf, secrets | {"revoked": revoked.secret})


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Library]:
    shelf = fill(tmp_path_factory.mktemp("library"))
    yield with_tokens(shelf)
    shelf.close()


@pytest.fixture(scope="module")
def service(library: Library) -> Iterator[str]:
    """The address of a service of the library."""
    with running(service_app(library.registry)) as address:
        yield address


@pytest.fixture(scope="module")
def admin(service: str, library: Library) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=service + API, headers=library.headers("admin"), timeout=120) as client:
        yield client
