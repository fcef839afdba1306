"""What a `resolve` consists of: the same answer given by more and more of the service, and the read alone in a loop."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from typing import Any, Final

from benchmarks import peer_server, running, step_app
from benchmarks.asked import asked
from benchmarks.rows import Figure, Peer, Row
from benchmarks.running import Conditions, Sample
from registry.catalogue.team.tokens import sign_in
from registry.services.local import LocalRegistry
from registry.storage.filesystem import FilesystemDriver
from tests.kit import servers_home
from tests.kit.servers_home import Home
from tests.kit.servers_service import create_token
from tests.kit.statements import statements

ADAPTER: Final = "bench/a000000@prod"
NAMES: Final = {
    "bare": "bare uvicorn answer",
    "connection": "our connection",
    "context": "bounds, headers, log and metrics",
    "thread": "a reading thread",
    "token": "the route and the rights of a token",
    "read": "the read",
}
"""The steps: each with all that is in the one before it."""
_MORE: Final = 5  # times the requests of other rows: a step is small beside the ticks of 10 ms
_PAUSE: Final = 0.0005  # seconds


def rows(run: Conditions, home: Home, place: str, scratch: Path, requests: int) -> Iterator[Row]:
    """The steps, each beside the one before it, and the read in a loop beside its statements; on a filled database."""
    token = create_token(place, "reader")
    if place.startswith("sqlite"):
        yield from _steps(run, home, place, token, scratch, requests)
    yield from _alone(run, place, token, scratch, requests)


def _steps(run: Conditions, home: Home, place: str, token: str, scratch: Path, requests: int) -> Iterator[Row]:
    store, turns = scratch / "store", scratch / "turns"
    with closing(LocalRegistry.of(place, FilesystemDriver(store), actor="bench")) as registry:
        body = registry.resolve(ADAPTER).model_dump_json().encode()
    headers = {"Authorization": f"Bearer {token}"}
    sides: dict[str, Callable[[Path], Sample]] = {}
    with ExitStack() as until:
        for name in NAMES:
            if name == "bare":
                command, port = peer_server.bare(body, scratch)
            else:
                port = servers_home.free_port()
                words = (name, str(scratch / "answer"), str(port), place, str(store))
                command = [sys.executable, "-m", "benchmarks.step_app", *words]
            server = until.enter_context(peer_server.running(home, command, port, "healthz"))
            target = step_app.RESOLVE.format(ADAPTER) if name == "read" else step_app.ADDRESS
            sides[name] = partial(_asked, server, target, headers, requests * _MORE)
        samples = running.alternate(sides, runs=run.runs(5), scratch=turns)
    figures = {name: Figure.of(found, "ms") for name, found in samples.items()}
    before: Peer | None = None
    for name, words_of in NAMES.items():
        row = f"resolve, step by step: {words_of}" if before is None else f"  with {words_of}"
        yield Row(row, figures[name], "ms CPU", before)
        before = Peer("the step before", figures[name])


def _asked(server: peer_server.PeerServer, target: str, headers: dict[str, str], requests: int, _out: Path) -> Sample:
    return asked(server.url, server.pid, "GET", lambda: target, headers, requests)


def _alone(run: Conditions, place: str, token: str, scratch: Path, requests: int) -> Iterator[Row]:
    """The rights of a token and the read, in a loop of this process, beside their statements by the driver; and with a
    pause before each, as a service has it between two requests of one client.
    """
    database = "SQLite" if place.startswith("sqlite") else "PostgreSQL"
    with ExitStack() as until:
        registry = until.enter_context(
            closing(LocalRegistry.of(place, FilesystemDriver(scratch / "store"), actor="bench"))
        )
        of_database = registry.deployment.database

        def read() -> None:
            registry.with_principal(sign_in(of_database, token)).resolve(ADAPTER)

        read()  # notes the use of the token
        with statements() as sent:
            read()
        connection = until.enter_context(closing(_driver(place)))

        def driver() -> None:
            for text, values in sent:
                cursor = connection.cursor()
                cursor.execute(text, values)
                cursor.fetchall()

        sides: dict[str, Callable[[Path], Sample]] = {
            "read": lambda _out: _looped(read, requests * _MORE),
            "driver": lambda _out: _looped(driver, requests * _MORE),
            "paused": lambda _out: _looped(read, requests, pause=_PAUSE),
        }
        samples = running.alternate(sides, runs=run.runs(5), scratch=scratch / "turns")
    alone = Figure.of(samples["read"], "ms")
    statements_alone = Peer(f"their {len(sent)} statements by the driver", Figure.of(samples["driver"], "ms"))
    yield Row(f"token and resolve in a loop, in process, {database}", alone, "ms CPU", statements_alone)
    paused = Figure.of(samples["paused"], "ms")
    yield Row("  with a pause of 0.5 ms before each", paused, "ms CPU", Peer("without", alone))


def _driver(place: str) -> Any:
    if place.startswith("sqlite"):
        import sqlite3

        return sqlite3.connect(place.removeprefix("sqlite:///"), isolation_level=None)
    import psycopg

    return psycopg.connect(place.replace("postgresql+psycopg", "postgresql"), autocommit=True)


def _looped(work: Callable[[], None], times: int, pause: float = 0.0) -> Sample:
    """What one of so many calls takes, without the pauses before them."""
    for _ in range(max(10, times // 10)):
        work()
    cpu = seconds = 0.0
    for _ in range(times):
        if pause:
            time.sleep(pause)
        began, before = time.perf_counter(), time.thread_time()
        work()
        cpu, seconds = cpu + time.thread_time() - before, seconds + time.perf_counter() - began
    return {"ms": 1000 * cpu / times, "cpu": cpu / times, "seconds": seconds / times}
