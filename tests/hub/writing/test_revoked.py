"""A token that is revoked, or expires, while the body of its push is on the way: nothing is published."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from sqlalchemy import text

from tests.hub.writing.conftest import PAIR, Pushing, body, repo_of


@pytest.mark.parametrize("how", ["revoked", "expired"])
def test_a_push_whose_token_ends_meanwhile_publishes_nothing(pushing: Pushing, how: str) -> None:
    made = pushing.registry.create_token("writer", name="short", expires_in=600)
    path = pushing.name()
    folder = pushing.adapter()
    whole = body({name: (folder / name).read_bytes() for name in PAIR})

    def admitted() -> bool:
        return any(one.id == made.token.id and one.last_used_at for one in pushing.registry.tokens())

    def slowly() -> Iterator[bytes]:
        yield whole[:100]
        deadline = time.monotonic() + 60
        while not admitted():
            assert time.monotonic() < deadline
            time.sleep(0.01)
        if how == "revoked":
            pushing.registry.revoke_token(made.token.id)
        else:
            with pushing.registry.deployment.database.write() as session:
                past = f"UPDATE tokens SET expires_at = '2026-01-02 03:04:05.000000' WHERE id = '{made.token.id}'"
                session.execute(text(past))
        yield whole[100:]

    with pushing.client() as client:
        answer = client.post(
            f"/api/models/{repo_of(path)}/commit/main",
            content=slowly(),
            headers={"Authorization": f"Bearer {made.secret}", "Content-Type": "application/x-ndjson"},
        )
    assert answer.status_code == 401, answer.text
    assert ("was revoked" if how == "revoked" else "expired on") in answer.json()["error"]
    assert pushing.revisions(path) == []
