"""Requests of one client on one connection, and the CPU that they take of a server."""

from __future__ import annotations

import http.client
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from urllib.parse import urlsplit

from benchmarks.peer_server import cpu_seconds
from benchmarks.running import Sample


def asked(
    url: str, pid: int, method: str, target: Callable[[], str], headers: Mapping[str, str], requests: int
) -> Sample:
    """Milliseconds of the server's CPU and of time that one of so many requests takes, after some that do not count."""
    address = urlsplit(url)
    with closing(http.client.HTTPConnection(address.hostname or "", address.port, timeout=60)) as wire:

        def once() -> int:
            wire.request(method, target(), headers=dict(headers))
            answer = wire.getresponse()
            if answer.status not in {200, 307}:  # a HEAD is led to the commit
                raise SystemExit(f"{url} answered {answer.status}: {answer.read()!r}")
            return len(answer.read())

        for _ in range(max(1, requests // 10)):
            once()
        before, began = cpu_seconds(pid), time.perf_counter()
        size = 0
        for _ in range(requests):
            size = once()
        spent, seconds = cpu_seconds(pid) - before, time.perf_counter() - began
    return {"ms": 1000 * spent / requests, "seconds": seconds / requests, "cpu": spent / requests, "size": size}
