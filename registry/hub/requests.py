"""Request to a view: principal, repo and revision."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Final
from urllib.parse import quote, unquote

from fastapi import Depends, Request
from sqlalchemy.orm import Session

from registry.errors import UsageError
from registry.http.dependencies import Service, address_of, registry_for, service_of
from registry.http.origins import prefix_of
from registry.hub.errors import EmptyRepoError, MissingError, as_missing, warning
from registry.reference import MAIN, Path
from registry.schemas import ArtifactKind
from registry.schemas.protocol import VIEWS
from registry.services import hub_repos
from registry.services.deployment import Deployment
from registry.services.hub_repos import Pinned, Repo
from registry.services.local import LocalRegistry
from registry.services.pushing.repo import pending_commit

_REVISION: Final = "{revision}"
_HEAD: Final = "HEAD"  # of git: clients in JavaScript ask for it if no revision is given
_IN_A_HEADER: Final = "/%:@!$&'()*+,;=~"  # safe in an encoded path, without what would end the URL in the header
_TRUE: Final = frozenset({"true", "1"})


def request_registry(request: Request) -> LocalRegistry:
    """Authenticate the request, and return the registry for its principal. Unknown query parameters are ignored, as
    the Hub has many.
    """
    return registry_for(request, service_of(request).access.principal(request))


RequestRegistry = Annotated[LocalRegistry, Depends(request_registry)]


@dataclass(frozen=True)
class RepoQuery:
    """A request about a repo of a view."""

    request: Request
    deployment: Deployment  # with the rights of the principal

    @property
    def service(self) -> Service:
        return service_of(self.request)

    @property
    def place(self) -> str:
        """The path of the view below the service's address."""
        return _template(self.request)[1]

    @property
    def view(self) -> ArtifactKind:
        """The kind of artifact that the view serves."""
        return VIEWS[self.place]

    @property
    def repo_id(self) -> str:
        """The repo id as requested."""
        given = self.request.path_params
        return "/".join(given[part] for part in ("namespace", "name") if part in given)

    @property
    def path(self) -> str:
        """The requested file or folder in the repo."""
        return str(self.request.path_params.get("path", ""))

    @property
    def revision(self) -> str:
        """The revision name, read from the undecoded path: after decoding, a slash in it could not be recognised.

        Raises:
            MissingError: it contains a slash, or a slash before it is encoded.
        """
        template = _template(self.request)
        if _REVISION not in template:
            return MAIN
        at = template.index(_REVISION)
        segments = self.request.scope["raw_path"].split(b"/")[at : at + 1]  # empty: slashes before it are encoded
        found = unquote(b"".join(segments).decode("ascii", "replace"))
        if found != self.request.path_params["revision"]:
            sentence = (
                f"{self.repo_id} has no revision {found[:96]!r}: names of revisions contain no slash, and the slashes "
                "before them must not be encoded."
            )
            raise MissingError(sentence, "RevisionNotFound")
        return MAIN if found == _HEAD else found

    def repo(self, session: Session) -> Repo:
        """The repo.

        Raises:
            EmptyRepoError: it was created, or files of it wait for others.
            MissingError: it does not exist.
        """
        try:
            with as_missing("RepoNotFound"):
                return hub_repos.find_repo(session, self.view, self.repo_id)
        except MissingError:
            if (sha := pending_commit(session, self.deployment.principal, self.repo_id)) is not None:
                raise EmptyRepoError(self.repo_id, sha) from None
            raise

    def pinned(self) -> Pinned:
        """Resolve the repo's revision now."""
        with self.deployment.read() as session:
            return self.pinned_in(session)

    def pinned_in(self, session: Session) -> Pinned:
        """Like `pinned`, in a session."""
        repo = self.repo(session)
        with as_missing("RevisionNotFound"):
            return hub_repos.pin(session, repo, self.revision)

    def flag(self, name: str) -> bool:
        """A boolean parameter, in the spellings of different clients."""
        return is_true(self.request.query_params.get(name, ""))

    def limit(self, most: int) -> int:
        """The page size: the ``limit`` parameter, at most ``most``."""
        given = self.request.query_params.get("limit")
        if given is None:
            return most
        if not given.isascii() or not given.isdigit() or len(given) > 9 or int(given) == 0:
            raise UsageError(f"The limit is {given[:32]!r}, but 1 or more is expected.")
        return min(int(given), most)

    def next_page(self, cursor: str, *, commit: str | None = None) -> dict[str, str]:
        """The Link header of the next page, at the address that the client requested.

        Args:
            cursor: where the page begins.
            commit: replaces the revision in the address, for lists that would continue differently at another revision.
        """
        segments = self.request.scope["raw_path"].decode("ascii", "replace").split("/")
        if commit is not None:
            segments[_template(self.request).index(_REVISION)] = commit
        query = self.request.url.include_query_params(cursor=cursor).query
        address = f"{address_of(self.request)}{prefix_of(self.request.app)}"
        return {"Link": f'<{address}{quote("/".join(segments), safe=_IN_A_HEADER)}?{query}>; rel="next"'}


def is_true(text: str) -> bool:
    """A boolean as clients spell it."""
    return text.lower() in _TRUE


def renamed_warning(repo: Repo) -> dict[str, str]:
    """The header that warns of an old name; none otherwise."""
    if repo.renamed_to is None:
        return {}
    old, new = repo.path.repo_id, Path.parse(repo.renamed_to).repo_id
    sentence = f"{old} was renamed to {new}: the old name goes on, but nothing can be published to it."
    return warning(f"renamed {old}", sentence)


def _template(request: Request) -> list[str]:
    """The segments of the route's path template, which begins with a slash."""
    found: str = request.scope["route"].path_format
    return found.split("/")


def repo_query(request: Request, registry: RequestRegistry) -> RepoQuery:
    """The request's query; depends on authentication, so that it comes first."""
    return RepoQuery(request, registry.deployment)


RepoQueryParam = Annotated[RepoQuery, Depends(repo_query)]
