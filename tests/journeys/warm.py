"""Commands of a page without the wait for imports: `registry` and `python SCRIPT`, forked from a process that has them.

    python -m tests.journeys.warm SOCKET TABLES [MODULE...]     takes commands
    python -I -S warm.py SOCKET COMMAND [WORD...]               is one, in the shell that types the page

A start is seconds of imports and moments of work, and a page has fifty of them. Here each command is the real program
in a process of its own, with the arguments, folder, environment, umask and open files of the shell; only what it
imports was there before. What the Hub's client reads of the environment at its import has to be as it was then.
"""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from tests.kit.servers_home import Home

_COMMANDS = ("registry", "python")
_LENGTH = 8  # bytes that say how long a request is


@contextmanager
def commands(home: Home, tables: str, environ: Mapping[str, str], modules: Sequence[str] = ()) -> Iterator[str]:
    """Lines for bash after which these commands are forked from a process that has ``modules`` and the program's own.

    Commands that still run at the end are killed.
    """
    from tests.kit import servers_home
    from tests.kit.servers_service import clean_environ

    room = home.room("warm")
    place = room / "socket"
    command = [sys.executable, "-m", "tests.journeys.warm", str(place), tables, *modules]
    process = home.run(command, room, environ=clean_environ(environ))
    try:
        servers_home.wait_until(place.exists, process, room, "The process that commands are forked from")
        client = f"'{sys.executable}' -I -S '{__file__}' '{place}'"
        yield "shopt -s expand_aliases\n" + "".join(f'alias {name}="{client} {name}"\n' for name in _COMMANDS)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        home.forget(process)


def ask(place: str, command: str, words: Sequence[str]) -> NoReturn:
    """Be the command: it has our streams, and gets our signals."""
    if command == "python" and not words[0].endswith(".py"):
        os.execvp(command, [command, *words])
    mask = os.umask(0)
    os.umask(mask)
    request = json.dumps([command, words, str(Path.cwd()), dict(os.environ), mask]).encode()
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(place)
        socket.send_fds(connection, [len(request).to_bytes(_LENGTH, "big")], [0, 1, 2])
        connection.sendall(request)
        answer = connection.makefile("r")
        process = int(answer.readline())
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, lambda taken, _: os.kill(process, taken))
        os._exit(int(answer.readline() or 128 + signal.SIGKILL))


def main(place: str, tables: str, *modules: str) -> NoReturn:
    """Load what commands load, then fork for each."""
    import importlib
    import pkgutil
    import warnings
    from functools import partial

    import registry
    from tests.kit import servers_tables

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = [found.name for found in pkgutil.walk_packages(registry.__path__, "registry.")]
        for module in (*modules, *filter(_IN_COMMANDS.match, program)):
            importlib.import_module(module)
    from registry.tensors.table import architecture

    architecture._run = partial(servers_tables.ask, tables)
    servers_tables.fork_for_each(place, partial(_be, _of_the_hub(os.environ)))


_IN_COMMANDS = re.compile(r"registry\.(app|catalogue|cli|client|services)\b")


def _of_the_hub(environ: Mapping[str, str]) -> dict[str, str]:
    """What the Hub's client reads once; a token is read each time."""
    return {name: value for name, value in environ.items() if name.startswith("HF_") and name != "HF_TOKEN"}


def _be(read_at_import: dict[str, str], connection: socket.socket) -> NoReturn:
    import atexit
    import runpy
    import traceback

    length, streams, _, _ = socket.recv_fds(connection, _LENGTH, 3)
    received = connection.makefile("rb")
    command, words, folder, environ, mask = json.loads(received.read(int.from_bytes(length, "big")))
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    sys.stdin, sys.stdout, sys.stderr = (os.fdopen(n, "w" if n else "r", 1) for n in range(3))
    os.chdir(folder)
    os.umask(mask)
    os.environ.clear()
    os.environ.update(environ)
    connection.sendall(f"{os.getpid()}\n".encode())
    status = 1
    try:
        set_now = _of_the_hub(environ)
        assert set_now in ({}, read_at_import), f"{set_now} is set now, and at the import it was {read_at_import}"
        if command == "registry":
            from registry.cli.main import main as run

            sys.argv = [command, *words]
            run()
        sys.argv = words
        sys.path[0] = str(Path(words[0]).resolve().parent)
        runpy.run_path(words[0], run_name="__main__")
        status = 0
    except SystemExit as ended:
        status = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:  # noqa: BLE001 (whatever it is, this copy of the process must not go on with its loop)
        traceback.print_exc()
    finally:
        atexit._run_exitfuncs()
        sys.stdout.flush()
        connection.sendall(f"{status}\n".encode())
        os._exit(status)


if __name__ == "__main__":
    if sys.flags.isolated:
        ask(sys.argv[1], sys.argv[2], sys.argv[3:])
    main(*sys.argv[1:])
