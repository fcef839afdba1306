"""Who acts, and the tokens that say so."""

from __future__ import annotations

import getpass
import socket
from collections.abc import Iterable

from registry.catalogue import tokens
from registry.reference import Path
from registry.rights import UNLIMITED, Principal, Role
from registry.schemas import Identity, Token, TokenCreated
from registry.services.deployment import Deployment
from registry.version import __version__


def of_this_machine(name: str | None) -> Principal:
    """Who works on a database directly, and so may do everything."""
    return Principal(name or _user(), UNLIMITED)


def _user() -> str:
    """Who acts, where nobody says so."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # no such user in the system's list (a container)
        return socket.gethostname()


def whoami(deployment: Deployment) -> Identity:
    """See `registry.services.protocol.Registry.whoami`."""
    principal = deployment.principal
    expires_at = None
    if principal.token is not None:
        with deployment.read() as session:
            expires_at = tokens.get(session, principal.token).expires_at
    return Identity(
        url=deployment.url,
        name=principal.name,
        role=principal.rights.role,
        scopes=tuple(map(str, principal.rights.scopes)),
        token=principal.token,
        expires_at=expires_at,
        version=__version__,
        service_version=None,
    )


def create_token(
    deployment: Deployment, role: Role, *, name: str, scopes: Iterable[str], expires_in: int | None
) -> TokenCreated:
    """Make a token.

    Raises:
        NotAllowedError: only admins whose token has no scopes may.
        UsageError: a scope is no path, or the rest can't be kept.
    """
    deployment.rights.require_everywhere("admin", "make tokens")
    paths = [Path.parse(scope) for scope in scopes]
    return deployment.change(
        lambda session: tokens.create(
            session, deployment.principal, role, name=name, scopes=paths, expires_in=expires_in
        )
    )


def listed_tokens(deployment: Deployment) -> tuple[Token, ...]:
    """All tokens, newest first; raises `NotAllowedError`."""
    deployment.rights.require_everywhere("admin", "list tokens")
    with deployment.read() as session:
        return tokens.listing(session)


def revoke_token(deployment: Deployment, token: str) -> Token:
    """Make a token worthless at once; raises `NotAllowedError`, `NotFoundError`."""
    deployment.rights.require_everywhere("admin", "revoke tokens")
    return deployment.change(lambda session: tokens.revoke(session, token, deployment.principal))
