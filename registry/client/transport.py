"""Requests to a registry: who is asked gets the token, what is safe is tried again, and every answer is checked.

The token goes to the registry's own origin and nowhere else: stores are reached by presigned URLs, and a redirect to
another host is followed without it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cached_property
from typing import Any, Final, TypeVar

import httpx
from pydantic import BaseModel, ValidationError

from registry.client.address import Address
from registry.client.environment import open_client
from registry.client.patience import Attempts, Patience, retry_after
from registry.client.problems import (
    PROXY_STATUSES,
    UNSENT,
    error_of,
    hub_view,
    lasting,
    passes,
    read_problem,
    stranger,
    unreachable,
    unreadable,
)
from registry.errors import RegistryError, UnavailableError, UsageError
from registry.schemas import Schema
from registry.version import __version__
from registry.wire import API

LANES: Final = 8
"""Files or parts that travel at once."""

Params = Mapping[str, str | int | float | bool | None]
Answer = TypeVar("Answer", bound=BaseModel)


class Transport:
    """Connections to one registry. Safe for many threads."""

    def __init__(self, url: str, token: str | None, patience: Patience | None = None) -> None:
        self.address = Address.parse(url)
        self.url = self.address.url
        self.patience = patience or Patience()
        self._headers = {"User-Agent": f"adapter-registry/{__version__}"}
        self._token = None if token is None else _checked(token)
        self._known = False
        self.over = threading.Event()
        """Set when this is closed: what is under way on other threads ends at its next piece."""
        limits = httpx.Limits(max_connections=2 * LANES, max_keepalive_connections=LANES)
        self._http = open_client(
            timeout=self.patience.timeout(), limits=limits, headers=self._headers, follow_redirects=False
        )

    @cached_property
    def lanes(self) -> ThreadPoolExecutor:
        """The threads that files and parts travel on, shared by everything that is under way."""
        return ThreadPoolExecutor(LANES, thread_name_prefix="transfer")

    def attempts(self) -> Attempts:
        """Begin a request that may be tried again."""
        return self.patience.attempts(known=self._known, over=self.over)

    def get(self, route: str, kind: type[Answer], /, *, slow: bool = False, **params: Any) -> Answer:
        """Ask for a document."""
        return self.read(self.call("GET", route, params=params, slow=slow), kind)

    def send(
        self,
        method: str,
        route: str,
        kind: type[Answer],
        body: Schema | None = None,
        /,
        *,
        again: bool = True,
        slow: bool = False,
        **params: Any,
    ) -> Answer:
        """Change something; ``again``: doing it twice is the same as once."""
        return self.read(self.call(method, route, params=params, body=body, again=again, slow=slow), kind)

    def read(self, response: httpx.Response, kind: type[Answer]) -> Answer:
        """The document of an answer."""
        try:
            return kind.model_validate_json(response.content)
        except ValidationError as problem:
            raise unreadable(self.url, response, problem) from problem

    def call(
        self,
        method: str,
        route: str,
        *,
        params: Params | None = None,
        body: Schema | None = None,
        again: bool = True,
        slow: bool = False,
    ) -> httpx.Response:
        """One request to the API, answered; raises the error that the service, or its absence, is."""
        content = None if body is None else body.model_dump_json().encode("utf-8")
        request = self._http.build_request(
            method,
            self.url + API + route,
            params=_query(params or {}),
            content=content,
            headers=self.authorised(self.url) | ({} if content is None else {"Content-Type": "application/json"}),
            timeout=self.patience.timeout(slow=slow),
        )
        attempts = self.attempts()
        while True:
            try:
                response = self._http.send(request)
            except httpx.HTTPError as problem:
                harmless = again or isinstance(problem, UNSENT)
                if harmless and not lasting(problem) and attempts.wait():
                    continue
                raise unreachable(self.url, problem) from problem
            error, pause, may_pass = self.fault(response)
            if error is None:
                return response
            if self._known:
                attempts.answered()
            # 429 is said before anything is done; the others may come from a proxy that lost the service's answer.
            if not (may_pass and (again or response.status_code == 429) and attempts.wait(pause)):
                raise error

    def fault(self, response: httpx.Response) -> tuple[RegistryError | None, float | None, bool]:
        """What is wrong with an answer of the service: the error, when to try again, whether that may help."""
        alien = stranger(self.url, response)
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
        return error_of(problem), retry_after(response.headers), passes(problem)

    def authorised(self, url: str) -> dict[str, str]:
        """The headers that show who asks, where ``url`` is the registry's own."""
        if self._token is None or not self.address.is_origin_of(url):
            return {}
        return {"Authorization": f"Bearer {self._token}"}

    @contextmanager
    def stream(self, url: str, headers: Mapping[str, str], params: Params | None = None) -> Iterator[httpx.Response]:
        """A GET whose body is read piece by piece, from the registry or a store; raises what httpx raises."""
        request = self._http.build_request(
            "GET",
            url,
            params=_query(params) if params is not None else None,
            headers={"Accept-Encoding": "identity", **headers, **self.authorised(url)},
        )
        response = self._http.send(request, stream=True)
        try:
            yield response
        finally:
            response.close()

    def put(self, url: str, chunks: Callable[[], Iterator[bytes]], length: int) -> httpx.Response:
        """Send one body of known length, to the registry or a store; raises what httpx raises."""
        headers = {"Content-Length": str(length), **self.authorised(url)}
        return self._http.put(url, content=chunks() if length else b"", headers=headers)

    def close(self) -> None:
        """Release the connections and the threads."""
        self.over.set()
        if "lanes" in self.__dict__:
            self.lanes.shutdown(wait=True, cancel_futures=True)
        self._http.close()


def _query(params: Params) -> dict[str, str]:
    """The parameters that are given, as text; raises `UsageError` for what has no UTF-8 form."""
    said = {}
    for name, value in params.items():
        if value is None or value is False:
            continue
        text = "true" if value is True else str(value)
        if any("\ud800" <= letter <= "\udfff" for letter in text):
            raise UsageError(f"{name} holds a broken character: plain text is expected.")
        said[name] = text
    return said


def _checked(token: str) -> str:
    """A token that fits into a header."""
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        raise UsageError("The token is malformed: the secret that `registry token create` printed is expected.")
    return token
