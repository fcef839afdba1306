"""HTTP transport: authentication, retries of idempotent requests, validated responses.

The token is sent to the registry's own origin only: stores are reached by presigned URLs, and a redirect to another
host is followed without it.

An HTTP client configured by the environment: proxies and certificate authorities.

httpx reads these variables itself; what it can't use is reported with the name of the variable. Values of proxies are
redacted: they may hold a password.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, Final, TypeVar
from urllib.request import getproxies

import httpx
from pydantic import TypeAdapter, ValidationError

from registry.client.addresses import Address
from registry.client.direct import DirectTransport
from registry.client.errors import (
    PROXY_STATUSES,
    UNSENT,
    Attempts,
    RetryPolicy,
    error_of,
    foreign_answer,
    hub_view,
    is_permanent,
    is_transient,
    read_problem,
    retry_after,
    unreachable,
    unreadable,
)
from registry.errors import RegistryError, UnavailableError, UsageError
from registry.folders.local_files import reason
from registry.schemas import Schema
from registry.schemas.protocol import AGENT, API, EVENT_STREAM, PROTOCOL, PROTOCOL_HEADER, USE_HEADER, hub_form
from registry.schemas.transfer import ArtifactPlan, Bundle
from registry.schemas.usage import Interface
from registry.version import __version__

_PROXIES: Final = ("http_proxy", "https_proxy", "all_proxy")


def open_client(**settings: Any) -> httpx.Client:
    """An httpx client; ``settings`` are its arguments.

    Raises:
        UsageError: a variable that names proxies, or certificates, can't be used.
        UnavailableError: ``missing_package``, the package for such a proxy is not installed.
    """
    try:
        return httpx.Client(**settings)
    except ImportError as problem:
        raise _socks() from problem
    except OSError as problem:
        raise _certificates(problem) from problem
    except (httpx.InvalidURL, ValueError) as problem:
        raise _proxy() from problem


def names_proxies() -> bool:
    """Whether a proxy is configured for some addresses; httpx decides for which."""
    return any(getproxies().get(scheme) for scheme in ("http", "https", "all"))


def _socks() -> RegistryError:
    name = next((name for name, value in _given(*_PROXIES) if value.lower().startswith("socks")), "ALL_PROXY")
    return UnavailableError(
        f"{name} names a SOCKS proxy, and the package socksio, which is needed for it, is not installed here; install "
        "it, or name an HTTP proxy.",
        code="missing_package",
    )


def _certificates(problem: OSError) -> RegistryError:
    name = next((name for name in ("SSL_CERT_FILE", "SSL_CERT_DIR") if os.environ.get(name)), "SSL_CERT_FILE")
    value = os.environ.get(name, "")
    return UsageError(
        f"{name} is {value!r}, which holds no certificates that can be read ({reason(problem)}); the "
        "authorities to trust, as PEM, are expected."
    )


def _proxy() -> RegistryError:
    for name, value in _given(*_PROXIES):
        try:
            httpx.Proxy(value if "://" in value else f"http://{value}")
        except (httpx.InvalidURL, ValueError):
            return UsageError(f"{name} is not the address of a proxy; http://HOST:PORT is expected.")
    name, _ = next(_given("no_proxy"), ("NO_PROXY", ""))
    return UsageError(
        f"{name} has an entry that can't be read; names, IPv4 addresses and networks, and IPv6 addresses without "
        "brackets are expected, with commas between them; IPv6 networks are not supported."
    )


def _given(*names: str) -> Iterator[tuple[str, str]]:
    """The set variables of these names, in any case, with their values."""
    return ((name, value) for name, value in os.environ.items() if name.lower() in names and value)


LANES: Final = 8
"""Concurrent transfers of files or parts."""

_ASKED_WITHIN: Final = 3.0  # seconds

EXACT: Final = (Bundle, ArtifactPlan)
"""Answers by which weights are made and described: an unknown field may mean other weights, so it is refused."""

Params = Mapping[str, str | int | float | bool | None]
Answer = TypeVar("Answer")


class Transport:
    """Connections to one registry. Thread-safe."""

    def __init__(
        self, url: str, token: str | None, retry: RetryPolicy | None = None, interface: Interface = "fetch"
    ) -> None:
        self.address = Address.parse(url)
        self.url = self.address.url
        self.retry = retry or RetryPolicy()
        self.interface = interface
        """The interface that weights are requested through."""
        self._headers = {"User-Agent": f"{AGENT}{__version__}"}
        self._token = None if token is None else _checked(token)
        self._known = False
        self.over = threading.Event()
        """Set on close: transfers on other threads end at their next piece."""
        self.lanes = ThreadPoolExecutor(LANES, thread_name_prefix="transfer")
        """The worker pool of transfers. It starts threads on demand, none before the first work."""
        limits = httpx.Limits(max_connections=2 * LANES, max_keepalive_connections=LANES)
        common: dict[str, Any] = {
            "timeout": self.retry.timeout(),
            "headers": self._headers,
            "follow_redirects": False,
        }
        self._http = open_client(limits=limits, **common)
        self._downloads = (
            self._http if names_proxies() else open_client(transport=DirectTransport(keep=LANES), **common)
        )

    def attempts(self) -> Attempts:
        """Begin a request that may be retried."""
        return self.retry.attempts(known=self._known, over=self.over)

    def get(
        self, route: str, kind: type[Answer], /, *, slow: bool = False, use: str | None = None, **params: Any
    ) -> Answer:
        """GET a document; ``use`` names the use of weights that it begins, see `USE_HEADER`."""
        return self.read(self.call("GET", route, params=params, slow=slow, use=use), kind)

    def send(
        self,
        method: str,
        route: str,
        kind: type[Answer],
        body: Schema | None = None,
        /,
        *,
        idempotent: bool = True,
        slow: bool = False,
        **params: Any,
    ) -> Answer:
        """Request a change; ``idempotent`` ones are retried."""
        return self.read(self.call(method, route, params=params, body=body, idempotent=idempotent, slow=slow), kind)

    def read(self, response: httpx.Response, kind: type[Answer]) -> Answer:
        """Validate the document of a response; fields that a newer service added are ignored, except in `EXACT`."""
        try:
            adapter: TypeAdapter[Answer] = TypeAdapter(kind)
            return adapter.validate_json(response.content, extra="forbid" if kind in EXACT else "ignore")
        except ValidationError as problem:
            raise unreadable(self.url, response, problem) from problem

    def call(
        self,
        method: str,
        route: str,
        *,
        params: Params | None = None,
        body: Schema | None = None,
        idempotent: bool = True,
        slow: bool = False,
        use: str | None = None,
    ) -> httpx.Response:
        """One API request with retries; raises the service's error, or `UnavailableError` if it sent none."""
        content = None if body is None else body.model_dump_json(exclude_defaults=True).encode("utf-8")
        request = self._http.build_request(
            method,
            self.url + API + route,
            params=_query(params or {}),
            content=content,
            headers=self.own_headers(self.url)
            | ({} if content is None else {"Content-Type": "application/json"})
            | ({} if use is None else {USE_HEADER: use}),
            timeout=self.retry.timeout(slow=slow),
        )
        attempts = self.attempts()
        while True:
            response = self._sent(request, attempts, idempotent=idempotent)
            error, pause, may_pass = self.failure(response)
            if error is None:
                return response
            if self._known:
                attempts.answered()
            # 429 is sent before anything is done; the others may come from a proxy that lost the service's response.
            if not (may_pass and (idempotent or response.status_code == 429) and attempts.wait(pause)):
                raise error

    def _sent(self, request: httpx.Request, attempts: Attempts, *, idempotent: bool = True) -> httpx.Response:
        """The response, whatever its content; raises `UnavailableError` if nothing answers."""
        while True:
            try:
                return self._http.send(request)
            except httpx.HTTPError as problem:
                harmless = idempotent or isinstance(problem, UNSENT)
                if harmless and not is_permanent(problem) and attempts.wait():
                    continue
                raise unreachable(self.url, problem) from problem

    def reach(self) -> None:
        """Check that something answers at the address; the first call reuses the connection.

        The response is not examined: a proxy may forward the API's routes alone.
        """
        self._sent(self._http.build_request("GET", f"{self.url}/healthz"), self.attempts())

    def failure(self, response: httpx.Response) -> tuple[RegistryError | None, float | None, bool]:
        """The error of a response, the pause before a retry, and whether a retry may help."""
        alien = foreign_answer(self.url, response)
        if alien is not None:
            return alien, retry_after(response.headers), alien.code == "unavailable"
        self._known = True
        if response.status_code < 300:
            return None, None, False
        problem = read_problem(response)
        if problem is None and (view := hub_view(self.address)) is not None:
            return view, None, False
        if problem is None:
            sentence = f"The registry at {self.url} answers HTTP {response.status_code} and does not say why."
            return UnavailableError(sentence), retry_after(response.headers), response.status_code in PROXY_STATUSES
        return error_of(problem), retry_after(response.headers), is_transient(problem)

    def own_headers(self, url: str) -> dict[str, str]:
        """Headers for the registry alone, empty if ``url`` is of another origin: the protocol, and the token."""
        if not self.address.is_origin_of(url):
            return {}
        headers = {PROTOCOL_HEADER: str(PROTOCOL)}
        return headers if self._token is None else headers | {"Authorization": f"Bearer {self._token}"}

    @contextmanager
    def stream(self, url: str, headers: Mapping[str, str], params: Params | None = None) -> Iterator[httpx.Response]:
        """GET a stream from the registry or a store, for `reading`; raises what httpx raises."""
        request = self._downloads.build_request(
            "GET",
            url,
            params=_query(params) if params is not None else None,
            headers={"Accept-Encoding": "identity", **headers, **self.own_headers(url)},
        )
        response = self._downloads.send(request, stream=True)
        try:
            yield response
        finally:
            response.close()

    def listen(self, route: str, params: Params) -> httpx.Response:
        """GET events that are sent as they come; close the response.

        Raises:
            RegistryError: the service's, or `UnavailableError` if nothing that sends events answers.
        """
        own = {"Accept": EVENT_STREAM, "Accept-Encoding": "identity", **self.own_headers(self.url)}
        request = self._http.build_request("GET", self.url + API + route, params=_query(params), headers=own)
        try:
            response = self._http.send(request, stream=True)
            if response.headers.get("content-type", "").startswith(EVENT_STREAM):
                return response
            response.read()
        except httpx.HTTPError as problem:
            raise unreachable(self.url, problem) from problem
        error, _, _ = self.failure(response)
        raise error or UnavailableError(
            f"{self.url} answers with {response.headers.get('content-type')!r} where events are expected; check "
            "whether a proxy answers in its place.",
            code="not_a_registry",
        )

    def put(self, url: str, chunks: Callable[[], Iterator[bytes]], length: int) -> httpx.Response:
        """PUT a body of known length to the registry or a store; raises what httpx raises."""
        headers = {"Content-Length": str(length), **self.own_headers(url)}
        return self._http.put(url, content=chunks() if length else b"", headers=headers)

    def close(self) -> None:
        """Release connections and threads."""
        self.over.set()
        self.lanes.shutdown(wait=True, cancel_futures=True)
        self._http.close()
        self._downloads.close()


def for_hub_clients(url: str, token: str) -> str:
    """A token in the form that all Hub clients send, unless the service at ``url`` knows only the older form.

    Clients are upgraded before services, and an older service accepts ``reg_...`` alone. A service that can't be
    reached now is assumed not to be older.
    """
    form = hub_form(token)
    headers = {PROTOCOL_HEADER: str(PROTOCOL), "Authorization": f"Bearer {_checked(form)}"}
    try:
        with open_client(timeout=_ASKED_WITHIN, follow_redirects=False) as http:
            status = http.get(f"{Address.parse(url).url}{API}/whoami", headers=headers).status_code
    except (httpx.HTTPError, RegistryError):
        return form
    return token if status == httpx.codes.UNAUTHORIZED else form


def _query(params: Params) -> dict[str, str]:
    """Query parameters as text; raises `UsageError` for what has no UTF-8 form."""
    said = {}
    for name, value in params.items():
        if value is None or value is False:
            continue
        text = "true" if value is True else str(value)
        if any("\ud800" <= letter <= "\udfff" for letter in text):
            raise UsageError(f"{name} contains an invalid character: plain text is expected.")
        said[name] = text
    return said


def _checked(token: str) -> str:
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        raise UsageError("The token is malformed: the secret that `registry token create` printed is expected.")
    return token
