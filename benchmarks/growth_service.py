"""The memory of a service over a catalogue, however large, after requests of every kind that lists."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Final

import httpx
import psutil

from tests.kit import grown
from tests.kit.servers_home import Home
from tests.kit.servers_service import ServiceProcess, create_token

_API: Final = "/api/v1"
_HUB: Final = "/hf-published/api/models"
REQUESTS: Final = (
    f"{_API}/bases",
    f"{_API}/tree?limit=500",
    f"{_API}/tree?limit=500&depth=1",
    f"{_API}/log?path={grown.BIG}&limit=500",
    f"{_API}/log/deleted?path={grown.BIG}&limit=500",
    f"{_API}/revisions?ref={grown.BIG}",
    f"{_API}/resolve?ref={grown.DEEP}",
    f"{_API}/search?limit=500",
    f"{_API}/search?text=epochs&limit=500",
    f"{_API}/search?text=low%20learning&limit=500",
    f"{_API}/search?metric=acc>0.9&sort=max:acc&limit=500",
    f"{_API}/events?limit=500",
    f"{_API}/events?path={grown.BIG}&limit=500",
    f"{_API}/subtree?path=llama&limit=10000",
    f"{_HUB}?limit=500",
    f"{_HUB}/{grown.BIG}/refs",
)


def memory(home: Home, database: str, store: Path, rounds: int) -> int:
    """Resident bytes of a service after some rounds of all requests."""
    store.mkdir(exist_ok=True)
    secret = create_token(database)
    settings = {"REGISTRY_DATABASE_URL": database, "REGISTRY_STORE_URL": str(store)}
    with (
        closing(ServiceProcess.started(home, settings)) as service,
        httpx.Client(base_url=service.url, headers={"Authorization": f"Bearer {secret}"}, timeout=600) as client,
    ):
        for _ in range(rounds):
            for address in REQUESTS:
                client.get(address).raise_for_status()
        found = psutil.Process(service.process.pid)
        return sum(one.memory_info().rss for one in (found, *found.children(recursive=True)))
