"""A registry in process for the holder of a token, as a service makes one for each request."""

from __future__ import annotations

from datetime import UTC, datetime

from registry.catalogue.database.team_tables import TokenRecord
from registry.catalogue.team.tokens import digest_of
from registry.reference import Path
from registry.rights import Principal, Rights, Role
from registry.services.local import LocalRegistry


def acting(registry: LocalRegistry, role: Role, *scopes: str, token: str = "tok_1") -> LocalRegistry:
    """The same registry for the holder of a token, which is made on the first call."""
    rights = Rights(role, tuple(map(Path.parse, scopes)))
    with registry.deployment.database.write() as session:
        if session.get(TokenRecord, token) is None:
            made = TokenRecord(id=token, digest=digest_of(token), name=token, role=role, scopes=list(scopes))
            made.created_at, made.created_by = datetime.now(UTC), "tester"
            session.add(made)
    return registry.with_principal(Principal(f"holder of {token}", rights, token=token))
