"""Principals and tokens."""

from __future__ import annotations

from sqlalchemy.orm import Session

from registry.catalogue.team import tokens
from registry.folders.output import make_private
from registry.reference import Path
from registry.schemas import Identity, TokenCreated
from registry.schemas.requests import TokenRequest
from registry.services.deployment import DATABASE, Deployment
from registry.version import __version__


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


def create_token(deployment: Deployment, request: TokenRequest, *, form: str | None = None) -> TokenCreated:
    """Create a token. An embedded registry's folder is made private to its owner first.

    Of a ``form``, which browsers may send twice, one is made: see `registry.catalogue.team.tokens.create`.

    Raises:
        NotAllowedError: ``read_only``, the folder belongs to another user.
        UsageError: a scope is not a path, or another field is invalid.
    """
    paths = [Path.parse(scope) for scope in request.scopes]
    if deployment.folder is not None:
        # The database, SQLite's side files, and backups from before an upgrade.
        make_private(deployment.folder, deployment.folder.glob(f"{DATABASE}*"))

    def work(session: Session) -> TokenCreated:
        return tokens.create(
            session,
            deployment.principal,
            request.role,
            name=request.name,
            scopes=paths,
            expires_in=request.expires_in,
            form=form,
        )

    return deployment.change(work)
