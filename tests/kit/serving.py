"""A real service on a thread of this process, and the registry over HTTP that is a client of it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from registry.app import service_app
from registry.client.errors import RetryPolicy
from registry.client.remote import RemoteRegistry
from registry.folders.staging import FetchCache
from registry.http.access import Anonymous
from registry.http.limits import Limits
from registry.http.server import Server, address_of, listen
from registry.services.jobs import Runner
from registry.services.local import LocalRegistry, planned_import
from registry.services.local_merge import LocalArithmetic

QUICK = RetryPolicy(known=10.0, unknown=10.0, first=0.01, most=0.1)


@contextmanager
def served(registry: LocalRegistry, limits: Limits | None = None, *, anonymous: Anonymous = "open") -> Iterator[str]:
    """A service over a registry, on a thread of this process, by default open to everybody; its address."""
    limits = limits or Limits()
    listener = listen("127.0.0.1", 0)
    server = Server(service_app(registry, anonymous=anonymous, limits=limits), limits)
    thread = threading.Thread(target=server.run, args=([listener],))
    thread.start()
    try:
        if not server.ready.wait(120):
            raise AssertionError("the service does not get ready")
        yield address_of(listener)
    finally:
        server.stop()
        thread.join()
        listener.close()


def keep_waiting(patch: pytest.MonkeyPatch) -> None:
    """Have services of this process begin no job that nobody asked for: what they compute would come at any time."""
    patch.setattr(Runner, "_waiting", lambda _: [])


class ServedRegistry(RemoteRegistry):
    """A registry over HTTP, with the service that it talks to. Closing it ends both."""

    def __init__(self, local: LocalRegistry, cache: Path) -> None:
        with ExitStack() as service:
            service.callback(local.close)
            url = service.enter_context(served(local))
            token = local.create_token("admin", name="test").secret
            super().__init__(
                url, token, cache=FetchCache(cache), arithmetic=LocalArithmetic, retry=QUICK, planner=planned_import
            )
            self.local = local
            self._service = service.pop_all()

    def close(self) -> None:
        super().close()
        self._service.close()


def open_http(folder: Path) -> ServedRegistry:
    """A new, empty registry in a folder, served; for the suite that all implementations pass."""
    return ServedRegistry(LocalRegistry.open(folder / "registry", cache_folder=folder / "cache"), folder / "cache")
