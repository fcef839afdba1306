"""Handlers of who asks: rights and tokens.

Tensor code is imported where it is needed, so that browsing starts fast.
"""

from __future__ import annotations

from registry.catalogue.team import tokens
from registry.operations import table
from registry.operations.operation import Part, part
from registry.progress import Progress
from registry.schemas import Identity, Token, TokenCreated
from registry.schemas.requests import NoRequest, RevokeRequest, TokenRequest
from registry.services.deployment import Deployment
from registry.services.handlers.handling import does, lists, one_more
from registry.services.upkeep import identity


@does(table.WHOAMI)
def _whoami(deployment: Deployment, _request: NoRequest, _progress: Progress) -> Identity:
    return identity.whoami(deployment)


@lists(table.TOKENS)
def _tokens(deployment: Deployment, _request: NoRequest, after: str | None, limit: int | None) -> Part[Token]:
    with deployment.read() as session:
        return part(tokens.listing(session, after=after, limit=one_more(limit)), limit, lambda one: one.id)


@does(table.CREATE_TOKEN)
def _create_token(deployment: Deployment, request: TokenRequest, _progress: Progress) -> TokenCreated:
    return identity.create_token(deployment, request)


@does(table.REVOKE_TOKEN)
def _revoke_token(deployment: Deployment, request: RevokeRequest, _progress: Progress) -> Token:
    return deployment.change(lambda session: tokens.revoke(session, request.id, deployment.principal))
