"""Commits of the Hub views, from which browsers are led to the revision that a commit is."""

from __future__ import annotations

from fastapi import APIRouter, Response

from registry.errors import NotFoundError
from registry.reference import Path
from registry.schemas.protocol import VIEWS
from registry.services import hub_repos
from registry.web.frame.visit import PageRoute, PageVisit

router = APIRouter(include_in_schema=False, route_class=PageRoute)


@router.get("/commit/{view}/{commit}/{path:path}", response_model=None)
def commit_page(visit: PageVisit, view: str, commit: str, path: str) -> Response:
    """The page of the revision that has this commit in a view; raises `NotFoundError`."""
    if view not in VIEWS:
        raise NotFoundError(f"There is no view {view[:64]!r}: there are {', '.join(VIEWS)}.")
    with visit.registry.deployment.read() as session:
        repo = hub_repos.find_repo(session, VIEWS[view], Path.parse(path).repo_id)
        found = hub_repos.reference_of(session, repo, commit)
    return visit.go(visit.links.ref(str(found)))
