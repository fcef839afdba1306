"""The guard of all outgoing requests: each is bounded, and goes where it was judged that it may go.

Other machines may be slow, broken or hostile, and their answers are often requested by whoever has a token. So a name
is looked up once for a request and once more for each redirect, and the connection goes to the address that was judged,
not to what the name means a moment later. Nothing is unpacked, nothing of one request is known to the next, and one
principal does not take all turns.
"""

from __future__ import annotations

import re
import socket
import ssl
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Final
from urllib.parse import urljoin

import anyio
import httpx

from registry.errors import RegistryError, UnavailableError
from registry.outgoing.networks import ClosedError, Networks, Target, proxy_for, target_of

_AT_ONCE: Final = 64
_OF_ONE: Final = 16  # principals; twice what clients do at once by default
_WAIT: Final = 5.0  # seconds for a turn
_HOPS: Final = 5
_TIMEOUT: Final = httpx.Timeout(connect=5, read=9, write=9, pool=5)
_MOVED: Final = frozenset({301, 302, 303, 307, 308})
_PLAIN: Final = frozenset({"", "identity"})
_ABSOLUTE: Final = re.compile("https?://", re.IGNORECASE)
_MOST_WHY: Final = 200  # characters


@dataclass(frozen=True)
class Bounds:
    """Limits of one request; sizes in bytes, times in seconds."""

    size: int  # of the body that is read
    head: float  # until the head of the answer is here; looking up, connecting and redirects included
    total: float  # until all of it is read
    grace: float = 20.0  # a body may take this long, and longer at `rate` bytes a second; only waiting for it counts
    rate: float = 64 << 10


class Guard:
    """Asks one machine, or several of one kind, for a service.

    Args:
        asked: how messages begin, such as "hub.example, which REGISTRY_UPSTREAM names,".
        networks: which addresses may be queried.
    """

    def __init__(self, asked: str, networks: Networks) -> None:
        self.asked = asked
        self._networks = networks
        self._turns = anyio.CapacityLimiter(_AT_ONCE)
        self._turns_of: dict[str, anyio.CapacityLimiter] = {}

    @cached_property
    def _tls(self) -> ssl.SSLContext:
        try:
            return httpx.create_ssl_context()
        except OSError as error:
            raise UnavailableError(
                f"{self.asked} can't be asked: the registry can't read the certificates that SSL_CERT_FILE or "
                "SSL_CERT_DIR names."
            ) from error

    @property
    def under_way(self) -> int:
        """How many requests have their turn."""
        return self._turns.statistics().borrowed_tokens

    @asynccontextmanager
    async def asking(
        self,
        method: str,
        url: str,
        *,
        who: str,
        bounds: Bounds,
        headers: Mapping[str, str],
        body: bytes | None = None,
        follows: Callable[[Target], bool] = lambda _: False,
    ) -> AsyncIterator[Answer]:
        """The answer to a request, whose body is not read yet.

        Args:
            method: of HTTP.
            url: where.
            who: the principal that requests it; each has a share of the turns.
            bounds: what is borne.
            headers: of the request; ``Accept-Encoding`` is always ``identity``.
            body: of the request.
            follows: whether a redirect to a target is followed; no other is.

        Raises:
            UnavailableError: no turn is free, it must not be queried, is unreachable, does not answer in time or not as
                it has to.
        """
        until_time = time.monotonic() + bounds.total
        async with AsyncExitStack() as until:
            await self._turn(until, who)
            with self.told():
                with anyio.fail_after(bounds.head):
                    response = await self._answer(until, method, url, headers, body, follows)
                found = Answer(self, response, bounds, until_time)
                found.check()
            yield found

    async def _turn(self, until: AsyncExitStack, who: str) -> None:
        own = self._turns_of.setdefault(who, anyio.CapacityLimiter(_OF_ONE))
        until.callback(self._leave, until, who, own)
        try:
            with anyio.fail_after(_WAIT):
                await own.acquire_on_behalf_of(until)
                await self._turns.acquire_on_behalf_of(until)
        except TimeoutError:
            full = "The registry has" if until in own.statistics().borrowers else "This token has"
            raise UnavailableError(
                f"{full} too many requests to {self.asked} under way, and none ended in time: try again later.",
                code="busy",
            ) from None

    def _leave(self, holder: object, who: str, own: anyio.CapacityLimiter) -> None:
        for turns in (self._turns, own):
            if holder in turns.statistics().borrowers:
                turns.release_on_behalf_of(holder)
        if not own.borrowed_tokens and not own.statistics().tasks_waiting:
            self._turns_of.pop(who, None)

    async def _answer(
        self,
        until: AsyncExitStack,
        method: str,
        url: str,
        headers: Mapping[str, str],
        body: bytes | None,
        follows: Callable[[Target], bool],
    ) -> httpx.Response:
        for _ in range(_HOPS):
            target = target_of(url)
            async with AsyncExitStack() as hop:
                response = await self._sent(hop, method, target, headers, body)
                place = response.headers.get("location")
                moves = response.status_code in _MOVED and bool(place)
                if moves:
                    url = response.headers["location"] = self._place(target, place)
                if not moves or not follows(target_of(url)):
                    until.push_async_exit(hop.pop_all())
                    return response
        raise UnavailableError(f"{self.asked} redirects in a circle.")

    def _place(self, target: Target, place: str) -> str:
        """Where a redirect leads: as it stands, since a signature may cover its letters, but absolute."""
        if not place.isascii() or not place.isprintable():
            raise UnavailableError(f"{self.asked} leads to an address with letters that none has.")
        try:
            place = place if _ABSOLUTE.match(place) else urljoin(str(target.url), place)
            target_of(place)
        except ValueError as error:
            raise UnavailableError(f"{self.asked} leads to an address that can't be asked: {error}.") from error
        return place

    async def _sent(
        self, hop: AsyncExitStack, method: str, target: Target, headers: Mapping[str, str], body: bytes | None
    ) -> httpx.Response:
        proxy = proxy_for(target)
        if proxy is not None:
            self._networks.check_behind_proxy(target)
            return await self._over(hop, proxy, self._request(method, target, headers, body, target.host))
        addresses = await self._networks.addresses(target)
        while True:
            request = self._request(method, target, headers, body, addresses.pop(0))
            try:
                return await self._over(hop, None, request)
            except (httpx.ConnectError, httpx.ConnectTimeout):
                if not addresses:
                    raise

    def _request(
        self, method: str, target: Target, headers: Mapping[str, str], body: bytes | None, host: str
    ) -> httpx.Request:
        """A request to ``host``, the address that was judged, for the name that the target has."""
        every = {**headers, "Host": target.netloc, "Accept-Encoding": "identity"}
        extensions = {"sni_hostname": target.host, "timeout": _TIMEOUT.as_dict()}
        return httpx.Request(
            method, target.url.copy_with(host=host), headers=every, content=body, extensions=extensions
        )

    async def _over(self, hop: AsyncExitStack, proxy: str | None, request: httpx.Request) -> httpx.Response:
        try:
            transport = httpx.AsyncHTTPTransport(verify=self._tls, trust_env=False, proxy=proxy)
        except (ValueError, ImportError, httpx.InvalidURL) as error:  # not with its text, which may hold a password
            raise UnavailableError(
                f"{self.asked} can't be reached from the registry: the proxy that its environment names can't be used."
            ) from error
        async with AsyncExitStack() as until:
            await until.enter_async_context(transport)
            response = await transport.handle_async_request(request)
            until.push_async_callback(response.aclose)
            hop.push_async_exit(until.pop_all())
        return response

    @contextmanager
    def told(self) -> Iterator[None]:
        """Map what goes wrong on the way to errors that name who was queried."""
        try:
            yield
        except RegistryError:
            raise
        except (TimeoutError, httpx.TimeoutException) as error:
            raise UnavailableError(f"{self.asked} did not answer in time: try again later.") from error
        except ClosedError as error:
            raise self._closed(error) from error
        except (httpx.HTTPError, OSError) as error:
            named = "its name is not known" if isinstance(error, socket.gaierror) else str(error)
            why = named or type(error).__name__
            raise UnavailableError(f"{self.asked} can't be reached from the registry: {why[:_MOST_WHY]}.") from error

    def _closed(self, error: ClosedError) -> UnavailableError:
        """Whoever asks learns no address of the operator's network; the log has it."""
        found = UnavailableError(
            f"{self.asked} may not be asked: {error}, which is no public address. If that is meant, list it in "
            "REGISTRY_OUTGOING_NETWORKS."
        )
        found.outside = (
            f"{self.asked} may not be asked, because its address is not a public one: an operator finds it in the log, "
            "and lists it in REGISTRY_OUTGOING_NETWORKS if it is meant."
        )
        return found


class Answer:
    """An answer, whose body is read once, by `pieces` or `read`."""

    def __init__(self, guard: Guard, response: httpx.Response, bounds: Bounds, until: float) -> None:
        self.status: Final = response.status_code
        self.headers: Final = response.headers
        self.links: Final = response.links
        self._guard = guard
        self._response = response
        self._bounds = bounds
        self._until = until

    @property
    def is_redirect(self) -> bool:
        """Whether it leads elsewhere, to ``Location``, an absolute http(s) address."""
        return self.status in _MOVED and "location" in self.headers

    def check(self) -> None:
        """Refuse what is too large, or would have to be unpacked."""
        if not 200 <= self.status < 300:
            return
        packed = {word.strip().lower() for word in self.headers.get("content-encoding", "").split(",")} - _PLAIN
        if packed:
            raise UnavailableError(f"{self._guard.asked} packs what was to be sent as it is.")
        if int(self.headers.get("content-length", 0)) > self._bounds.size:
            raise self._too_large()

    async def pieces(self) -> AsyncIterator[bytes]:
        """The body, as it comes.

        Raises:
            UnavailableError: it breaks off, comes too slowly, or is too large.
        """
        bounds, received, waited = self._bounds, 0, 0.0
        pieces = aiter(self._response.aiter_raw())
        with self._guard.told():
            while True:
                begun = time.monotonic()
                patience, left = bounds.grace + received / bounds.rate - waited, self._until - begun
                try:
                    with anyio.fail_after(max(0.0, min(patience, left))):
                        piece = await anext(pieces, None)
                except TimeoutError:
                    if left <= patience:
                        raise
                    raise UnavailableError(
                        f"{self._guard.asked} sends less than {bounds.rate:.0f} bytes a second: try again later."
                    ) from None
                if piece is None:
                    return
                waited += time.monotonic() - begun
                received += len(piece)
                if received > bounds.size:
                    raise self._too_large()
                yield piece

    async def read(self) -> bytes:
        """All of the body; raises what `pieces` raises."""
        found = bytearray()
        async for piece in self.pieces():
            found += piece
        return bytes(found)

    def _too_large(self) -> UnavailableError:
        return UnavailableError(f"The answer of {self._guard.asked} has more than {self._bounds.size} bytes.")
