"""What Hub clients write of a repo besides commits: its creation, large files by Git LFS, and tags.

Creating a repo stores nothing yet. Weights that are too large for a commit come by LFS: the client asks where to, sends
the parts, and says that this is all.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Annotated, Any, Final

import anyio.to_thread
from fastapi import Depends, Request, Response
from fastapi.responses import JSONResponse

from registry.errors import NotFoundError, UsageError
from registry.http.context import context_of
from registry.http.dependencies import address_of, service_of
from registry.http.origins import prefix_of
from registry.http.payloads import chunks_of
from registry.hub.errors import EmptyRepoError, warning
from registry.hub.requests import RepoQuery, RepoQueryParam, RequestRegistry, request_registry
from registry.hub.writing.documents import Body, CardText, LargeObjects, NewRepo, NewTag, RepoSettings
from registry.operations.table import TAG, UNTAG
from registry.reference import Path
from registry.schemas.requests import TagRequest, UntagRequest
from registry.services.artifacts.readme import front_matter
from registry.services.pushing.parts import LargeUpload, begin_large, put_large_part
from registry.services.pushing.repo import begin, place_of

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


def create(
    registry: RequestRegistry, request: Request, asked: Annotated[NewRepo, Depends(Body(NewRepo))]
) -> JSONResponse:
    """Begin a repo: it has a place in the tree once something is published to it."""
    request.state.summary = asked.name
    if asked.type is not None and asked.type != "model":
        raise UsageError(f"This registry has models only, and no repos of the type {asked.type[:32]!r}.")
    if asked.organization is None:
        raise UsageError(
            f"{asked.name[:96]!r} does not say which base model it belongs to: give the repo id as BASE/NAME, for a "
            "trainer as hub_model_id='BASE/NAME'."
        )
    repo_id = request.state.summary = f"{asked.organization}/{asked.name}"
    path = place_of(registry.deployment, repo_id)
    headers = _visible(request, repo_id, asked)
    if asked.files:
        raise UsageError("A repo begins empty here: push the files when it is created.")
    created = begin(registry.deployment, path)
    url = f"{view_of(request)}/models/{path.repo_id}"
    if not created:
        return JSONResponse({"url": url, "error": f"{repo_id} exists already."}, status_code=409)
    return JSONResponse({"url": url, "id": path.repo_id, "name": path.repo_id}, headers=headers)


def view_of(request: Request) -> str:
    """The address of the view, as the client addressed it."""
    view = request.scope["route"].path_format.split("/")[1]
    return f"{address_of(request)}{prefix_of(request.app)}/{view}"


def validate_yaml(request: Request, asked: Annotated[CardText, Depends(Body(CardText))]) -> JSONResponse:
    """Check the front matter of a card: clients ask before they push it.

    `ModelCard.push_to_hub` sends no token with this: for who may be anybody, no YAML is parsed.
    """
    if "Authorization" in request.headers:
        request_registry(request)
        try:
            front_matter.check(asked.content)
        except UsageError as problem:
            return JSONResponse({"errors": [{"message": str(problem)}], "warnings": []}, status_code=400)
    return JSONResponse({"errors": [], "warnings": []})


def settings(query: RepoQueryParam, asked: Annotated[RepoSettings, Depends(Body(RepoSettings))]) -> JSONResponse:
    """Who may see a repo, for who may push to it: what is so anyway is answered, the rest is refused or warned of."""
    place_of(query.deployment, query.repo_id)
    with query.deployment.read() as session, suppress(EmptyRepoError):
        query.repo(session)
    if asked.gated:
        raise UsageError(
            f"This registry has no gates, and {query.repo_id} would stay open to every token that covers it: give "
            "tokens whose scopes leave it out (`registry token create --scope`)."
        )
    return JSONResponse({}, headers=_visible(query.request, query.repo_id, asked))


def _visible(request: Request, repo_id: str, asked: NewRepo | RepoSettings) -> dict[str, str]:
    """The warning about what is requested to be private or public: scopes of tokens decide who sees what.

    Raises:
        UsageError: it is to be private, and everybody would see it.
    """
    private = asked.private if asked.visibility is None else asked.visibility != "public"
    is_open = service_of(request).access.reads_are_open
    if private and is_open:
        raise UsageError(
            f"{repo_id} can't be private: this registry is served with --anonymous read, so everybody who reaches it "
            "reads all of it. Push to another one, or ask for no privacy (private=False, for a trainer "
            "hub_private_repo=False)."
        )
    if private:
        sentence = (
            f"{repo_id} is seen by whoever has a token whose scopes cover it, and by nobody else: that it is private "
            "was not noted."
        )
    elif private is False and not is_open and isinstance(asked, RepoSettings):
        sentence = f"{repo_id} stays hidden from who has no token: that it is public was not noted."
    else:
        return {}
    return warning(f"private {repo_id}", sentence)


def branches(registry: RequestRegistry) -> None:
    """Branches: only ``main`` exists."""
    del registry
    raise UsageError("A repo has no branch but main: push to main, and name the revision by a tag (create_tag).")


def no_removal(registry: RequestRegistry) -> None:
    """Repos that are deleted, moved or rewritten by a Hub client."""
    del registry
    raise UsageError(
        "A Hub client can't delete, move or rewrite what was published: use `registry delete`, `registry retract` or "
        "`registry rename`."
    )


def no_discussions(registry: RequestRegistry) -> None:
    """Pull requests and discussions."""
    del registry
    raise UsageError("This registry has no pull requests and no discussions: push to main (create_pr=False).")


def no_xet(registry: RequestRegistry) -> None:
    """A token for a Xet store: from clients that insist on it, where their files are too small to be refused before."""
    del registry
    raise UsageError(
        'This registry has no Xet store: run `eval "$(registry env)"` before Python starts, or set '
        "HF_HUB_DISABLE_XET=1."
    )


_TYPE: Final = "application/vnd.git-lfs+json"


def batch(query: RepoQueryParam, asked: Annotated[LargeObjects, Depends(Body(LargeObjects))]) -> JSONResponse:
    """Where the parts of some files go: to the store by presigned requests, or through the service."""
    if asked.operation != "upload":
        raise UsageError("Files are read by their addresses, and not by LFS: only the operation upload is served.")
    path = place_of(query.deployment, query.repo_id)
    place = f"{view_of(query.request)}/{query.repo_id}.git/info/lfs"
    objects = [_told(begin_large(query.deployment, path, one.oid, one.size), place) for one in asked.objects]
    return JSONResponse({"transfer": "basic", "objects": objects}, media_type=_TYPE)


def _told(large: LargeUpload, place: str) -> dict[str, Any]:
    known = {"oid": large.oid, "size": large.size}
    if large.upload is None:
        return known
    upload = large.upload
    urls = {
        number: upload.urls.get(number) or f"{place}/parts/{upload.id}/{number}"
        for number in range(1, upload.parts + 1)
    }
    if upload.parts == 1:
        return known | {"actions": {"upload": {"href": urls[1]}}}
    header = {"chunk_size": str(upload.part_size), **{f"{number:05}": url for number, url in urls.items()}}
    return known | {"actions": {"upload": {"href": f"{place}/complete/{upload.id}", "header": header}}}


async def part(request: Request) -> Response:
    """A part that goes through the service; without a token, as LFS clients send it."""
    context_of(request.scope).kind = "part"
    given = request.path_params
    if not given["number"].isascii() or not given["number"].isdigit() or "content-length" not in request.headers:
        raise UsageError("A part has a number, and needs the header Content-Length.")
    service = service_of(request)
    await anyio.to_thread.run_sync(
        put_large_part,
        service.registry.deployment,
        given["upload"],
        int(given["number"][:9]),
        chunks_of(request),
        limiter=service.part_threads,
    )
    return Response(headers={"ETag": f'"{given["upload"]}-{given["number"]}"'})


def complete() -> Response:
    """That all parts were sent: looked at when the commit names the file."""
    return Response()
