"""Artifacts that are kept in the store for a while: made, listed, dropped."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request, Response

from registry.api.openapi import problems
from registry.api.operations import ACCEPTED, answered
from registry.api.pages import Cursor, Limit, Page, page, text_key
from registry.http.acting import Acting
from registry.http.payloads import JsonBody
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
    found = materialising.listed(registry.deployment, ref, limit=limit + 1, after=text_key(cursor))
    return page(found, limit, lambda one: one.id)


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
