"""Real services in this process, and clients of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from registry.client.remote import RemoteRegistry
from registry.folders.staging import FetchCache
from registry.services.local import LocalRegistry
from registry.services.local_merge import LocalArithmetic
from tests.kit.serving import QUICK, served


@dataclass(frozen=True)
class Team:
    """A service, the registry behind it, and its clients."""

    url: str
    local: LocalRegistry
    folder: Path
    _clients: ExitStack

    def client(self, name: str = "client", *, url: str | None = None, token: str | None = None) -> RemoteRegistry:
        """A client with a cache of its own."""
        cache = FetchCache(self.folder / name)
        registry = RemoteRegistry(url or self.url, token, cache=cache, arithmetic=LocalArithmetic, retry=QUICK)
        self._clients.callback(registry.close)
        return registry


MakeTeam = Callable[[LocalRegistry], Team]


@pytest.fixture
def make_team(tmp_path: Path) -> Iterator[MakeTeam]:
    """Serves a registry."""
    with ExitStack() as stack:

        def make(local: LocalRegistry) -> Team:
            stack.callback(local.close)
            return Team(stack.enter_context(served(local)), local, tmp_path, stack.enter_context(ExitStack()))

        yield make


@pytest.fixture
def team(make_team: MakeTeam, tmp_path: Path) -> Team:
    """A service over a folder: all bytes go through it."""
    return make_team(LocalRegistry.open(tmp_path / "registry", actor="ann", cache_folder=tmp_path / "embedded"))
