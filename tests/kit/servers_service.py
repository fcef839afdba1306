"""`registry serve` as a process of its own, as an operator starts it."""

from __future__ import annotations

import http.client
import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from registry.rights import UNLIMITED, Principal, Role
from tests.kit import delays, servers_home
from tests.kit.servers_home import Home, ServerError
from tests.root import ROOT

SERVE = (sys.executable, "-m", "registry.cli.main", "serve", "--host", "127.0.0.1", "--port", "0")
_SERVING = re.compile(r"Serving .* on (http://127\.0\.0\.1:\d+)")


def clean_environ(environ: Mapping[str, str]) -> dict[str, str]:
    """This process's environment without the settings of a registry or of AWS, and with ``environ``."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("REGISTRY_", "AWS_"))}
    places = (delays.LATE, ROOT) if delays.wanted() else (ROOT,)
    packages = os.pathsep.join(map(str, places))
    return {**kept, "OMP_NUM_THREADS": "1", "PYTHONPATH": packages, "PYTHONUNBUFFERED": "1", **environ}


def create_token(database_url: str, role: Role = "admin", *scopes: str) -> str:
    """The secret of a new token, made in the database as `registry token create` does it on the server's machine."""
    from registry.catalogue.database.database import Database
    from registry.catalogue.team import tokens
    from registry.reference import Path as TreePath

    database, maker = Database(database_url), Principal("operator", UNLIMITED)
    try:
        return database.change(
            lambda session: tokens.create(session, maker, role, scopes=map(TreePath.parse, scopes)).secret
        )
    finally:
        database.dispose()


@dataclass
class ServiceProcess:
    """A running service. It ends with the test process, if the test doesn't end it before."""

    home: Home
    room: Path
    command: tuple[str, ...]
    environ: dict[str, str]
    process: subprocess.Popen[bytes] = field(repr=False)
    url: str

    @classmethod
    def started(
        cls, home: Home, environ: Mapping[str, str], options: Sequence[str] = (), *, command: Sequence[str] = SERVE
    ) -> ServiceProcess:
        """Start a service with these settings and command line options; returns when it says that it is ready.

        Raises:
            ServerError: it ended, or does not get ready.
        """
        room, words, settings = home.room("service"), (*command, *options), clean_environ(environ)
        process = home.run(words, room, environ=settings)
        service = cls(home, room, words, settings, process, "")
        try:
            servers_home.wait_until(service._is_ready, process, room, "The service")
        except ServerError:
            home.forget(process)
            raise
        return service

    def _is_ready(self) -> bool:
        said = _SERVING.search(servers_home.output(self.room))
        if said:
            self.url = said[1]
        return said is not None and self.status("/readyz") == 200

    def status(self, path: str) -> int | None:
        """The status of a GET; None where nobody answers."""
        address = urlsplit(self.url)
        connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=60)
        try:
            connection.request("GET", path)
            return connection.getresponse().status
        except (OSError, http.client.HTTPException):
            return None
        finally:
            connection.close()

    @property
    def log(self) -> list[str]:
        """The lines that the service wrote to stderr."""
        return (self.room / "stderr").read_text(errors="replace").splitlines()

    @property
    def printed(self) -> list[str]:
        """The lines that the service wrote to stdout."""
        return (self.room / "stdout").read_text(errors="replace").splitlines()

    @property
    def running(self) -> bool:
        """Whether the process is there."""
        return self.process.poll() is None

    def stop(self) -> int:
        """Ask the service to end (SIGTERM), wait for it; its exit status."""
        code = servers_home.end(self.process, signal.SIGTERM, self.room, "The service")
        self.home.forget(self.process)
        return code

    def kill(self) -> None:
        """End the service as a crash does it (SIGKILL)."""
        servers_home.end(self.process, signal.SIGKILL, self.room, "The service")
        self.home.forget(self.process)

    def close(self) -> None:
        """End the service if it runs, and remove its folder."""
        if self.running:
            self.kill()
        servers_home.remove(self.room)
