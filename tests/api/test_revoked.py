"""A token that is revoked after a request of its own has begun: nothing is committed for it any more."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from fastapi import Request
from sqlalchemy import select

from registry.app import service_app
from registry.catalogue.database.tables import EventRecord, Record
from registry.http.access import Access
from registry.rights import Principal
from registry.services.local import LocalRegistry
from tests.api.rights_table import IN, TABLE
from tests.api.test_rights import body
from tests.kit.library import Library, assert_problem, running

CHANGES = sorted(
    (method, route) for (method, route), row in TABLE.items() if method not in {"GET", "HEAD"} and row.role is not None
)


@pytest.fixture
def late(monkeypatch: pytest.MonkeyPatch, library: Library) -> Iterator[str]:
    """A service that revokes each token once it was admitted, while its request goes on."""
    admit = Access.principal

    def admitted(self: Access, request: Request) -> Principal:
        principal = admit(self, request)
        assert principal.token is not None
        library.registry.revoke_token(principal.token)
        return principal

    monkeypatch.setattr(Access, "principal", admitted)
    with running(service_app(library.registry)) as address:
        yield address


def state(registry: LocalRegistry) -> dict[str, list[Any]]:
    """All rows but tokens, uses, and events of tokens and of refusals."""
    with registry.deployment.read_everything() as session:
        found = {
            table.name: list(session.execute(select(table)).all())
            for table in Record.metadata.sorted_tables
            if table.name not in {"tokens", "uses", "events", "replicas"}
        }
        own = EventRecord.action.not_in(["token create", "token revoke", "refused"])
        found["events"] = list(session.execute(select(EventRecord.action, EventRecord.subject).where(own)).all())
    return found


@pytest.mark.parametrize(("method", "route"), CHANGES)
def test_no_route_changes_anything_for_a_token_that_was_revoked_meanwhile(
    late: str, library: Library, method: str, route: str
) -> None:
    row = TABLE[method, route]
    parts = row.prepare(library.registry, IN)
    made = library.registry.create_token("admin", name="late")
    before = state(library.registry)
    answer = httpx.request(
        method,
        late + route.replace("{", "{0[").replace("}", "]}").format(parts),
        params={name: value.replace("{path}", IN) for name, value in row.params.items()},
        content=body(row, IN, method),
        headers={"Authorization": f"Bearer {made.secret}", "Content-Type": "application/json"},
        timeout=120,
    )
    told = state(library.registry)
    assert {name: rows for name, rows in told.items() if rows != before[name]} == {}, answer.text
    if answer.status_code == 401:
        assert_problem(answer, 401, "bad_token")
    else:  # of what is refused, or only tried or read, before anything is written
        assert answer.status_code in {400, 404, 422} or "dry_run" in row.params or row.reads, answer.text
