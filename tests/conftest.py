"""Shared by all tests: target tables and schemas made once, and real servers started once a run.

Making the table of a base model imports transformers in a child process, which takes seconds; many tests add the same
small models, and the child is forked from a process that has transformers loaded. Making the schema of an embedded
registry runs all migrations; each process does it once and then repeats the statements that the outcome is written in.
The tests of the maker and of the migrations use the real ones: `test_architecture`, and all of `tests/catalogue`.

A server that does not start fails the test, with what the server wrote; no test is skipped for it.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any

import httpx
import hypothesis
import pytest
import uvicorn.server
from botocore.loaders import JSONFileLoader
from fastapi import routing
from sqlalchemy import create_engine

from registry.catalogue.database import migrations, postgresql, prepared, sqlite
from registry.catalogue.database.database import Database
from registry.digest import document_digest
from registry.services.bases import add
from registry.tensors.table import architecture
from registry.tensors.table.architecture import make_table
from registry.tensors.table.targets import TargetTable
from registry.transfer import file_times
from tests.kit import delays, order
from tests.kit import made_once as stand_ins
from tests.kit.servers import Postgres, S3Place, S3Server
from tests.kit.servers_home import Home
from tests.kit.servers_service import ServiceProcess
from tests.kit.servers_shared import SharedServers, SharedService

StartService = Callable[..., ServiceProcess]


# Examples are drawn on machines of any speed: no test of them fails because a busy one was slow to make them.
hypothesis.settings.register_profile("tests", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("tests")


_file_before: list[Path] = []


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Tests of a file begin with gradients on: whatever left them off before, which a training would fail for.

    Within a file they stay as they are: a fixture of the file may hold them off for all of its tests.
    """
    torch = sys.modules.get("torch")
    if torch is not None and _file_before != [item.path]:
        torch.set_grad_enabled(True)
    _file_before[:] = [item.path]


def pytest_addoption(parser: pytest.Parser) -> None:
    order.add_option(parser)
    about = "send, close, begin and note some milliseconds later, now and then (tests.kit.delays)"
    parser.addoption("--delays", action="store_true", help=about)
    parser.addoption("--busy", type=int, default=0, metavar="N", help="run beside N processes that only burn time")


def pytest_configure(config: pytest.Config) -> None:
    order.choose_seed(config)
    patience: Any = httpx._config.DEFAULT_TIMEOUT_CONFIG  # of calls that name none: 5 s are short on a busy machine
    patience.connect = patience.read = patience.write = patience.pool = 120.0
    if config.option.delays:
        delays.delay_everything()
    if config.option.busy and not hasattr(config, "workerinput"):
        config.add_cleanup(partial(delays.end, delays.burn(config.option.busy)))


def pytest_itemcollected(item: pytest.Item) -> None:
    """Mark variants as slow or long, before any are selected."""
    parts = item.name.partition("[")[2].removesuffix("]").split("-")
    for kind in ("long", "slow"):
        if any(set(marker.args) & set(parts) for marker in item.iter_markers(f"{kind}_on")):
            item.add_marker(kind)
    for marker in item.iter_markers("long_but"):
        if all(Counter(some.split("-")) - Counter(parts) for some in marker.args):
            item.add_marker("long")
    if item.get_closest_marker("long") is not None:
        item.add_marker("slow")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """No test takes a minute of processor time, a slow one five: the clock says more of what else a machine does.

    The quick ones took 5 s at most when measured. What hangs is ended by the clock, after minutes (pyproject). Of this
    process alone: a server of the session that ends here would bring all that it took.
    """
    before = sum(os.times()[:2])
    yield
    took, most = sum(os.times()[:2]) - before, 300 if item.get_closest_marker("slow") else 60
    if took > most and item.get_closest_marker("long") is None:
        pytest.fail(f"took {took:.0f} s of processor time, {most} at most: make it smaller, or mark it long")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    order.thin(config, items)
    order.shuffle(config, items)


@pytest.fixture(scope="session", autouse=True)
def _trained_in_a_moment() -> Iterator[None]:
    """Tests merge, train and publish in a moment, after which times tell nothing: here they tell that it was in order.

    Tests of times have the real ones by `real_times`, and so have other processes.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(file_times, "OF_ONE_MOMENT", "older")
        yield


@pytest.fixture
def real_times(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is written within a moment has no order."""
    monkeypatch.setattr(file_times, "OF_ONE_MOMENT", "unknown")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if config.option.shuffle is not None:
        terminalreporter.write_line(f"The order of this run: --shuffle={config.option.shuffle}")
    if config.option.third is not None:
        left_out = "The slow tests of two thirds of the modules were left out"
        terminalreporter.write_line(f"{left_out}: --third={config.option.third}; make test ONLY=all runs them, too.")


def pytest_collection_finish() -> None:
    """What was imported and collected stays: looking through it for garbage again and again takes time.

    So does looking every 700 objects: that was a fifth of the run.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 20, 20)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """One more than there are cores: a third of a test's time is waiting, for servers, children and disks."""
    return (os.cpu_count() or 1) + 1


@pytest.fixture(scope="session")
def table_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that all worker processes of one run share."""
    folder = tmp_path_factory.getbasetemp()
    folder = folder.parent if folder.name.startswith("popen-") else folder
    made = folder / "target-tables"
    made.mkdir(exist_ok=True)
    return made


@pytest.fixture(scope="session")
def table_made_once(table_folder: Path) -> Callable[[Mapping[str, Any] | None, Mapping[str, Any]], TargetTable]:
    """Makes tables, each once in the run."""

    def remembered(config: Mapping[str, Any] | None, tensors: Mapping[str, Any]) -> TargetTable:
        key = document_digest({"config": config, "tensors": tensors}).removeprefix("sha256:")
        place = table_folder / f"{key}.json"
        if place.is_file():
            return TargetTable.from_document(json.loads(place.read_text()))
        table = make_table(config, tensors)
        with tempfile.NamedTemporaryFile("w", dir=table_folder, delete=False) as stream:
            json.dump(table.to_document(), stream)
        Path(stream.name).replace(place)
        return table

    return remembered


@pytest.fixture(scope="session", autouse=True)
def made_once(
    table_made_once: Callable[..., TargetTable],
    shared_servers: SharedServers,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[None]:
    """For fixtures of every scope too."""
    database_folder = tmp_path_factory.mktemp("database")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(add, "make_table", table_made_once)
        patch.setattr(architecture, "_run", shared_servers.run_child)
        repeat = stand_ins.schema_made_once()
        patch.setattr(migrations, "upgrade", repeat)
        patch.setattr(Database, "create", stand_ins.database_made_once(database_folder, repeat))
        patch.setattr(prepared, "statement", stand_ins.prepared_once())
        if hasattr(routing, "_IncludedRouter"):  # FastAPI of this time
            patch.setattr(routing._IncludedRouter, "_build_effective_context", stand_ins.routes_made_once())
        patch.setattr(uvicorn.server, "asyncio", stand_ins.Sooner())
        # Nothing here outlives the machine: what was written need not be on disk, whose time is a tenth of a run.
        patch.setattr(sqlite, "connect", stand_ins.without_waiting(sqlite.connect))
        for sync in ("fsync", "fdatasync"):
            patch.setattr(os, sync, os.fstat)  # which refuses what is not open, too
        for backend in (postgresql, sqlite):
            patch.setattr(backend, "create_engine", partial(create_engine, execution_options=stand_ins.compiled_once()))
        for wait in ("connect", "read", "write", "pool"):  # five seconds: on a busy machine an answer may take longer
            patch.setattr(httpx._config.DEFAULT_TIMEOUT_CONFIG, wait, 60.0)
        patch.setattr(httpx._transports.default, "create_ssl_context", stand_ins.certificates_read_once())
        # Every S3 driver reads the description of the service, a megabyte of JSON, which nothing changes.
        patch.setattr(JSONFileLoader, "load_file", staticmethod(cache(JSONFileLoader().load_file)))
        yield


@pytest.fixture(scope="session")
def shared_servers(table_folder: Path) -> Iterator[SharedServers]:
    """What all worker processes of one run share; nothing is started before a test asks for it."""
    home = Home.of_run(table_folder.parent)
    yield SharedServers(home)
    home.leave()


@pytest.fixture(scope="session")
def own_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    """Where the servers of single tests run; they end with this process at the latest."""
    home = Home.of_process(tmp_path_factory.getbasetemp())
    yield home
    home.leave()


@pytest.fixture
def postgres_url(shared_servers: SharedServers) -> Iterator[str]:
    """A new, empty database on the run's PostgreSQL."""
    with shared_servers.postgres(migrated=False) as url:
        yield url


@pytest.fixture
def postgres_migrated_url(shared_servers: SharedServers) -> Iterator[str]:
    """A new database with the current schema and no rows, on the run's PostgreSQL."""
    with shared_servers.postgres(migrated=True) as url:
        yield url


@pytest.fixture
def private_postgres(own_home: Home) -> Iterator[Postgres]:
    """A PostgreSQL of this test alone, to `.stop()`, `.kill()` and `.start()`; `.database()` makes a database."""
    server = Postgres.started(own_home)
    yield server
    server.close()


@pytest.fixture
def s3_store(shared_servers: SharedServers) -> S3Place:
    """A new bucket on the run's S3 server."""
    return shared_servers.s3()


@pytest.fixture
def private_s3(own_home: Home) -> Iterator[S3Server]:
    """An S3 server of this test alone, to `.stop()` and `.start()`; `.place()` makes a bucket."""
    server = S3Server.started(own_home)
    yield server
    server.close()


@pytest.fixture
def start_service(own_home: Home) -> Iterator[StartService]:
    """Starts a service with the settings and options of this test; what still runs at its end is killed."""
    services: list[ServiceProcess] = []

    def start(environ: Mapping[str, str], *options: str, **more: Any) -> ServiceProcess:
        services.append(ServiceProcess.started(own_home, environ, options, **more))
        return services[-1]

    yield start
    for service in services:
        service.close()


@pytest.fixture(scope="session")
def shared_service(shared_servers: SharedServers) -> SharedService:
    """A service on PostgreSQL and S3 that other tests use too."""
    return shared_servers.service()
