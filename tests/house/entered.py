"""Prints how many modules of `registry` work while one thing is done: ``python tests/house/entered.py publish``.

Counted are modules of which a function is called, in any thread; what importing them runs is not. The registry is the
one that ``PYTHONPATH`` names, already open, and the thing was done before: what is counted is what every call takes.
"""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import sys
import tempfile
import threading
import time
from contextlib import closing
from pathlib import Path
from types import FrameType
from typing import Any, Final

import registry
from tests.kit import plain_base, write_chain

PACKAGE: Final = str(Path(registry.__file__).parent) + os.sep


class Entered:
    """The files of the package of which a function was called while it is on."""

    def __init__(self) -> None:
        self.files: set[str] = set()

    def __call__(self, frame: FrameType, event: str, _: object) -> None:
        code = frame.f_code
        if event == "call" and code.co_filename.startswith(PACKAGE) and code.co_name != "<module>":
            self.files.add(code.co_filename)

    def on(self) -> None:
        """Watch this thread, and all that are started from now on."""
        threading.setprofile(self)
        sys.setprofile(self)

    def off(self) -> None:
        """Watch no longer."""
        sys.setprofile(None)
        threading.setprofile(None)


def planted(root: Path, links: int) -> tuple[Any, list[Path]]:
    """An open registry with a base model and ``links`` adapters below each other; folders for three."""
    base = plain_base(root / "base")
    folders = write_chain(root / "chain", base, 3, list(base.modules)[:2])
    opened = registry.connect(root / "registry")
    opened.add_base("net", base.folder)
    for folder, path in zip(folders[:links], ("net/a", "net/a/b"), strict=False):
        opened.publish(folder, path)
    return opened, folders


def publish(root: Path) -> int:
    """A third link of a path."""
    opened, folders = planted(root, 2)
    entered = Entered()
    with closing(opened):
        entered.on()
        opened.publish(folders[2], "net/a/b/c")
        entered.off()
    return len(entered.files)


def fetch(root: Path) -> int:
    """A composed adapter of two links."""
    opened, _ = planted(root, 2)
    entered = Entered()
    with closing(opened):
        opened.fetch("net/a/b", root / "before")
        entered.on()
        opened.fetch("net/a/b", root / "out")
        entered.off()
    return len(entered.files)


def ranged_get(root: Path) -> int:
    """A hundred bytes of a merged model, of a service in this process."""
    opened, _ = planted(root, 2)
    opened.close()
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    entered, found = Entered(), []

    def client() -> None:
        sys.setprofile(None)
        _wait(port)
        query = "ref=net/a/b@1&kind=merged"
        rendering = json.loads(_ask(port, f"/api/v1/artifacts?{query}"))["rendering"].removeprefix("sha256:")
        for _ in range(2):
            time.sleep(0.5)  # the thread that answered may have a log line to write
            entered.files.clear()
            _ask(port, f"/api/v1/artifacts/{rendering}/model.safetensors?{query}", Range="bytes=600-699")
            time.sleep(0.5)
            found.append(len(entered.files))
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=client, daemon=True).start()
    entered.on()
    sys.argv = ["registry", "serve", "--port", str(port), "--url", str(root / "registry")]
    _serve()
    entered.off()
    return found[-1]


def _serve() -> None:
    from registry.cli.main import main

    printed, sys.stdout = sys.stdout, sys.stderr  # what the service says is not the answer
    try:
        main()
    except SystemExit:
        sys.stdout = printed


def _wait(port: int) -> None:
    while True:
        try:
            _ask(port, "/readyz")
            return
        except OSError:
            time.sleep(0.1)


def _ask(port: int, path: str, **headers: str) -> bytes:
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=60)) as connection:
        connection.request("GET", path, headers=headers)
        return connection.getresponse().read()


THINGS: Final = {"publish": publish, "fetch": fetch, "ranged GET": ranged_get}

if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        print(THINGS[sys.argv[1]](Path(scratch).resolve()))
