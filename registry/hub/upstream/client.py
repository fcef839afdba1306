"""Requests to the other Hub: without a token and without cookies, to its origin alone.

A connection is made for each request, so nothing of one is known to the next.
"""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from functools import cached_property
from typing import Final
from urllib.parse import urljoin, urlsplit

import anyio
import httpx

from registry.errors import UnavailableError
from registry.http.request.limits import MIB
from registry.version import __version__

PASSED_ON: Final = "adapter-registry"
MOST_PASSED_ON: Final = 3
"""So many registries may ask one another; more are a circle."""
MOST_METADATA: Final = 32 * MIB
"""Bytes of an answer that is no file."""

_AT_ONCE: Final = 64
_WAIT: Final = 5.0  # seconds for a turn
_DEADLINE: Final = 20.0  # for metadata; clients give up a HEAD after 10 s
_HOPS: Final = 5
_OURS: Final = {"User-Agent": f"{PASSED_ON}/{__version__}", "Accept": "application/json, */*;q=0.5"}
_TIMEOUT: Final = httpx.Timeout(connect=5, read=9, write=9, pool=5)
_MOVED: Final = frozenset({301, 302, 303, 307, 308})


class Upstream:
    """The Hub at an address."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        self.host = urlsplit(url).netloc
        """How messages name it."""
        self._slots = anyio.CapacityLimiter(_AT_ONCE)

    @cached_property
    def _tls(self) -> ssl.SSLContext:
        return httpx.create_ssl_context()

    def is_own(self, url: str) -> bool:
        """Whether an address is at its origin."""
        return _origin(url) == _origin(self.url)

    @asynccontextmanager
    async def asking(
        self, method: str, path: str, *, headers: Mapping[str, str], query: str = "", body: bytes | None = None
    ) -> AsyncIterator[httpx.Response]:
        """Its answer to a request, whose body is not read yet. Redirects to its own origin are followed.

        Raises:
            UnavailableError: it can't be reached, does not answer in time, or leads in a circle.
        """
        url = f"{self.url}{path}" + (f"?{query}" if query else "")
        async with AsyncExitStack() as until:
            with self._told():
                with anyio.fail_after(_WAIT):
                    await self._slots.acquire_on_behalf_of(until)
                until.callback(self._slots.release_on_behalf_of, until)
                client = await until.enter_async_context(httpx.AsyncClient(verify=self._tls, timeout=_TIMEOUT))
                with anyio.fail_after(_DEADLINE):
                    response = await self._answer(client, method, url, headers, body)
            until.push_async_callback(response.aclose)
            yield response

    async def _answer(
        self, client: httpx.AsyncClient, method: str, url: str, headers: Mapping[str, str], body: bytes | None
    ) -> httpx.Response:
        for _ in range(_HOPS):
            client.cookies.clear()
            request = client.build_request(method, url, headers=_OURS | dict(headers), content=body)
            response = await client.send(request, stream=True)
            target = response.headers.get("location")
            if response.status_code not in _MOVED or not target or not self.is_own(urljoin(url, target)):
                return response
            await response.aclose()
            url = urljoin(url, target)
        raise UnavailableError(f"{self.host}, which REGISTRY_UPSTREAM names, redirects in a circle.")

    async def metadata(self, response: httpx.Response) -> bytes:
        """The body of an answer that is no file.

        Raises:
            UnavailableError: it breaks off, comes too slowly, or is too large.
        """
        found = bytearray()
        with self._told(), anyio.fail_after(_DEADLINE):
            async for chunk in response.aiter_bytes():
                found += chunk
                if len(found) > MOST_METADATA:
                    raise UnavailableError(
                        f"The answer of {self.host} has more than {MOST_METADATA} bytes, which is too large for "
                        "metadata."
                    )
        return bytes(found)

    def _told(self) -> _Told:
        return _Told(self.host)


class _Told:
    """Maps what goes wrong on the way to errors that name the Hub."""

    def __init__(self, host: str) -> None:
        self._host = host

    def __enter__(self) -> None:
        """Nothing to begin."""

    def __exit__(self, _kind: type[BaseException] | None, error: BaseException | None, _trace: object) -> None:
        asked = f"{self._host}, which REGISTRY_UPSTREAM names,"
        if isinstance(error, TimeoutError | httpx.TimeoutException):
            raise UnavailableError(f"{asked} did not answer in time: try again later.") from error
        if isinstance(error, httpx.HTTPError | httpx.InvalidURL):
            why = str(error) or type(error).__name__
            raise UnavailableError(f"{asked} can't be reached from the registry: {why}.") from error


def _origin(url: str) -> tuple[str, str | None, int | None]:
    found = urlsplit(url)
    return found.scheme, found.hostname, found.port or {"http": 80, "https": 443}.get(found.scheme)
