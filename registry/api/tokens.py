"""Tokens."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Path

from registry.api.openapi import problems
from registry.api.pages import Cursor, Limit, Page, page, text_key
from registry.catalogue import tokens as token_rows
from registry.http.acting import Acting
from registry.http.payloads import JsonBody
from registry.schemas import Token, TokenCreated
from registry.wire import API, TokenRequest

router = APIRouter(prefix=API, tags=["tokens"])

Id = Annotated[str, Path(min_length=1, max_length=64, pattern="^[A-Za-z0-9_-]+$")]


@router.get("/tokens", responses=problems(400))
def list_tokens(registry: Acting, cursor: Cursor = None, limit: Limit = 100) -> Page[Token]:
    """All tokens, newest first."""
    registry.deployment.rights.require_everywhere("admin", "list tokens")
    with registry.deployment.read() as session:
        found = token_rows.listing(session, limit=limit + 1, after=text_key(cursor))
    return page(found, limit, lambda one: one.id)


@router.post("/tokens", status_code=201, responses=problems(400, 404, 408))
def create_token(registry: Acting, asked: Annotated[TokenRequest, Depends(JsonBody(TokenRequest))]) -> TokenCreated:
    """Make a token; its secret is in this answer and nowhere else."""
    return registry.create_token(asked.role, name=asked.name, scopes=asked.scopes, expires_in=asked.expires_in)


@router.delete("/tokens/{id}", responses=problems(404))
def revoke_token(registry: Acting, id: Id) -> Token:  # noqa: A002 - the name of the parameter of the route
    """Make a token worthless at once."""
    return registry.revoke_token(id)
