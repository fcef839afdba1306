"""Who acts, and the tokens that say so."""

from __future__ import annotations

import getpass
import socket

from sqlalchemy.orm import Session

from registry.catalogue.team import tokens
from registry.folders.private import make_private
from registry.reference import Path
from registry.rights import UNLIMITED, Principal
from registry.schemas import Identity, TokenCreated
from registry.schemas.requests import TokenRequest
from registry.services.deployment import DATABASE, Deployment
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
    """See `registry.operations.registry.Registry.whoami`."""
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


def create_token(deployment: Deployment, request: TokenRequest) -> TokenCreated:
    """Make a token. An embedded registry's folder becomes its owner's alone before it holds one.

    Raises:
        NotAllowedError: ``read_only``, the folder is somebody else's.
        UsageError: a scope is no path, or the rest can't be kept.
    """
    paths = [Path.parse(scope) for scope in request.scopes]
    if deployment.folder is not None:
        # The database with what SQLite keeps beside it, and copies from before an upgrade.
        make_private(deployment.folder, deployment.folder.glob(f"{DATABASE}*"))

    def work(session: Session) -> TokenCreated:
        return tokens.create(
            session, deployment.principal, request.role, name=request.name, scopes=paths, expires_in=request.expires_in
        )

    return deployment.change(work)
