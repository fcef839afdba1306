"""Answers of the other Hub, for clients of this one.

Clients of huggingface_hub send their token wherever a redirect or the next page of a list is on the Hub itself, so they
are never redirected there: bytes and pages of lists pass through the service. What the other Hub stores
elsewhere, as large files at its store, is fetched from there, which clients do without a token. Requests to the other
Hub have neither token nor cookies, go to its origin alone, and pass the guard of `registry.outgoing`.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from typing import Final, Literal, cast
from urllib.parse import urlsplit

import anyio
import anyio.to_thread
import httpx
from fastapi import Request, Response
from fastapi.responses import StreamingResponse

from registry.catalogue.tree import repo_rows
from registry.errors import NotAllowedError, RegistryError, UnavailableError
from registry.http.bodies import OCTETS
from registry.http.context import Receive, Scope, Send, context_of, source_of
from registry.http.dependencies import address_of, registry_for, service_of
from registry.http.errors import in_a_header, problem
from registry.http.limits import MIB
from registry.http.middleware import ResponseAbortedError
from registry.http.origins import host_of, prefix_of
from registry.http.payloads import JSON
from registry.hub.errors import COMMIT, HubRoute, MissingError, What, view_response
from registry.hub.upstream_addresses import Wanted, next_page, stand_in, wanted
from registry.outgoing.guard import Answer, Bounds, Guard
from registry.outgoing.networks import Networks, Target, target_of
from registry.version import __version__

PASSED_ON: Final = "adapter-registry"
MOST_PASSED_ON: Final = 3
"""So many registries may ask one another; more are a circle."""

_HEAD: Final = 20.0  # seconds; clients give up a HEAD after 10 s
METADATA: Final = Bounds(size=32 * MIB, head=_HEAD, total=2 * _HEAD)
FILES: Final = Bounds(size=512 << 30, head=_HEAD, total=12 * 3600)
_OURS: Final = {"User-Agent": f"{PASSED_ON}/{__version__}", "Accept": "application/json, */*;q=0.5"}


class Upstream:
    """The Hub at an address.

    Args:
        url: its address, from which the paths of its API go down.
        networks: those that it may be in besides public ones; an address in ``url`` itself counts as one.
    """

    def __init__(self, url: str, networks: Sequence[str] = ()) -> None:
        target = target_of(url.rstrip("/"))
        self.url = str(target.url).rstrip("/")
        self.host = target.netloc
        """How messages name it."""
        self.guard = Guard(f"{self.host}, which REGISTRY_UPSTREAM names,", Networks(networks, named=(url,)))
        self._origin = target.origin

    def is_own(self, target: Target) -> bool:
        """Whether a target is at its origin."""
        return target.origin == self._origin

    def asking(
        self,
        method: str,
        path: str,
        *,
        who: str,
        bounds: Bounds,
        headers: Mapping[str, str],
        query: str = "",
        body: bytes | None = None,
    ) -> AbstractAsyncContextManager[Answer]:
        """Its answer to a request, as `Guard.asking` gives it. Redirects to its own origin are followed."""
        url = f"{self.url}{path}" + (f"?{query}" if query else "")
        every = _OURS | dict(headers)
        return self.guard.asking(method, url, who=who, bounds=bounds, headers=every, body=body, follows=self.is_own)


_CODE: Final = "X-Error-Code"
_PARTS: Final = frozenset({"RevisionNotFound", "EntryNotFound"})
"""What a repo lacks: the repo itself exists, and may be known by its commit."""
_GATED: Final = frozenset({"GatedRepo", "DisabledRepo"})
_SENT: Final = ("Range", "If-Range")
_KEPT: Final = (
    COMMIT, "ETag", "X-Linked-Etag", "X-Linked-Size", "Content-Length", "Content-Range", "Accept-Ranges",
)  # fmt: skip
_TRUSTED_BY_CLIENTS: Final = frozenset({"huggingface.co", "hf.co", "hub-ci.huggingface.co"})
"""Hosts to which clients send their token on redirects, whatever Hub they use; some also to other ports of its host."""
_MOST_SENTENCE: Final = 512
_RANGE: Final = re.compile(r"bytes=([0-9]{0,18})-([0-9]{0,18})")
_PART: Final = re.compile(r"bytes ([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18}|\*)")


class RepoRoute(HubRoute):
    """A route that reads a repo: one that is not in this registry is requested from the other Hub, if one is set."""

    async def refusal(self, request: Request, error: RegistryError) -> Response:
        if isinstance(error, MissingError) and error.what == "RepoNotFound":
            upstream: Upstream | None = getattr(request.app.state, "upstream", None)
            asked = None if upstream is None else wanted(request.method, request.scope["raw_path"])
            place = None if asked is None else await _place_of(request, asked)
            if upstream is not None and asked is not None and place != "here":
                try:
                    return await _answer(request, upstream, asked, hidden=place == "hidden")
                except RegistryError as failed:
                    error = failed
        return await super().refusal(request, error)


async def _place_of(request: Request, asked: Wanted) -> Literal["here", "hidden", "elsewhere"]:
    """Where a repo could be: below a base model that the principal sees, one that it does not see, or elsewhere."""
    whole = service_of(request).registry.deployment.database
    seen = registry_for(request, request.state.principal).deployment

    def look() -> Literal["here", "hidden", "elsewhere"]:
        with whole.read() as session:
            if not repo_rows.is_private(session, asked.repo_id):
                return "elsewhere"
        with seen.read() as session:
            return "here" if repo_rows.begins_with_a_base(session, asked.repo_id, seen=True) else "hidden"

    return await anyio.to_thread.run_sync(look)


async def _answer(request: Request, upstream: Upstream, asked: Wanted, *, hidden: bool) -> Response:
    """What the other Hub has. The name of what is ``hidden`` does not leave, nor show by an answer that is quicker, or
    that comes while that Hub does not answer: a repo that nobody has is requested in its place.
    """
    told = stand_in(asked, f"none-{secrets.token_hex(16)}") if hidden else asked
    async with AsyncExitStack() as until:
        answer = await until.enter_async_context(
            upstream.asking(
                request.method,
                told.path,
                who=context_of(request.scope).token or source_of(request.scope) or "",
                bounds=FILES if asked.is_file else METADATA,
                headers=_headers(request, asked),
                query="" if asked.is_file else request.url.query,
                body=await request.body() if request.method == "POST" else None,
            )
        )
        if hidden and answer.status < httpx.codes.BAD_REQUEST:
            raise _nowhere(upstream, asked)
        if answer.status >= httpx.codes.BAD_REQUEST:
            return _refusal(request, upstream, asked, answer)
        if not asked.is_file:
            return await _metadata(request, upstream, asked, answer)
        if answer.is_redirect:
            return Response(status_code=302, headers=_to_their_store(request, upstream, answer))
        _check_part(request, upstream, answer)
        return _FileResponse(answer, until.pop_all())


def _headers(request: Request, asked: Wanted) -> dict[str, str]:
    """What is sent: nothing of the client but the range, or what kind of document its body is."""
    passed = request.headers.get("via", "").count(PASSED_ON)
    if passed >= MOST_PASSED_ON:
        raise UnavailableError("REGISTRY_UPSTREAM leads in a circle: registries ask one another for the same repo.")
    found = {"Via": ", ".join([f"1.1 {PASSED_ON}"] * (passed + 1))}
    if asked.is_file and _RANGE.fullmatch(request.headers.get("range", "")):
        found |= {name: request.headers[name] for name in _SENT if name in request.headers}
    elif request.method == "POST":
        found["Content-Type"] = request.headers.get("content-type", JSON)
    return found


def _refusal(request: Request, upstream: Upstream, asked: Wanted, answer: Answer) -> Response:
    code, status = answer.headers.get(_CODE, ""), answer.status
    said = in_a_header(answer.headers.get("x-error-message", ""))[:_MOST_SENTENCE]
    sentence = f"{upstream.host} has no such thing in {asked.repo_id}: {said or f'status {status}'}"
    if code in _GATED:
        told = problem(NotAllowedError(sentence), context_of(request.scope).request, status=403)
        return view_response(told, {_CODE: code})
    if status in {401, 403, 404}:
        if code in _PARTS and status == httpx.codes.NOT_FOUND:
            raise MissingError(sentence, cast(What, code), commit=_kept(answer).get(COMMIT))
        raise _nowhere(upstream, asked)
    if status == httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE and asked.is_file:
        return Response(status_code=status, headers=_kept(answer, without={"Content-Length"}))
    raise UnavailableError(
        f"{upstream.guard.asked} answers {status} to what is asked of {asked.repo_id}: {said or 'it says no more'}"
    )


def _nowhere(upstream: Upstream, asked: Wanted) -> MissingError:
    """The error for a repo that neither has, and for one that is hidden here: they are not to be distinguished."""
    sentence = f"Neither this registry nor {upstream.host} shows {asked.repo_id} without a token of that Hub."
    return MissingError(sentence, "RepoNotFound")


async def _metadata(request: Request, upstream: Upstream, asked: Wanted, answer: Answer) -> Response:
    kind = answer.headers.get("content-type", "").partition(";")[0].strip()
    if answer.status != httpx.codes.OK or kind != JSON:
        raise UnavailableError(
            f"{upstream.guard.asked} answers with something that is no document of a Hub: the address of a Hub is "
            "expected."
        )
    headers = _kept(answer, only={COMMIT})
    if (following := answer.links.get("next")) is not None:
        headers["Link"] = f'<{_here(request, upstream, asked, str(following.get("url", "")))}>; rel="next"'
    body = b"" if request.method == "HEAD" else await answer.read()
    return Response(body, status_code=200, headers=headers, media_type=JSON)


def _here(request: Request, upstream: Upstream, asked: Wanted, url: str) -> str:
    """The address of the next page in this view; a list that went on elsewhere would be cut."""
    below = url.removeprefix(upstream.url)
    found = None if below == url else next_page(asked, below)
    if found is None:
        raise UnavailableError(f"{upstream.host} has a list whose next page is not one of that list at {upstream.url}.")
    view = request.scope["raw_path"].decode("ascii", "replace").split("/")[1]
    return f"{address_of(request)}{prefix_of(request.app)}/{view}{found}"


def _to_their_store(request: Request, upstream: Upstream, answer: Answer) -> dict[str, str]:
    """The headers of a redirect to where the other Hub keeps a file."""
    place = answer.headers["location"]
    target = target_of(place)
    own = {host_of(request.headers.get("host", "")), urlsplit(request.app.state.public_url or "").hostname}
    if target.host in _TRUSTED_BY_CLIENTS | own:
        raise UnavailableError(
            f"{upstream.guard.asked} leads to {target.netloc}, and clients would send their token there: set "
            "REGISTRY_UPSTREAM to that Hub itself, or give this registry a host name of its own."
        )
    return {**_kept(answer, without={"Content-Length"}), "Location": place, "Cache-Control": "no-store"}


def _check_part(request: Request, upstream: Upstream, answer: Answer) -> None:
    """Refuse bytes that are not those requested: a client would put them where they do not belong."""
    if answer.status == httpx.codes.OK:
        return
    asked = _RANGE.fullmatch(request.headers.get("range", ""))
    part = _PART.fullmatch(answer.headers.get("content-range", ""))
    if answer.status != httpx.codes.PARTIAL_CONTENT or asked is None or part is None or int(part[1]) > int(part[2]):
        raise UnavailableError(f"{upstream.guard.asked} answers {answer.status} to what asks for a file.")
    length = int(part[2]) - int(part[1]) + 1
    if asked[1]:
        fits = int(part[1]) == int(asked[1]) and int(part[2]) <= int(asked[2] or part[2])
    else:  # the last bytes
        fits = length <= int(asked[2] or 0) and part[3] in {"*", str(int(part[2]) + 1)}
    if not fits or answer.headers.get("content-length", str(length)) != str(length):
        raise UnavailableError(f"{upstream.guard.asked} sends another part of a file than was asked for.")


def _kept(answer: Answer, *, only: Collection[str] = _KEPT, without: Collection[str] = ()) -> dict[str, str]:
    return {name: in_a_header(answer.headers[name]) for name in only if name in answer.headers and name not in without}


class _FileResponse(StreamingResponse):
    """The bytes of a file, as they come. ``until`` is left when they are sent, and when nobody wants them any more."""

    def __init__(self, answer: Answer, until: AsyncExitStack) -> None:
        # Whatever kind of document it is at the other Hub, no browser shows it as one of this service.
        other = set() if answer.status == httpx.codes.PARTIAL_CONTENT else {"Content-Range"}
        headers = {
            **_kept(answer, without=other), "Content-Disposition": "attachment", "X-Content-Type-Options": "nosniff",
            "Cache-Control": "no-store",
        }  # fmt: skip
        super().__init__(_pieces(answer), status_code=answer.status, headers=headers, media_type=OCTETS)
        self._until = until

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            with anyio.CancelScope(shield=True):
                await self._until.aclose()


async def _pieces(answer: Answer) -> AsyncIterator[bytes]:
    try:
        async for piece in answer.pieces():
            yield piece
    except UnavailableError as error:
        raise ResponseAbortedError(f"A response was aborted: {error}", httpx.codes.BAD_GATEWAY) from error
