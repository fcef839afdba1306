"""With the database stopped, nobody is told where it is: neither with a token that was invented, nor on a page."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Final

import httpx
import pytest

from registry.app import service_app
from registry.catalogue.database.errors import placeless
from registry.errors import CODES, UnavailableError
from registry.http.errors import problem
from registry.services.local import LocalRegistry
from registry.storage.memory import MemoryDriver
from tests.kit.library import running

SAID: Final = "The database of this registry can't be reached or used now: try again; the service's log says why."
ADDRESSES: Final = (
    "/api/v1/tree",
    "/api/v1/whoami",
    "/api/v1/revisions?ref=net",
    "/hf/api/models/net",
    "/hf/api/models",
    "/hf/net/_/resolve/main/config.json",
    "/net",
    "/",
)


@pytest.fixture
def service() -> Iterator[str]:
    with (
        LocalRegistry.of("postgresql://ann:geheim@127.0.0.1:1/weights", MemoryDriver()) as registry,
        running(service_app(registry)) as address,
    ):
        yield address


def test_an_outage_tells_strangers_nothing(service: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    for headers in ({"Authorization": "Bearer reg_invented"}, {"Cookie": "registry=reg_invented"}, {}):
        for address in ADDRESSES:
            answer = httpx.get(f"{service}{address}", headers=headers)
            told = f"{answer.text}{answer.headers}"
            assert not [word for word in ("ann", "127.0.0.1:1/", "port 1", "weights", "psycopg") if word in told]
            if "Authorization" in headers and "/api/v1" in address:
                assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")
                assert answer.json()["detail"] == SAID
    assert "postgresql://ann@127.0.0.1:1/weights can't be reached" in caplog.text
    assert "geheim" not in caplog.text


def test_every_code_of_a_database_has_a_sentence_without_a_place() -> None:
    for code in CODES:
        told = problem(placeless(UnavailableError("at 127.0.0.1", code=code)))
        assert told.detail.startswith(("The database of this registry", "There is no space left for the database"))
        assert told.code == code
