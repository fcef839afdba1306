"""Processes that use a catalogue: `URL ACTION+ACTION ARGUMENTS`, and `URL many COUNT ACTION ARGUMENTS`.

The many are forked from one that has imported everything, so that they really are there at the same time.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
import tempfile
from collections.abc import Callable
from typing import Final

from sqlalchemy import Connection

from registry.catalogue.changes import rename
from registry.catalogue.database import migrations
from registry.catalogue.database.database import Database
from registry.catalogue.tree import nodes, old_names
from registry.errors import ConflictError, RegistryError
from registry.reference import Path as TreePath
from tests.catalogue.rows import TESTER, Writer


def publish(database: Database, worker: str, count: str) -> None:
    """Publish in turn to an adapter that all workers share and to one of its own; print what was acknowledged."""
    writer = Writer()
    for number in range(int(count)):
        for path in ("llama/shared", f"llama/own-{worker}"):
            row = database.change(lambda session: writer.publish(session, path, f"{path} {worker} {number}"))  # noqa: B023
            os.write(1, f"{row.reference} {row.digest}\n".encode())  # whole lines also when many write


def chase(database: Database, worker: str, count: str) -> None:
    """The first worker renames an adapter again and again, the others publish to whatever it is called."""
    writer, path = Writer(), TreePath("llama", ("shared",))
    for number in range(int(count)):
        if worker == "0":
            new = TreePath("llama", (f"shared-{number}",))
            database.change(lambda session: rename.rename(session, path, new, TESTER))  # noqa: B023
            path = new
            continue
        row = None
        while row is None:
            try:
                row = database.change(lambda session: writer.publish(session, str(path), f"{worker} {number}"))  # noqa: B023
            except ConflictError as error:
                if error.code != "renamed":
                    raise
                with database.read() as session:
                    path = TreePath.parse(old_names.new_name(session, path) or "")
        os.write(1, f"{row.reference} {row.message}\n".encode())


def prepare(database: Database) -> None:
    database.prepare()
    os.write(1, f"{database.schema().value}\n".encode())


def die(database: Database, moment: str) -> None:
    """Be killed inside a transaction that has written everything, or right after it was committed."""
    with database.write() as session:
        Writer().publish(session, "llama/shared", "killed")
        if moment == "inside":
            print("reached", flush=True)
            os.kill(os.getpid(), signal.SIGKILL)
    print("reached", flush=True)
    os.kill(os.getpid(), signal.SIGKILL)


def die_migrating(database: Database) -> None:
    with database.migrating() as connection:
        connection.exec_driver_sql("CREATE TABLE half (id INTEGER)")
        print("reached", flush=True)
        os.kill(os.getpid(), signal.SIGKILL)


def die_upgrading(database: Database) -> None:
    """Be killed when all migrations have run, before they are committed."""
    upgrade = migrations.upgrade

    def killed(connection: Connection) -> None:
        upgrade(connection)
        print("reached", flush=True)
        os.kill(os.getpid(), signal.SIGKILL)

    migrations.upgrade = killed
    database.prepare()


def hold(database: Database) -> None:
    """Hold the lock for writing until standard input ends."""
    with database.write():
        print("reached", flush=True)
        sys.stdin.read()


def read(database: Database) -> None:
    with database.read() as session:
        print(len(nodes.tree(session).roots), nodes.tree(session).roots[0].children[0].path)


def write(database: Database) -> None:
    with database.write() as session:
        Writer().publish(session, "llama/shared", "new")
    print("written")


def become(user: int) -> None:
    """Give up root's rights, after everything is imported: another user may not be able to read this Python."""
    with tempfile.TemporaryDirectory() as folder:
        used = Database(f"sqlite:///{folder}/used.sqlite")
        with used.write() as session:
            Writer().base(session, "llama")
            Writer().publish(session, "llama/shared", "first")
        read(used)
        used.dispose()
    os.setgroups([])
    os.setgid(user)
    os.setuid(user)


ACTIONS: Final[dict[str, Callable[..., None]]] = {
    "publish": publish,
    "chase": chase,
    "prepare": prepare,
    "die": die,
    "die_migrating": die_migrating,
    "die_upgrading": die_upgrading,
    "hold": hold,
    "read": read,
    "write": write,
}


def many(url: str, count: str, action: str, *arguments: str) -> int:
    """Run an action in several processes, each with its number in place of "#"; the number of those that failed."""
    for slow in ("alembic.command", "psycopg", "sqlalchemy.dialects.postgresql.psycopg"):
        importlib.import_module(slow)
    children = []
    for number in range(int(count)):
        child = os.fork()
        if child == 0:
            ACTIONS[action](Database(url), *(str(number) if one == "#" else one for one in arguments))
            sys.stdout.flush()
            os._exit(0)
        children.append(child)
    return sum(os.waitpid(child, 0)[1] != 0 for child in children)


def main(url: str, action: str, *arguments: str) -> int:
    if action == "many":
        return many(url, *arguments)
    if "WORKER_USER" in os.environ:
        become(int(os.environ["WORKER_USER"]))
        print("---")
    for one in action.split("+"):
        try:
            ACTIONS[one](Database(url), *arguments)
        except RegistryError as error:
            print(error.code, error)
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
