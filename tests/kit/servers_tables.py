"""Target tables without the wait for transformers: the child of `registry.tensors.table.architecture`, forked.

    python -I -X utf8 servers_tables.py SOCKET

That child spends seconds on imports and milliseconds on its work. Here it is the same program in a process of its own,
with the same limits and environment, but forked from one that has the imports behind it. The tests of the child,
in `tests/tensors/table/test_architecture.py`, start it as the registry does.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import traceback
import warnings
from collections.abc import Callable
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from tests.kit.servers_home import Home

ROOT = Path(__file__).parents[2]


def started(home: Home) -> tuple[subprocess.Popen[bytes], str]:
    """The process that forks, when it is ready, and the path of its socket."""
    from registry.tensors import limited
    from tests.kit import servers_home  # here: the started process knows no such package

    room = home.room("tables")
    place = room / "socket"
    kept = {name: os.environ[name] for name in limited.KEPT_VARIABLES if name in os.environ}
    command = [sys.executable, "-I", "-X", "utf8", __file__, str(place)]
    process = home.run(command, room, environ=kept | limited.SET_VARIABLES)
    servers_home.wait_until(place.exists, process, room, "The maker of target tables")
    return process, str(place)


def ask(place: str, arguments: list[str], request: bytes, time_limit: float) -> bytes:
    """What the child writes to its standard output: stands in for `architecture._run`."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(time_limit)
        connection.connect(place)
        connection.sendall(json.dumps(arguments).encode() + b"\n" + request)
        connection.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: connection.recv(1 << 20), b""))


def main(place: str) -> NoReturn:
    """Load what the child loads, then fork for every request."""
    sys.path.append(str(ROOT))  # last, as in the child
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import transformers.models.llama.modeling_llama  # one model: it loads what all of them need

        import registry.tensors.table.architecture_facts
    del registry, transformers
    os.chdir(os.sep)
    fork_for_each(place, _answer)


def fork_for_each(place: str, answer: Callable[[socket.socket], NoReturn]) -> NoReturn:
    """Answer each connection to the socket ``place`` in a fork of this process."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the forked ones
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{place}.new")
        listener.listen(64)
        Path(f"{place}.new").rename(place)  # seen under its name only when it takes connections
        while True:
            connection, _ = listener.accept()
            with connection:
                if os.fork() == 0:
                    listener.close()
                    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                    answer(connection)


def _answer(connection: socket.socket) -> NoReturn:
    try:
        from registry.tensors.table import architecture_child

        os.setsid()
        os.dup2(connection.fileno(), 0)
        os.dup2(connection.fileno(), 1)
        connection.close()
        sys.stdin = TextIOWrapper(stdin := os.fdopen(0, "rb"), encoding="utf-8")
        sys.argv[1:] = json.loads(stdin.readline())
        architecture_child.main()  # ends the process
    except BaseException:  # noqa: BLE001 (whatever it is, this copy of the process must not go on with its loop)
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(1)


if __name__ == "__main__":
    main(sys.argv[1])
