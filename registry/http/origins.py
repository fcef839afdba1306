"""Addresses of this service, and the guard before all routes against what browsers send for pages of other sites.

Addresses come from settings or the socket, never from a Host header.

A page of any site can have the browser of whoever looks at it send a request here, with a body of its choice, and
if no token is required, that would be enough to publish. Browsers say so, in headers that no page can set or leave
out: `Origin`, and `Sec-Fetch-Site` if the address counts as trustworthy, such as that of this machine. Programs
send neither. Who authenticates by a header is no such page: a browser asks before it sends that, and is not allowed to
(decision 67).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote, urlsplit

from fastapi import Request

from registry.errors import CROSS_SITE, NotAllowedError
from registry.http.context import App, Receive, Scope, Send, context_of, header
from registry.http.errors import Refused, problem, problem_response
from registry.http.limits import is_part

TREE: Final = "/tree"
"""Where the pages of base models, adapters and revisions are: no name is ``tree``."""


def public_address(request: Request) -> str:
    """The address that users reach the service by: ``REGISTRY_PUBLIC_URL``, or where the connection came in."""
    given: str | None = request.app.state.public_url
    if given is not None:
        return given
    return http_address(*request.scope["server"])


def http_address(host: str, port: int) -> str:
    """The URL of an address of this machine."""
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def host_of(address: str) -> str:
    """The name or number of a machine in a Host header, without the port."""
    try:
        return urlsplit(f"//{address}").hostname or ""
    except ValueError:
        return ""


def is_loopback(host: str) -> bool:
    """Whether a host name or an address is a loopback one."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def prefix_of(app: Any) -> str:
    """The path before all addresses of the service, as users know it: that of a proxy which removes it."""
    return urlsplit(app.state.public_url or "").path.rstrip("/")


def page_path(reference: str) -> str:
    """The page of a base model, an adapter or a revision, below the prefix."""
    return f"{TREE}/{quote(reference, safe='/@:')}"


_READING: Final = frozenset({"GET", "HEAD", "OPTIONS"})
_OWN_SITES: Final = frozenset({"same-origin", "none"})  # none: requested by the person, not a page
_LOOPBACK: Final = ("localhost", "127.0.0.1", "[::1]")
_PORTS: Final = {"http": 80, "https": 443}
_BEARER: Final = b"bearer "
_SHOWN: Final = 128  # characters of an address or origin in a sentence


@dataclass(frozen=True)
class SecretAddress:
    """Requests whose address is a secret, which no page of another site knows."""

    method: str
    is_one: Callable[[str], bool]  # of a path
    why: str


SECRET_ADDRESSES: Final = (
    SecretAddress(
        "PUT",
        is_part,
        "A part of a push by LFS: its address has the upload's id, 122 random bits that only who began it was told. "
        "Clients of LFS send no token with it, whatever store the address leads to.",
    ),
)
"""What is taken whatever page it comes from."""


class OriginGuard:
    """Middleware that refuses what a page of another site would change; ``refused`` gets the denials."""

    def __init__(self, app: App, refused: Refused) -> None:
        self._app = app
        self._refused = refused

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] in _READING or _is_free(scope):
            await self._app(scope, receive, send)
            return
        request = Request(scope)
        try:
            require_own_page(request)
        except NotAllowedError as error:
            await self._refused(request, error)
            response = problem_response(problem(error, context_of(scope).request))
            await response(scope, receive, send)
            return
        await self._app(scope, receive, send)


def _is_free(scope: Scope) -> bool:
    """Whether the request shows something that no page of another site can have: a token, or a secret address."""
    shown = header(scope, b"authorization") or b""
    if shown[: len(_BEARER)].lower() == _BEARER:
        return True
    return any(one.method == scope["method"] and one.is_one(scope["path"]) for one in SECRET_ADDRESSES)


def require_own_page(request: Request) -> None:
    """Refuse what a browser sends for a page that is not of this registry.

    Raises:
        NotAllowedError: ``cross_site``.
    """
    page = foreign_page(request)
    if page is not None:
        raise NotAllowedError(
            f"{request.method} {request.scope['path'][:_SHOWN]!a} was sent from {page}, and a browser may change "
            "something here for this registry's own pages only: open its page and do it there, or use a program. "
            "Behind a proxy, REGISTRY_PUBLIC_URL has to be the address that the browser shows.",
            code=CROSS_SITE,
        )


def foreign_page(request: Request) -> str | None:
    """What a browser reports of the page that it sends a request for, if not one of ours; None: nothing like that."""
    origins = request.headers.getlist("origin")
    if origins:
        own = own_origins(request)
        for origin in origins:
            if origin not in own:
                return "a page that hides its address" if origin == "null" else f"the page {origin[:_SHOWN]!a}"
    for site in request.headers.getlist("sec-fetch-site"):
        if site not in _OWN_SITES:
            return f"another site (Sec-Fetch-Site: {site[:32]!a})"
    return None


def own_origins(request: Request) -> frozenset[str]:
    """Where our own pages come from: the public address, and the one that this browser used.

    Of this machine it is the same under each of its names. That a browser used an address proves nothing where names
    may be led here by others: `registry.http.access.Access` looks at the name if no token is required.
    """
    scheme, address = request.scope["scheme"], request.headers.get("host", "")
    used = _origin(scheme, address)
    found = {used, _origin(*public_address(request).split("://", 1))}
    if used is not None and is_loopback(host_of(address)):
        port = used.removeprefix(f"{scheme}://").rpartition("]")[2].partition(":")[2]
        found |= {f"{scheme}://{name}{':' if port else ''}{port}" for name in _LOOPBACK}
    return frozenset(one for one in found if one is not None)


def _origin(scheme: str, address: str) -> str | None:
    """An origin as browsers write it, of an address with or without a path; None if it is none."""
    try:
        parts = urlsplit(f"//{address}")
        port = parts.port
    except ValueError:
        return None
    if not parts.hostname:
        return None
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"{scheme}://{host}" + ("" if port is None or port == _PORTS.get(scheme) else f":{port}")
