"""The life of a tree and its store: delete, retract, collect, check."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response

from registry.api.browse import Ref
from registry.api.openapi import problems
from registry.api.operations import ACCEPTED, answered
from registry.http.acting import Acting
from registry.http.payloads import JsonBody
from registry.schemas import Checked, Collected, Deleted, Retracted
from registry.wire import API, FsckRequest, GcRequest, RetractRequest

router = APIRouter(prefix=API, tags=["keeping"])


@router.delete("/revisions", responses=problems(400, 404, 409))
def delete(registry: Acting, ref: Ref) -> Deleted:
    """Delete a revision that nothing was trained on; its number is never given again."""
    return registry.delete(ref)


@router.post("/retractions", responses=problems(400, 404, 408, 409))
def retract(registry: Acting, asked: Annotated[RetractRequest, Depends(JsonBody(RetractRequest))]) -> Retracted:
    """Stop handing out a revision and everything that contains it, or undo that."""
    return registry.retract(asked.ref, reason=asked.reason, undo=asked.undo)


@router.post("/gc", response_model=Collected, responses={**ACCEPTED, **problems(400, 408)})
def gc(registry: Acting, request: Request, asked: Annotated[GcRequest, Depends(JsonBody(GcRequest))]) -> Response:
    """Collect the blobs that no revision needs."""
    return answered(request, registry, "gc", asked)


@router.post("/fsck", response_model=Checked, responses={**ACCEPTED, **problems(400, 408)})
def fsck(registry: Acting, request: Request, asked: Annotated[FsckRequest, Depends(JsonBody(FsckRequest))]) -> Response:
    """Check that every row has its blob and, where that is asked for, every blob its bytes."""
    return answered(request, registry, "fsck", asked)
