"""A visit: one request for a page, with the registry as far as the visitor sees it, and the page as its answer.

Every link between the pages is made here and begins with the prefix under which users reach the service. The stylesheet
and the module of the pages are addressed by their digests, so that browsers keep them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from importlib.resources import files
from typing import Annotated, Any, Final, TypeVar
from urllib.parse import quote, urlencode

from fastapi import APIRouter, Depends, Request, Response

from registry.errors import NotFoundError
from registry.http.dependencies import registry_for, service_of
from registry.http.errors import MalformedError
from registry.http.origins import page_path, prefix_of, public_address
from registry.http.reads import ReadRoute
from registry.operations.operation import Item, Job, Listing, Operation, Part
from registry.operations.table import OPERATIONS
from registry.plots.drawing import stylesheet
from registry.reference import Path
from registry.rights import Principal, Role
from registry.schemas import Schema
from registry.schemas.protocol import API
from registry.services.jobs import submit
from registry.services.local import LocalRegistry
from registry.web.frame.forms import FormTokens, form_fields, keep, read_fields, require_own_form, session_of
from registry.web.frame.rendering import rendered

router = APIRouter(include_in_schema=False)
_TYPES: Final[Mapping[str, str]] = {"style.css": "text/css", "page.js": "text/javascript", "icon.svg": "image/svg+xml"}
_LISTS: Final = [(one.address, one.page) for one in OPERATIONS if isinstance(one, Listing) and one.page]
"""Pages that the table of operations has: see `registry.web.routes`."""
_WAITS: Final = 0.5  # seconds for a job that ends soon
_FOREVER: Final = "public, max-age=31536000, immutable"


@dataclass(frozen=True)
class _Asset:
    name: str
    content: bytes
    digest: str


@cache
def _assets() -> Mapping[str, _Asset]:
    folder = files("registry.web") / "static"
    contents = {name: (folder / name).read_bytes() for name in _TYPES}
    contents["style.css"] += stylesheet().encode()
    return {name: _Asset(name, content, hashlib.sha256(content).hexdigest()[:16]) for name, content in contents.items()}


def asset_names() -> Mapping[str, str]:
    """The address of each asset below the prefix."""
    return {name: f"/static/{asset.digest}/{name}" for name, asset in _assets().items()}


@router.api_route("/static/{digest}/{name}", methods=["GET", "HEAD"])
async def asset(digest: str, name: str) -> Response:
    """An asset; nothing of a registry, so nobody has to sign in."""
    found = _assets().get(name)
    if found is None or found.digest != digest:
        raise NotFoundError(f"There is no {name[:64]!r} with the digest {digest[:64]!r}: reload the page.")
    return Response(found.content, media_type=_TYPES[name], headers={"Cache-Control": _FOREVER})


@dataclass(frozen=True)
class Links:
    """Addresses of the pages.

    Args:
        prefix: path before all of them, such as ``/registry``; may be empty.
    """

    prefix: str

    def __call__(self, path: str, /, **query: object) -> str:
        """The page at a path, with the parameters that have a value."""
        return f"{self.prefix}{quote(path, safe='/@:')}{_query(query)}"

    def ref(self, reference: str, /, **query: object) -> str:
        """The page of a base model, an adapter or a revision."""
        return f"{self.prefix}{page_path(reference)}{_query(query)}"

    def of(self, part: str, reference: str, /, **query: object) -> str:
        """A page about a reference, such as its files: ``/files/llama/support@3``."""
        return self(f"/{part}/{reference}", **query)


def _query(query: Mapping[str, object]) -> str:
    several = {name: value if isinstance(value, list) else [value] for name, value in query.items()}
    given = [
        (name, str(one)) for name, values in several.items() for one in values if one is not None and one is not False
    ]
    text = urlencode([(name, value) for name, value in given if value], safe=",")
    return f"?{text}" if text else ""


S = TypeVar("S", bound=Schema)
A = TypeVar("A")
R = TypeVar("R", bound=Schema)
HTML: Final = "text/html"
SUBJECT_PARTS: Final = (("tree", "Overview"), ("history", "Revisions"), ("files", "Files"), ("use", "Use it"))
"""The pages of a revision, by the first part of their address: see `registry.web.frame.visit.Links.of`."""
_FORM: Final = "application/x-www-form-urlencoded"
POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
)
HEADERS: Final[Mapping[str, str]] = {
    "Content-Security-Policy": POLICY,
    "Referrer-Policy": "same-origin",
    "Cache-Control": "private, no-cache",
    "Cross-Origin-Opener-Policy": "same-origin",
}


@dataclass(frozen=True)
class Visit:
    """One request for a page.

    Args:
        request: of the browser.
        registry: as far as the visitor sees it.
        principal: who looks.
        begun: the secret of a session that begins with the response.
    """

    request: Request
    registry: LocalRegistry
    principal: Principal
    begun: str | None = None

    @cached_property
    def said(self) -> dict[str, None]:
        """What the listings of this page say about themselves, each once."""
        return {}

    @cached_property
    def links(self) -> Links:
        """Links to other pages."""
        return Links(prefix_of(self.request.app))

    @cached_property
    def address(self) -> str:
        """The address that people and programs reach this service by."""
        return public_address(self.request)

    @cached_property
    def form_tokens(self) -> FormTokens:
        """The token that forms carry."""
        return FormTokens(self.request, begun=self.begun)

    def ask(self, operation: Operation[R, A], request: R) -> A:
        """What an operation answers, as the API would."""
        return self.registry.do(operation, request)

    def listed(self, listing: Listing[R, Item], request: R, after: object | None = None, limit: int = 50) -> Part[Item]:
        """A page of a listing, as the API would answer it; what it says is in `said`."""
        found = self.registry.deployment.page(listing, request, after, limit)
        self.said.update(dict.fromkeys(found.notices))
        return found

    def asked(self, schema: type[S]) -> S:
        """What the page's query requests; raises `MalformedError`."""
        return read_fields(schema, self.request.query_params.multi_items())

    def may(self, role: Role, path: str | None = None) -> bool:
        """Whether the visitor has a role: at a path, or for the whole registry."""
        rights = self.principal.rights
        return rights.allows_everywhere(role) if path is None else rights.allows(role, Path.parse(path))

    def api(self, path: str, /, *, options: str = "", **query: object) -> str:
        """The line that asks the API for what a page shows; ``options`` of curl come first."""
        given = urlencode({name: value for name, value in query.items() if value is not None}, safe="/@:")
        asked = f"{self.address}{API}{path}{'?' if given else ''}{given}"
        token = "" if self.is_open else '-H "Authorization: Bearer $REGISTRY_TOKEN" '
        return f"curl {options + ' ' if options else ''}{token}'{asked}'"

    @property
    def is_open(self) -> bool:
        """Whether no token is needed for what this visitor sees."""
        return self.principal.token is None

    def page(
        self, template: str, *, title: str, api: str | None = None, status: int = 200, **values: object
    ) -> Response:
        """A page as the response.

        Args:
            template: of this package.
            title: what the page is about, before the registry's name.
            api: the line that asks the API for the same.
            status: of the response.
            values: for the template.
        """
        given = {
            **self.frame,
            "form_token": self.form_tokens.value,
            "title": title,
            "api": api,
            "subject_parts": SUBJECT_PARTS,
            **values,
        }
        response = Response(rendered(template, given), status_code=status, headers=dict(HEADERS), media_type=HTML)
        self.form_tokens.keep(response)
        return response

    @property
    def frame(self) -> dict[str, object]:
        """What the frame of a page shows of the visitor, and where it leads."""
        return {
            **frame_values(self.request.app),
            "visit": self,
            "identity": self.principal,
            "signed_in": (self.begun or session_of(self.request)) is not None,
        }

    def start(self, job: Job[Any, Any], request: Schema) -> Response:
        """Have a job done by the service, and go to its page; one that is under way already is not begun again."""
        deployment = self.registry.deployment
        submitted = submit(deployment, job, request)
        found = service_of(self.request).runner.run_until(deployment, submitted.id, _WAITS)
        return self.go(self.links(f"/jobs/{found.id}"))

    def go(self, address: str) -> Response:
        """After a form: the page that shows what it did."""
        return Response(status_code=303, headers={"Location": address, "Cache-Control": "no-store"})


def frame_values(app: Any) -> dict[str, object]:
    """What the frame of every page needs."""
    return {"links": Links(prefix_of(app)), "assets": asset_names(), "lists": _LISTS}


class PageRoute(ReadRoute):
    """A route of the pages; one that answers GET answers HEAD alike."""

    def __init__(self, path: str, endpoint: Callable[..., Any], *, methods: Any = None, **more: Any) -> None:
        given = set(methods or ("GET",))
        super().__init__(path, endpoint, methods=given | ({"HEAD"} if "GET" in given else set()), **more)


def page_visit(request: Request) -> Visit:
    """The visit of a request: the first dependency of every page, so that whoever may not look gets no further.

    Raises:
        NotAllowedError: ``bad_token``, nobody is signed in, or not any more.
    """
    service = service_of(request)
    secret = session_of(request)
    if secret is not None and "authorization" not in request.headers:
        principal = service.access.of_session(request, secret)
    else:
        principal = service.access.principal(request)
    visit = Visit(request, registry_for(request, principal), principal)
    request.state.visit = visit  # an error page has the same frame
    return visit


async def _body(request: Request) -> bytes:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != _FORM:
        raise MalformedError(f"The body has the type {kind or 'none'!r}, {_FORM} is expected.")
    return await request.body()


@dataclass(frozen=True)
class Posted:
    """A form that a page of ours sent."""

    fields: tuple[tuple[str, str], ...]
    """Without its token."""

    def read(self, schema: type[S]) -> S:
        """The request that it makes; raises `MalformedError`."""
        return read_fields(schema, self.fields)


@dataclass(frozen=True)
class _Sent(Posted):
    token: str | None


def _sent(request: Request, body: Annotated[bytes, Depends(_body)]) -> _Sent:
    """What a page of ours sent, be it of this session or not; it is preserved in case that it is not taken."""
    require_own_form(request)
    fields = form_fields(body)
    token = next((value for name, value in fields if name == "form_token"), None)
    others = tuple((name, value) for name, value in fields if name != "form_token")
    keep(request, others)
    return _Sent(others, token)


PageVisit = Annotated[Visit, Depends(page_visit)]


def form_visit(_: Annotated[_Sent, Depends(_sent)], visit: PageVisit) -> Visit:
    """The visit of a form: it is read first, so that it is not lost if the session has ended."""
    return visit


def posted(request: Request, sent: Annotated[_Sent, Depends(_sent)]) -> Posted:
    """The form of a request; raises `NotAllowedError` if no page of this session sent it."""
    FormTokens(request).check(sent.token)
    return sent


FormVisit = Annotated[Visit, Depends(form_visit)]
PostedForm = Annotated[Posted, Depends(posted)]
