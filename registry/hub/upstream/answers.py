"""Answers of the other Hub, for clients of this one.

Clients of huggingface_hub send their token wherever a redirect or the next page of a list is on the Hub itself, so they
are never led there: bytes pass through the service, and pages of lists are asked of it. What the other Hub keeps
elsewhere, as large files at its store, is fetched from there, which clients do without a token.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Final, cast, get_args
from urllib.parse import urlsplit

import anyio
import anyio.to_thread
import httpx
from fastapi import Request, Response
from fastapi.responses import StreamingResponse

from registry.catalogue import repo_ids
from registry.errors import NotAllowedError, RegistryError, UnavailableError
from registry.http.addresses import prefix_of
from registry.http.dependencies import address_of, service_of
from registry.http.payloads import JSON
from registry.http.request.context import context_of
from registry.http.request.errors import in_a_header, problem
from registry.http.request.middleware import ResponseAbortedError
from registry.http.wire.bodies import OCTETS
from registry.hub.errors import COMMIT, HubRoute, MissingError, What, error_answer, view_response
from registry.hub.upstream.addresses import Wanted, wanted
from registry.hub.upstream.client import MOST_PASSED_ON, PASSED_ON, Upstream

_CODE: Final = "X-Error-Code"
_GATED: Final = frozenset({"GatedRepo", "DisabledRepo"})
_SENT: Final = ("Range", "If-Range")
_KEPT: Final = (
    COMMIT, "ETag", "X-Linked-Etag", "X-Linked-Size", "Content-Length", "Content-Range", "Accept-Ranges",
)  # fmt: skip
_TRUSTED_BY_CLIENTS: Final = frozenset({"huggingface.co", "hf.co", "hub-ci.huggingface.co"})
"""Hosts to which clients send their token on redirects, whatever Hub they use; some also to other ports of its host."""
_MOST_SENTENCE: Final = 512
_CHUNK: Final = 1 << 18


class RepoRoute(HubRoute):
    """A route that reads a repo: of one that is not here, the other Hub is asked, where there is one."""

    async def refusal(self, request: Request, error: RegistryError) -> Response:
        if isinstance(error, MissingError) and error.what == "RepoNotFound":
            upstream: Upstream | None = getattr(request.app.state, "upstream", None)
            asked = None if upstream is None else wanted(request.method, request.scope["raw_path"])
            if upstream is not None and asked is not None and not await _is_private(request, asked):
                try:
                    return await _answer(request, upstream, asked)
                except RegistryError as failed:
                    error = failed
        return await super().refusal(request, error)


async def _is_private(request: Request, asked: Wanted) -> bool:
    database = service_of(request).registry.deployment.database

    def look() -> bool:
        with database.read() as session:
            return repo_ids.is_private(session, asked.repo_id)

    return await anyio.to_thread.run_sync(look)


async def _answer(request: Request, upstream: Upstream, asked: Wanted) -> Response:
    async with AsyncExitStack() as until:
        response = await until.enter_async_context(
            upstream.asking(
                request.method,
                asked.path,
                headers=_headers(request, asked),
                query="" if asked.is_file else request.url.query,
                body=await request.body() if request.method == "POST" else None,
            )
        )
        if response.status_code >= httpx.codes.BAD_REQUEST:
            return await _refusal(request, upstream, asked, response)
        if not asked.is_file:
            return await _metadata(request, upstream, response)
        if response.headers.get("content-encoding", "identity") != "identity":
            raise UnavailableError(f"{upstream.host} packs a file that was to be sent as it is.")
        if response.is_redirect:
            return Response(status_code=302, headers=_to_their_store(request, upstream, response))
        return _file(response, until.pop_all())


def _headers(request: Request, asked: Wanted) -> dict[str, str]:
    """What is sent: nothing of the client but the range, or what kind of document its body is."""
    passed = request.headers.get("via", "").count(PASSED_ON)
    if passed >= MOST_PASSED_ON:
        raise UnavailableError("REGISTRY_UPSTREAM leads in a circle: registries ask one another for the same repo.")
    found = {"Via": ", ".join([f"1.1 {PASSED_ON}"] * (passed + 1))}
    if asked.is_file:
        found["Accept-Encoding"] = "identity"
        found |= {name: request.headers[name] for name in _SENT if name in request.headers}
    elif request.method == "POST":
        found["Content-Type"] = request.headers.get("content-type", JSON)
    return found


async def _refusal(request: Request, upstream: Upstream, asked: Wanted, response: httpx.Response) -> Response:
    code, status = response.headers.get(_CODE, ""), response.status_code
    said = in_a_header(response.headers.get("x-error-message", ""))[:_MOST_SENTENCE]
    sentence = f"{upstream.host} has no such thing in {asked.repo_id}: {said or f'status {status}'}"
    if code in _GATED:
        told = problem(NotAllowedError(sentence), context_of(request.scope).request, status=403)
        return view_response(told, {_CODE: code})
    if status in {401, 403, 404}:
        known = code in get_args(What) and status == httpx.codes.NOT_FOUND
        if not known:
            sentence = f"Neither this registry nor {upstream.host} shows {asked.repo_id} without a token of that Hub."
        what = cast(What, code) if known else "RepoNotFound"
        return await error_answer(request, MissingError(sentence, what, commit=response.headers.get(COMMIT)))
    if status == httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE:
        return Response(status_code=status, headers=_kept(response))
    raise UnavailableError(
        f"{upstream.host}, which REGISTRY_UPSTREAM names, answers {status} to what is asked of {asked.repo_id}: "
        f"{said or 'it says no more'}"
    )


async def _metadata(request: Request, upstream: Upstream, response: httpx.Response) -> Response:
    if response.is_redirect or response.headers.get("content-type", "").partition(";")[0].strip() != JSON:
        raise UnavailableError(
            f"{upstream.host}, which REGISTRY_UPSTREAM names, answers with something that is no document of a Hub: "
            "the address of a Hub is expected."
        )
    headers = {COMMIT: response.headers[COMMIT]} if COMMIT in response.headers else {}
    if (following := response.links.get("next")) is not None:
        headers["Link"] = f'<{_here(request, upstream, str(following.get("url", "")))}>; rel="next"'
    body = b"" if request.method == "HEAD" else await upstream.metadata(response)
    return Response(body, status_code=200, headers=headers, media_type=JSON)


def _here(request: Request, upstream: Upstream, url: str) -> str:
    """The address of the next page at this service; a list that went on elsewhere would be cut."""
    below = url.removeprefix(upstream.url)
    if below == url or not below.startswith("/") or not below.isascii() or not below.isprintable() or ">" in below:
        raise UnavailableError(f"{upstream.host} has a list whose next page is not at {upstream.url}.")
    view = request.scope["raw_path"].decode("ascii", "replace").split("/")[1]
    return f"{address_of(request)}{prefix_of(request.app)}/{view}{below}"


def _to_their_store(request: Request, upstream: Upstream, response: httpx.Response) -> dict[str, str]:
    """The headers of a redirect to where the other Hub keeps a file."""
    target = response.headers["location"]
    found = urlsplit(target)
    if found.scheme not in {"http", "https"} or found.hostname in {*_TRUSTED_BY_CLIENTS, request.url.hostname}:
        raise UnavailableError(
            f"{upstream.host}, which REGISTRY_UPSTREAM names, leads to {found.netloc}, and clients would send their "
            "token there: set REGISTRY_UPSTREAM to that Hub itself, or give this registry a host name of its own."
        )
    kept = {name: value for name, value in _kept(response).items() if name != "Content-Length"}
    return {**kept, "Location": target, "Cache-Control": "no-store"}


def _kept(response: httpx.Response) -> dict[str, str]:
    return {name: in_a_header(response.headers[name]) for name in _KEPT if name in response.headers}


def _file(response: httpx.Response, until: AsyncExitStack) -> Response:
    """The bytes of a file, as they come. ``until`` is left when they are sent."""
    # Whatever kind of document it is at the other Hub, no browser shows it as one of this service.
    headers = {
        **_kept(response), "Content-Disposition": "attachment", "X-Content-Type-Options": "nosniff",
        "Cache-Control": "no-store",
    }  # fmt: skip
    return StreamingResponse(
        _pieces(response, until), status_code=response.status_code, headers=headers, media_type=OCTETS
    )


async def _pieces(response: httpx.Response, until: AsyncExitStack) -> AsyncIterator[bytes]:
    try:
        async for chunk in response.aiter_raw(_CHUNK):
            yield chunk
    except httpx.HTTPError as error:
        raise ResponseAbortedError(f"A response was aborted: the other Hub's broke off ({error}).", 502) from error
    finally:
        with anyio.CancelScope(shield=True):
            await until.aclose()
