"""Authentication: from a request to its principal; denials are recorded as events."""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal

from fastapi import Request

from registry.errors import CROSS_SITE, NotAllowedError, RegistryError
from registry.http.context import context_of, route_of, source_of
from registry.http.limits import Limits
from registry.http.origins import host_of, is_loopback
from registry.rights import UNLIMITED, Principal, Rights

Anonymous = Literal["none", "read", "open"]  # open: an embedded registry on loopback, as long as it has no tokens
_MAX_SECRET: Final = 512
_MAX_SOURCES: Final = 4096  # remembered
_REFILL: Final = 30.0  # seconds
_CROSS_SITE_EVERY: Final = 60.0  # seconds, after the first ones: a page may stay open for days, and hide no others
_MAX_PLACE: Final = 128  # characters
_PROXY_HEADERS: Final = ("forwarded", "x-forwarded-for", "x-real-ip")  # headers

log = logging.getLogger(__name__)

Authenticate = Callable[[str, str | None], Principal]


class Access:
    """Authenticates requests.

    Args:
        authenticate: secret and source -> principal; raises `NotAllowedError` (``bad_token``).
        has_tokens: whether the registry has a valid token.
        anonymous: access without a token.
        resume: the same of the secret of a session, which somebody has who signed in at the pages.
    """

    def __init__(
        self,
        authenticate: Authenticate,
        has_tokens: Callable[[], bool],
        anonymous: Anonymous,
        resume: Authenticate,
    ) -> None:
        self._authenticate = authenticate
        self._resume = resume
        self._has_tokens = has_tokens
        self._anonymous = anonymous

    @property
    def reads_are_open(self) -> bool:
        """Whether everybody who reaches the service may read all of it."""
        return self._anonymous == "read"

    def principal(self, request: Request) -> Principal:
        """The principal of a request.

        Raises:
            NotAllowedError: ``bad_token``; or a web page of another host, or a proxy, reached an open registry.
        """
        source = source_of(request.scope)
        given = request.headers.get("authorization")
        found = self._without_token(request, source) if given is None else self._of_token(given, source)
        return _noted(request, found)

    def of_secret(self, request: Request, secret: str) -> Principal:
        """The principal of a token that a form carries; raises `NotAllowedError` (``bad_token``)."""
        request.state.gave_secret = True
        return _noted(request, self._authenticate(secret[: _MAX_SECRET + 1], source_of(request.scope)))

    def of_session(self, request: Request, secret: str) -> Principal:
        """The principal of a session; raises `NotAllowedError` (``bad_token``)."""
        context_of(request.scope).by_session = True
        return _noted(request, self._resume(secret[: _MAX_SECRET + 1], source_of(request.scope)))

    def _of_token(self, given: str, source: str | None) -> Principal:
        scheme, _, secret = given.partition(" ")
        secret = secret.strip()
        if scheme.lower() != "bearer" or not secret or len(secret) > _MAX_SECRET:
            raise NotAllowedError(
                "The header Authorization is not of the form 'Bearer SECRET': give a token of the registry.",
                code="bad_token",
            )
        return self._authenticate(secret, source)

    def _without_token(self, request: Request, source: str | None) -> Principal:
        if self._anonymous == "read":
            return Principal("anonymous", Rights("reader"), source=source)
        if self._anonymous == "open" and not self._has_tokens():
            host = host_of(request.headers.get("host", ""))
            if not is_loopback(host):
                # DNS rebinding: a page of another host can make a local browser use a name that resolves to loopback.
                raise NotAllowedError(
                    "This registry has no tokens and is open to its own machine only, and was addressed as "
                    f"{host[:64]!r}: address it as localhost, or create a token."
                )
            if any(name in request.headers for name in _PROXY_HEADERS):
                raise NotAllowedError(
                    "This registry has no tokens and is open to its own machine only, and the request came through a "
                    "proxy, which may forward anyone's requests: create a token."
                )
            return Principal("local", UNLIMITED, source=source)
        raise NotAllowedError(
            "This registry needs a token: store one with `registry login URL`, or set REGISTRY_TOKEN for the "
            "registry at REGISTRY_URL.",
            code="bad_token",
        )


def _noted(request: Request, principal: Principal) -> Principal:
    context_of(request.scope).token = principal.token
    return principal


@dataclass
class _RateLimit:
    """A token bucket."""

    most: float
    a_second: float
    left: float
    at: float

    def take(self, now: float) -> bool:
        self.left = min(self.most, self.left + (now - self.at) * self.a_second)
        self.at = now
        if self.left < 1:
            return False
        self.left -= 1
        return True


def _rate(most: int, now: float) -> _RateLimit:
    return _RateLimit(most=most, a_second=most / _REFILL, left=most, at=now)


class DenialLog:
    """Records denied requests as events, rate-limited so that they can't fill the database.

    Args:
        record: writes the event of a denial.
        most: how many are recorded at once; as many again in half a minute.
        most_of_one: the same of one token or address; of what pages of other sites send, then only one a minute.
    """

    def __init__(
        self,
        record: Callable[[Principal, str, RegistryError], None],
        *,
        most: int = Limits.denials,
        most_of_one: int = Limits.denials_of_one,
    ) -> None:
        self._record = record
        self._most_of_one = most_of_one
        self._lock = threading.Lock()
        self._each: OrderedDict[str, _RateLimit] = OrderedDict()
        now = time.monotonic()
        self._all = _rate(most, now)
        self._cross_site = _RateLimit(most=most_of_one, a_second=1 / _CROSS_SITE_EVERY, left=most_of_one, at=now)

    def note(self, request: Request, error: RegistryError, *, tried: str | None = None) -> None:
        """Record a denial, unless its rate limit is exceeded; with ``tried`` also one for other reasons than rights."""
        if tried is None and (not isinstance(error, NotAllowedError) or error.code == "read_only"):
            return
        principal: Principal | None = getattr(request.state, "principal", None)
        gave_secret = "authorization" in request.headers or getattr(request.state, "gave_secret", False)
        token = None if principal is None else principal.token
        if token is None and error.code == "bad_token" and not gave_secret:
            return  # the usual challenge
        source = source_of(request.scope)
        place = route_of(request.scope)
        if error.code == CROSS_SITE:  # refused before routing, at a rate of its own
            place = request.scope["raw_path"].decode("ascii", "replace")[:_MAX_PLACE]
            if not self._takes(self._cross_site):
                return
        elif not self._within_limits(token or source or ""):
            return
        who = principal or Principal("unknown", Rights("reader"), source=source)
        try:
            self._record(who, tried or f"{request.method} {place}", error)
        except RegistryError as problem:
            log.warning("a refusal could not be recorded: %s", problem)

    def _takes(self, limit: _RateLimit) -> bool:
        with self._lock:
            return limit.take(time.monotonic())

    def _within_limits(self, who: str) -> bool:
        now = time.monotonic()
        with self._lock:
            mine = self._each.setdefault(who, _rate(self._most_of_one, now))
            self._each.move_to_end(who)
            while len(self._each) > _MAX_SOURCES:
                self._each.popitem(last=False)
            return mine.take(now) and self._all.take(now)
