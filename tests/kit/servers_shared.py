"""The servers that all tests of a run share: started by the first test that needs them, in whichever worker process."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tests.kit import servers_tables
from tests.kit.servers import (
    Postgres,
    S3Place,
    S3Server,
    create_database,
    drop_database,
    new_place,
    postgres_url,
)
from tests.kit.servers_home import Home
from tests.kit.servers_service import ServiceProcess, create_token

# Processes that other workers use when this one has ended; kept, since Popen warns when it is dropped before.
_OUTLIVING: Final[list[subprocess.Popen[bytes] | None]] = []


@dataclass(frozen=True)
class SharedService:
    """A service that other tests use too: a test takes names of its own and expects strangers' in lists."""

    url: str
    token: str  # an admin's
    environ: Mapping[str, str]  # the settings that it was started with


@dataclass
class SharedServers:
    """One PostgreSQL, one S3 server, one service and one maker of tables for all worker processes of a run."""

    home: Home

    def _postgres_port(self) -> int:
        def make() -> dict[str, Any]:
            server = Postgres.started(self.home)
            _OUTLIVING.append(server.process)
            return {"port": server.port}

        port: int = self.home.once("postgres", make)["port"]
        return port

    def _migrated(self, port: int) -> str:
        def make() -> dict[str, Any]:
            from registry.catalogue.database.database import Database

            name = create_database(port)
            database = Database(postgres_url(port, name))
            database.prepare()
            database.dispose()
            return {"name": name}

        name: str = self.home.once("migrated", make)["name"]
        return name

    @contextmanager
    def postgres(self, *, migrated: bool) -> Iterator[str]:
        """The URL of a new database, empty or with the current schema; it is removed afterwards."""
        port = self._postgres_port()
        template = self._migrated(port) if migrated else "template0"
        with self.postgres_like(postgres_url(port, template)) as url:
            yield url

    @contextmanager
    def postgres_like(self, url: str) -> Iterator[str]:
        """The URL of a copy of a database that nobody is connected to; it is removed afterwards."""
        port, template = self._postgres_port(), url.rpartition("/")[2]
        name = create_database(port, template=template)
        try:
            yield postgres_url(port, name)
        finally:
            drop_database(port, name)

    def s3(self) -> S3Place:
        """A new bucket."""

        def make() -> dict[str, Any]:
            server = S3Server.started(self.home)
            _OUTLIVING.append(server.process)
            return {"endpoint": server.endpoint, "buckets": str(server.room / "buckets")}

        told = self.home.once("s3", make)
        return new_place(told["endpoint"], Path(told["buckets"]))

    def tables(self) -> str:
        """The socket of the maker of target tables."""

        def make() -> dict[str, Any]:
            process, place = servers_tables.started(self.home)
            _OUTLIVING.append(process)
            return {"place": place}

        place: str = self.home.once("tables", make)["place"]
        return place

    def run_child(self, arguments: list[str], request: bytes, time_limit: float) -> bytes:
        """Stands in for `architecture._run`: what the child says that makes the facts of a target table."""
        return servers_tables.ask(self.tables(), arguments, request, time_limit)

    def service(self) -> SharedService:
        """A service on a database and a bucket of its own."""
        port, store = self._postgres_port(), self.s3()
        template = self._migrated(port)

        def make() -> dict[str, Any]:
            name = create_database(port, template=template)
            settings = {"REGISTRY_DATABASE_URL": postgres_url(port, name), "REGISTRY_STORE_URL": store.url}
            environ = {**settings, **store.environ}
            token = create_token(settings["REGISTRY_DATABASE_URL"])
            service = ServiceProcess.started(self.home, environ)
            _OUTLIVING.append(service.process)
            return {"url": service.url, "token": token, "environ": environ}

        told = self.home.once("service", make)
        return SharedService(told["url"], told["token"], told["environ"])
