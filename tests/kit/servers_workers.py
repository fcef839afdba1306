"""The workers of a running service, each reached through a connection of its own."""

from __future__ import annotations

import contextlib
import http.client
import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode, urlsplit

from registry.schemas.protocol import API
from tests.kit.servers_service import ServiceProcess

_PATIENCE = 60.0


@dataclass(frozen=True)
class Worker:
    """One worker, by a connection that it has accepted."""

    number: int
    wire: http.client.HTTPConnection
    headers: Mapping[str, str]

    def ask(self, method: str, route: str, body: object = None, **params: str) -> tuple[int, Any]:
        """Status and document of an answer of the API."""
        words = f"?{urlencode(params)}" if params else ""
        sent = None if body is None else json.dumps(body)
        kind = {} if body is None else {"Content-Type": "application/json"}
        self.wire.request(method, f"{API}{route}{words}", body=sent, headers={**self.headers, **kind})
        answer = self.wire.getresponse()
        text = answer.read()
        return answer.status, json.loads(text) if text else None

    def metrics(self) -> str:
        """What it says when it is scraped."""
        self.wire.request("GET", "/metrics")
        return self.wire.getresponse().read().decode()


def lines(service: ServiceProcess, **wanted: object) -> list[Mapping[str, Any]]:
    """Lines of the log with these values."""
    found = [json.loads(line) for line in service.log if line.startswith("{") and line.endswith("}")]
    return [line for line in found if wanted.items() <= line.items()]


def process_of(service: ServiceProcess, number: int) -> int:
    """The process that is the worker of this number now."""
    process: int = lines(service, event="a worker starts", worker=number)[-1]["pid"]
    return process


@contextlib.contextmanager
def each_worker(service: ServiceProcess, count: int, secret: str | None = None) -> Iterator[list[Worker]]:
    """A connection to each worker, in the order of their numbers: as many are opened as that takes."""
    headers = {} if secret is None else {"Authorization": f"Bearer {secret}"}
    address, deadline = urlsplit(service.url), time.monotonic() + _PATIENCE
    found: dict[int, Worker] = {}
    with contextlib.ExitStack() as until:
        while len(found) < count:
            assert time.monotonic() < deadline, f"only the workers {sorted(found)} answer"
            wire = http.client.HTTPConnection(address.hostname or "", address.port, timeout=_PATIENCE)
            until.callback(wire.close)
            wire.request("GET", "/healthz")
            answer = wire.getresponse()
            answer.read()
            number = answered_by(service, answer.headers["X-Request-Id"])
            found.setdefault(number, Worker(number, wire, headers))
        yield [found[number] for number in sorted(found)]


def answered_by(service: ServiceProcess, request: str) -> int:
    """The line of a request is written after its answer is out."""
    deadline = time.monotonic() + _PATIENCE
    while not (found := lines(service, event="request", request=request)):
        assert time.monotonic() < deadline, f"no line of {request}"
        time.sleep(0.01)
    number: int = found[0]["worker"]
    return number
