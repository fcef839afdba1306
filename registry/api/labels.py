"""Tags, metrics and annotations: what may be said about a revision after it was published."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Query

from registry.api.browse import TreePath
from registry.api.openapi import problems
from registry.catalogue import protection
from registry.http.acting import Acting
from registry.http.payloads import JsonBody
from registry.schemas import ProtectedTag, RevisionSummary, Tagged
from registry.wire import API, AnnotateRequest, ProtectRequest, TagRequest

router = APIRouter(prefix=API, tags=["labels"])

TagName = Annotated[str, Query(min_length=1, max_length=128, examples=["prod"])]
BaseName = Annotated[str, Query(min_length=1, max_length=128, examples=["llama"])]


@router.put("/tags", responses=problems(400, 404, 408, 409))
def tag(registry: Acting, asked: Annotated[TagRequest, Depends(JsonBody(TagRequest))]) -> Tagged:
    """Let a tag name a revision."""
    return registry.tag(asked.ref, asked.tag)


@router.delete("/tags", responses=problems(400, 404))
def untag(registry: Acting, path: TreePath, tag: TagName) -> Tagged:
    """Remove a tag; the revision stays."""
    return registry.untag(path, tag)


@router.post("/annotations", responses=problems(400, 404, 408))
def annotate(
    registry: Acting, asked: Annotated[AnnotateRequest, Depends(JsonBody(AnnotateRequest))]
) -> RevisionSummary:
    """Add or replace metrics and annotations."""
    return registry.annotate(asked.ref, metrics=asked.metrics, annotations=asked.annotations)


@router.get("/protected-tags", responses=problems(400, 404))
def list_protected_tags(registry: Acting, base: BaseName) -> tuple[ProtectedTag, ...]:
    """The tags of a base model's adapters that only admins move."""
    with registry.deployment.read() as session:
        return protection.patterns(session, base)


@router.put("/protected-tags", responses=problems(400, 404, 408))
def protect_tag(
    registry: Acting, asked: Annotated[ProtectRequest, Depends(JsonBody(ProtectRequest))]
) -> tuple[ProtectedTag, ...]:
    """Protect tags by a pattern, or end that; answers with all that is protected now."""
    return registry.protect_tag(asked.base, asked.pattern, remove=asked.remove)
