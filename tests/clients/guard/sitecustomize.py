"""Loaded by Python at its start in every process of a client: what leaves the endpoint is refused and written down.

It stands on Python's audit events, below any HTTP library. What does not speak through Python (hf_xet) has the proxy
settings of `tests.clients.machines` before it.
"""

from __future__ import annotations

import importlib.metadata
import os
import sys
from typing import Any

ALLOWED = set(os.environ.get("GUARD_ALLOWED", "").split())  # host:port
HOSTS = {address.rpartition(":")[0] for address in ALLOWED}
HIDDEN = os.environ.get("GUARD_HIDES")  # a package that is not to be installed


def _refuse(what: str) -> None:
    with open(os.environ["GUARD_RECORD"], "a") as record:  # noqa: PTH123 - pathlib is much to load before all else
        record.write(f"{what}\n")
    raise ConnectionRefusedError(f"The guard of the tests lets nobody reach {what}.")


def _look(event: str, given: tuple[Any, ...]) -> None:
    if event in {"socket.connect", "socket.sendto"}:
        address = given[1]
        spelt = f"{address[0]}:{address[1]}" if isinstance(address, tuple) else str(address)
        if spelt not in ALLOWED:
            _refuse(spelt)
    elif event == "socket.getaddrinfo":
        host = given[0].decode() if isinstance(given[0], bytes) else given[0]
        if host not in HOSTS:
            _refuse(f"{host}:{given[1]}")


def _hide(package: str) -> None:
    found = importlib.metadata.Distribution.from_name

    def from_name(name: str) -> importlib.metadata.Distribution:
        if name.replace("-", "_") == package:
            raise importlib.metadata.PackageNotFoundError(name)
        return found(name)

    importlib.metadata.Distribution.from_name = from_name  # type: ignore[method-assign]
    sys.modules[package] = None  # type: ignore[assignment] # an import of it now fails


if ALLOWED:
    sys.addaudithook(_look)
if HIDDEN:
    _hide(HIDDEN)
