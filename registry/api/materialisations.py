"""Artifacts that are kept in the store for a while: made, listed, dropped."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request, Response

from registry.api.openapi import problems
from registry.api.operations import ACCEPTED, answered
from registry.api.pages import Cursor, Limit, Page, foreign, page, texts_key
from registry.catalogue.materialisations import Turn
from registry.errors import UsageError
from registry.http.acting import Acting
from registry.http.payloads import JsonBody
from registry.reference import Reference
from registry.schemas import ArtifactKind, Materialisation, Materialised
from registry.services import materialising
from registry.wire import API, MaterialiseRequest

router = APIRouter(prefix=API, tags=["artifacts"])

Where = Annotated[
    str | None,
    Query(
        min_length=1,
        max_length=512,
        description="Only of this revision, or, without a number, a tag or a digest, at and under this path.",
        examples=["llama/support"],
    ),
]
Which = Annotated[
    str,
    Query(min_length=1, max_length=512, description="An id, or a revision.", examples=["mat_5f2c9a7d1e40"]),
]


@router.get("/materialisations", responses=problems(400, 404))
def list_materialisations(
    registry: Acting, ref: Where = None, cursor: Cursor = None, limit: Limit = 100
) -> Page[Materialisation]:
    """What is materialised, by path and number."""
    found = materialising.listed(registry.deployment, ref, limit=limit + 1, after=_turn(cursor))
    return page(found, limit, lambda one: (one.reference, one.created_at.isoformat(), one.id))


def _turn(cursor: str | None) -> Turn | None:
    key = texts_key(cursor, 3)
    if key is None:
        return None
    try:
        reference, created_at = Reference.parse(key[0]), datetime.fromisoformat(key[1]).astimezone(UTC)
    except (UsageError, ValueError, OverflowError):
        raise foreign() from None
    if reference.number is None:
        raise foreign()
    return Turn(str(reference.path), reference.number, created_at, key[2])


@router.post(
    "/materialisations",
    status_code=201,
    response_model=Materialised,
    responses={200: {"model": Materialised, "description": "It was there, and is kept for longer."}, **ACCEPTED}
    | problems(400, 404, 408, 410),
)
def materialise(
    registry: Acting, request: Request, asked: Annotated[MaterialiseRequest, Depends(JsonBody(MaterialiseRequest))]
) -> Response:
    """Keep an artifact in the store, or, where it is kept already, for longer."""
    return answered(request, registry, "materialise", materialising.pinned(registry.deployment, asked))


@router.delete("/materialisations", responses=problems(400, 404))
def drop_materialisation(
    registry: Acting, which: Which, kind: ArtifactKind | None = None
) -> tuple[Materialisation, ...]:
    """Keep one no longer, or all of a revision; answers with what is dropped."""
    return registry.drop_materialisation(which, kind=kind)
