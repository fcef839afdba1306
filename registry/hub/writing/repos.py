"""Repos: created, which stores nothing yet; and what is asked for a repo elsewhere and can't be done here."""

from __future__ import annotations

from contextlib import suppress
from typing import Annotated

from fastapi import Depends, Request
from fastapi.responses import JSONResponse

from registry.errors import UsageError
from registry.http.addresses import prefix_of
from registry.http.dependencies import address_of, service_of
from registry.hub.errors import EmptyRepoError, warning
from registry.hub.requests import RepoQueryParam, RequestRegistry, request_registry
from registry.hub.writing.documents import Body, CardText, NewRepo, RepoSettings
from registry.services.artifacts.readme import front_matter
from registry.services.pushing.repo import begin, place_of


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
    """The warning about what is asked to be private or public: scopes of tokens decide who sees what.

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


def no_xet(registry: RequestRegistry) -> None:
    """A token for a Xet store: from clients that insist on it, where their files are too small to be refused before."""
    del registry
    raise UsageError(
        'This registry has no Xet store: run `eval "$(registry env)"` before Python starts, or set '
        "HF_HUB_DISABLE_XET=1."
    )
