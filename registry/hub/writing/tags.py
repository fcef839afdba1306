"""Tags that Hub clients set and remove."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Response

from registry.errors import NotFoundError, UsageError
from registry.hub.requests import RepoQuery, RepoQueryParam, RequestRegistry
from registry.hub.writing.documents import Body, NewTag
from registry.operations.table import TAG, UNTAG
from registry.reference import Path
from registry.schemas.requests import TagRequest, UntagRequest

_NEW = "none"
"""What a tag names that is only made if it does not exist."""


def create_tag(
    query: RepoQueryParam, registry: RequestRegistry, asked: Annotated[NewTag, Depends(Body(NewTag))]
) -> Response:
    """Let a new tag name a revision."""
    with query.deployment.read() as session:
        pinned = query.pinned_in(session)
    if pinned.revision is None:
        raise UsageError(f"{query.repo_id} is a base model, which has no tags.")
    registry.do(TAG, TagRequest(ref=pinned.revision.reference, tag=asked.tag, expected=_NEW))
    return Response(status_code=200)


def delete_tag(query: RepoQueryParam, registry: RequestRegistry) -> Response:
    """Remove a tag."""
    registry.do(UNTAG, UntagRequest(path=str(Path.of_repo_id(query.repo_id)), tag=_tag(query)))
    return Response(status_code=200)


def _tag(query: RepoQuery) -> str:
    try:
        return query.revision
    except NotFoundError as missing:
        raise UsageError(str(missing)) from None
