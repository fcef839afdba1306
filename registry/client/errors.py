"""When a request fails: which error it is, and whether and when it is tried again.

Retries back off exponentially with jitter, honour `Retry-After`, and end after a total time.
"""

from __future__ import annotations

import inspect
import random
import ssl
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Final

import httpx
from pydantic import ValidationError

from registry import errors
from registry.client.addresses import Address
from registry.errors import CODES, RegistryError, UnavailableError
from registry.folders.local_files import in_words
from registry.schemas.protocol import PROTOCOL, PROTOCOL_HEADER, SPOKEN, VERSION_HEADER, VIEWS, Problem
from registry.version import __version__


@dataclass(frozen=True)
class RetryPolicy:
    """Timeouts of requests, and how long to retry, in seconds.

    A registry that never responded to this process is most likely misspelt or down: it fails fast. One that did is
    being restarted, or the network fails for a moment.
    """

    known: float = 90.0  # total without progress
    met: float = 20.0  # total if the very first response is a transient error
    unknown: float = 2.0
    first: float = 0.2
    most: float = 15.0
    connect: float = 10.0
    answer: float = 60.0  # timeout of a response, and of each piece of a body
    slow_answer: float = 600.0  # for what is computed before it is answered: ranks depend on values

    def timeout(self, *, slow: bool = False) -> httpx.Timeout:
        """The timeouts of one request."""
        return httpx.Timeout(self.answer, connect=self.connect, read=self.slow_answer if slow else self.answer)

    def attempts(self, *, known: bool, over: threading.Event) -> Attempts:
        """Start counting; ``over`` ends all waits."""
        return Attempts(self, self.known if known else self.unknown, over)


@dataclass
class Attempts:
    """The attempts of one request."""

    retry: RetryPolicy
    total: float
    over: threading.Event
    _tries: int = 0
    _deadline: float = field(default=0.0)

    def __post_init__(self) -> None:
        self._deadline = time.monotonic() + self.total

    def reset(self) -> None:
        """Bytes arrived: the next failure counts as a new one."""
        self._tries = 0
        self._deadline = time.monotonic() + self.total

    def answered(self) -> None:
        """The registry exists but has a transient error: extend the total, up to ``met``."""
        if self.total < self.retry.met:
            self.total = self.retry.met
            self._deadline = time.monotonic() + self.total

    def wait(self, at_least: float | None = None) -> bool:
        """Sleep before the next attempt; False at once if it would exceed the total."""
        delay = min(self.retry.most, self.retry.first * 2**self._tries)
        delay *= random.uniform(0.5, 1.0)  # noqa: S311 - so that clients do not come back all at once
        delay = max(delay, at_least or 0.0)
        if time.monotonic() + delay > self._deadline:
            return False
        self._tries += 1
        return not self.over.wait(delay)


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds of the header `Retry-After`, a number or a date."""
    text = headers.get("retry-after", "").strip()
    if text.isascii() and text.isdigit() and len(text) < 10:
        return float(text)
    try:
        at = parsedate_to_datetime(text)
    except ValueError:
        return None
    at = at if at.tzinfo else at.replace(tzinfo=UTC)
    return max(0.0, (at - datetime.now(UTC)).total_seconds())


KINDS: Final[dict[str, type[RegistryError]]] = {
    name: kind
    for name, kind in inspect.getmembers(errors, inspect.isclass)
    if issubclass(kind, RegistryError) and kind is not RegistryError
}
"""Error class by the service's name of it."""

PROXY_STATUSES: Final = frozenset({408, 429, 502, 503, 504})
"""Statuses by which a proxy reports that the service is down for a moment."""
UNSENT: Final = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.ProxyError)
"""Failures before the request was sent."""

_FINAL: Final = frozenset({"numerics", "schema_newer", "schema_older", "missing_package", "upload_incomplete"})
"""Codes of permanent errors."""


_SENTENCES: Final[dict[type[httpx.HTTPError], str]] = {
    httpx.ConnectTimeout: "{url} did not accept a connection within 10 seconds; check the address and the network.",
    httpx.TimeoutException: "{url} takes too long to answer; try again later.",
    httpx.ProxyError: "The proxy for {url} refused the connection: {why}; check HTTPS_PROXY and NO_PROXY.",
    httpx.ConnectError: "{url} can't be reached: {why}; check the address, and whether the registry is running.",
    httpx.TransportError: "The connection to {url} was lost: {why}; try again.",
}
"""Messages for a missing response; the first match counts."""


def error_of(problem: Problem) -> RegistryError:
    """The error that the service raised, as in process."""
    code = problem.code if problem.code in CODES else None
    return KINDS.get(problem.kind, UnavailableError)(problem.detail, code=code)


def is_transient(problem: Problem) -> bool:
    """Whether a retry of the same request may succeed."""
    return problem.status in PROXY_STATUSES and problem.code not in _FINAL


def read_problem(response: httpx.Response) -> Problem | None:
    """The problem document of a response, if it has one; reads a stream to its end."""
    try:
        return Problem.model_validate_json(response.read(), extra="ignore")
    except ValidationError:
        return None


def foreign_answer(url: str, response: httpx.Response) -> UnavailableError | None:
    """The error if a response is not from a registry of this protocol, else None."""
    said = response.headers.get(PROTOCOL_HEADER)
    if said is None:
        return not_a_registry(url, response)
    if said in SPOKEN:
        return None
    version = response.headers.get(VERSION_HEADER, "unknown")
    older = said.isascii() and said.isdigit() and int(said) < PROTOCOL
    advice = "ask its operator to upgrade it" if older else "upgrade adapter-registry on this machine"
    return UnavailableError(
        f"The registry at {url} (version {version}) speaks protocol {said}, and this program (version {__version__}) "
        f"speaks {PROTOCOL}; {advice}.",
        code="other_version",
    )


def not_a_registry(url: str, response: httpx.Response) -> UnavailableError:
    """The error for a response of some other server."""
    status = response.status_code
    if status == 413:
        return UnavailableError(
            f"A proxy in front of {url} does not accept requests of this size (HTTP 413); its operator can raise the "
            "limit.",
            code="too_large",
        )
    if status in PROXY_STATUSES:
        return UnavailableError(
            f"The registry at {url} can't be reached now: a proxy in front of it answers HTTP {status}; try again "
            "later."
        )
    if response.is_redirect:
        where = response.headers.get("location", "another address")
        return UnavailableError(
            f"{url} redirects to {where}; if the registry is there, give that address.", code="not_a_registry"
        )
    kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
    what = "a web page" if kind in ("text/html", "application/xhtml+xml") else (kind or "nothing of a known kind")
    return UnavailableError(
        f"What answers at {url} is not an adapter registry (HTTP {status}, {what}); check the address, and whether a "
        "proxy asks for a login.",
        code="not_a_registry",
    )


def hub_view(address: Address) -> UnavailableError | None:
    """The error for an address that is a Hub view's."""
    place, _, view = address.url.rpartition("/")
    if not address.prefix or view not in VIEWS:
        return None
    return UnavailableError(
        f"{address.url} is a registry's view for Hub clients; leave out /{view}: the address of the registry is "
        f"{place}.",
        code="not_a_registry",
    )


def unreadable(url: str, response: httpx.Response, problem: ValidationError) -> UnavailableError:
    """The error for a response whose schema this program does not know."""
    first = problem.errors(include_url=False, include_input=False)[0]
    where = ".".join(map(str, first["loc"])) or "the document"
    version = response.headers.get(VERSION_HEADER, "unknown")
    return UnavailableError(
        f"The registry at {url} (version {version}) sent a response that this program (version {__version__}) can't "
        f"read: {where}: {first['msg'].lower()}; use the same version on both sides.",
        code="other_version",
    )


def unreachable(url: str, problem: httpx.HTTPError) -> UnavailableError:
    """The error if no response came."""
    late = isinstance(problem, httpx.TimeoutException)
    return UnavailableError(_no_answer(url, problem), code="too_slow" if late else "unavailable")


def _no_answer(url: str, problem: httpx.HTTPError) -> str:
    certificate = _cause(problem, ssl.SSLCertVerificationError)
    if certificate is not None:
        advice = "SSL_CERT_FILE may name the authority that signed it"
        return f"The certificate of {url} is not trusted: {in_words(certificate)}; {advice}."
    if _cause(problem, ssl.SSLError) is not None:
        advice = "check whether the address begins with http or https"
        return f"{url} does not speak TLS as expected: {in_words(problem)}; {advice}."
    for kind, sentence in _SENTENCES.items():
        if isinstance(problem, kind):
            return sentence.format(url=url, why=in_words(problem))
    return f"The registry at {url} can't be used: {in_words(problem)}; check the address and the network."


def is_permanent(problem: httpx.HTTPError) -> bool:
    """Whether a retry can't help: a certificate, or an unknown host name."""
    return _cause(problem, ssl.SSLError) is not None or "Name or service not known" in str(problem)


def _cause(problem: BaseException, kind: type[BaseException]) -> BaseException | None:
    seen: BaseException | None = problem
    while seen is not None:
        if isinstance(seen, kind):
            return seen
        seen = seen.__cause__ or seen.__context__
    return None
