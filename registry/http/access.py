"""Who asks: from the request to a principal, and a note of those who were turned away."""

from __future__ import annotations

import ipaddress
import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal
from urllib.parse import urlsplit

from fastapi import Request

from registry.errors import NotAllowedError, RegistryError
from registry.http.exchange import exchange_of, route_of, source_of
from registry.rights import UNLIMITED, Principal, Rights

Anonymous = Literal["none", "read", "open"]  # open: an embedded registry on loopback, as long as it has no tokens
_MOST_SECRET: Final = 512
_SOURCES: Final = 4096  # remembered
_BY_PROXIES: Final = ("forwarded", "x-forwarded-for", "x-real-ip")  # headers

log = logging.getLogger(__name__)

Authenticate = Callable[[str, str | None], Principal]


def is_loopback(host: str) -> bool:
    """Whether only this machine can be reached by a name or an address."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def _host(header: str) -> str:
    """The name or address in a Host header, without the port."""
    try:
        return urlsplit(f"//{header}").hostname or ""
    except ValueError:
        return ""


class Access:
    """Finds out who asks.

    Args:
        authenticate: secret and source -> principal; raises `NotAllowedError` (``bad_token``).
        has_tokens: whether the registry has a token that is worth something.
        anonymous: what those without a token may do.
    """

    def __init__(self, authenticate: Authenticate, has_tokens: Callable[[], bool], anonymous: Anonymous) -> None:
        self._authenticate = authenticate
        self._has_tokens = has_tokens
        self._anonymous = anonymous

    def principal(self, request: Request) -> Principal:
        """Who asks.

        Raises:
            NotAllowedError: ``bad_token``, or a web page of another host, or a proxy, asks an open registry.
        """
        source = source_of(request.scope)
        given = request.headers.get("authorization")
        found = self._without_token(request, source) if given is None else self._of_token(given, source)
        exchange_of(request.scope).token = found.token
        return found

    def _of_token(self, given: str, source: str | None) -> Principal:
        scheme, _, secret = given.partition(" ")
        secret = secret.strip()
        if scheme.lower() != "bearer" or not secret or len(secret) > _MOST_SECRET:
            raise NotAllowedError(
                "The header Authorization is not of the form 'Bearer SECRET': give a token of the registry.",
                code="bad_token",
            )
        return self._authenticate(secret, source)

    def _without_token(self, request: Request, source: str | None) -> Principal:
        if self._anonymous == "read":
            return Principal("anonymous", Rights("reader"), source=source)
        if self._anonymous == "open" and not self._has_tokens():
            host = _host(request.headers.get("host", ""))
            if not is_loopback(host):
                # A page elsewhere can make a browser of this machine ask, by a name that leads here.
                raise NotAllowedError(
                    f"This registry is open to its own machine only, and was asked for by the name {host[:64]!r}: "
                    "ask for it as localhost, or make a token."
                )
            if any(name in request.headers for name in _BY_PROXIES):
                raise NotAllowedError(
                    "This registry is open to its own machine only, and was asked through a proxy, which may speak for "
                    "anybody: make a token."
                )
            return Principal("local", UNLIMITED, source=source)
        raise NotAllowedError(
            "This registry needs a token: `registry login URL` keeps one, REGISTRY_TOKEN gives one to "
            "the registry that REGISTRY_URL names.",
            code="bad_token",
        )


@dataclass
class _Allowance:
    """Events that may still be noted: so many at once, and one more whenever a while has passed."""

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


def _of_one(now: float) -> _Allowance:
    return _Allowance(most=30, a_second=1, left=30, at=now)


def _of_all(now: float) -> _Allowance:
    return _Allowance(most=300, a_second=10, left=300, at=now)


class Refusals:
    """Notes what was not allowed as events, and not so often that this would be a way to fill the database."""

    def __init__(self, record: Callable[[Principal, str, RegistryError], None]) -> None:
        self._record = record
        self._lock = threading.Lock()
        self._each: OrderedDict[str, _Allowance] = OrderedDict()
        self._all = _of_all(time.monotonic())

    def note(self, request: Request, error: RegistryError) -> None:
        """Note a refusal, if there is one and it is time for it."""
        if not isinstance(error, NotAllowedError) or error.code == "read_only":
            return
        principal: Principal | None = getattr(request.state, "principal", None)
        if principal is None and error.code == "bad_token" and "authorization" not in request.headers:
            return  # somebody without a token was asked for one: that is how a conversation begins
        source = source_of(request.scope)
        if not self._is_time((principal and principal.token) or source or ""):
            return
        who = principal or Principal("unknown", Rights("reader"), source=source)
        try:
            self._record(who, f"{request.method} {route_of(request.scope)}", error)
        except RegistryError as problem:
            log.warning("a refusal could not be noted: %s", problem)

    def _is_time(self, who: str) -> bool:
        """Whether one more of a token, or of a source that has none, may be noted."""
        now = time.monotonic()
        with self._lock:
            mine = self._each.setdefault(who, _of_one(now))
            self._each.move_to_end(who)
            while len(self._each) > _SOURCES:
                self._each.popitem(last=False)
            return mine.take(now) and self._all.take(now)
