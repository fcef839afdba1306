"""Repos: created, which stores nothing yet; and what is asked for a repo elsewhere and can't be done here."""

from __future__ import annotations

from contextlib import suppress
from typing import Annotated

from fastapi import Depends, Request
from fastapi.responses import JSONResponse

from registry.errors import UsageError
from registry.http.addresses import prefix_of
from registry.http.dependencies import address_of
from registry.hub.errors import EmptyRepoError, warning
from registry.hub.requests import RepoQueryParam, RequestRegistry, request_registry
from registry.hub.writing.documents import Body, CardText, NewRepo
from registry.services.artifacts.readme import front_matter
from registry.services.pushing.place import begin, place_of


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
    created = begin(registry.deployment, path)
    url = f"{view_of(request)}/models/{path.repo_id}"
    if not created:
        return JSONResponse({"url": url, "error": f"{repo_id} exists already."}, status_code=409)
    headers = {}
    if asked.private or asked.visibility == "private":
        sentence = "Who sees a repo is decided by the scopes of tokens: that it is private was not noted."
        headers = warning(f"private {repo_id}", sentence)
    return JSONResponse({"url": url}, headers=headers)


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


def settings(query: RepoQueryParam) -> JSONResponse:
    """Visibility and the like, which are no matter of a repo here: for who may push to it, there is nothing to do."""
    place_of(query.deployment, query.repo_id)
    with query.deployment.read() as session, suppress(EmptyRepoError):
        query.repo(session)
    return JSONResponse({})


def branches(registry: RequestRegistry) -> None:
    """Branches: there is only ``main``."""
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
