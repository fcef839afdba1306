"""One address of an engine, asked over HTTP: a connection for each request, so that a balancer shows."""

from __future__ import annotations

import json
import socket
from typing import Any, Final
from urllib.parse import urlsplit

import httpx

from registry.errors import UnavailableError, UsageError

_CONNECT: Final = 3.0  # seconds: an engine is near
_ANSWER: Final = 300.0  # seconds: it may read an adapter from a slow disk
_PORTS: Final = {"http": 80, "https": 443}


def check_url(url: str) -> str:
    """An engine's URL as it is asked, without its last slash.

    Raises:
        UsageError: it is none.
    """
    try:
        parts = urlsplit(url)
        fits = parts.scheme in _PORTS and parts.hostname is not None and parts.port != 0
        fits = fits and not (parts.query or parts.fragment or parts.username)
    except ValueError:
        fits = False
    if not fits:
        raise UsageError(f"{url!r} is no address of an engine; http://HOST:PORT is expected, such as http://vllm:8000.")
    return url.rstrip("/").removesuffix("/v1")


def addresses(url: str) -> list[str]:
    """All addresses that the host of a URL has now, as ``10.0.0.7:8000``.

    Raises:
        UnavailableError: it has none.
    """
    parts = urlsplit(url)
    port = parts.port or _PORTS[parts.scheme]
    try:
        found = socket.getaddrinfo(parts.hostname, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as problem:
        raise UnavailableError(f"The host of {url} is not found: {problem}; nothing is changed.") from problem
    hosts = {str(where[0]) for *_, where in found}
    # Dual stacks, and localhost: one engine has an address of each kind.
    hosts = {one for one in hosts if ":" not in one} or hosts
    return sorted(f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host in hosts)


class Endpoint:
    """Requests to one address of a URL's host; TLS and the header ``Host`` are those of the URL.

    Args:
        key: sent as a bearer token, for engines that were started with ``--api-key``.
    """

    def __init__(self, url: str, address: str, key: str | None = None) -> None:
        parts = urlsplit(url)
        self.url: Final = f"{parts.scheme}://{address}"
        self._host: Final = parts.hostname or ""
        headers = {"Host": parts.netloc} | ({"Authorization": f"Bearer {key}"} if key else {})
        self._client: Final = httpx.Client(
            base_url=f"{self.url}{parts.path}",
            headers=headers,
            timeout=httpx.Timeout(_ANSWER, connect=_CONNECT),
            limits=httpx.Limits(max_keepalive_connections=0),
            trust_env=False,
        )

    def text(self, path: str) -> tuple[int, str]:
        """What it answers to a GET.

        Raises:
            UnavailableError: it does not.
        """
        return self._asked(self._client.build_request("GET", path))

    def ask(self, path: str, body: dict[str, Any] | None = None) -> tuple[int, Any]:
        """What it answers to a GET, or to a POST of JSON; text that is no JSON stays text.

        Raises:
            UnavailableError: it does not.
        """
        method = "GET" if body is None else "POST"
        status, text = self._asked(self._client.build_request(method, path, json=body))
        try:
            return status, json.loads(text)
        except ValueError:
            return status, text

    def _asked(self, request: httpx.Request) -> tuple[int, str]:
        request.extensions["sni_hostname"] = self._host
        try:
            answer = self._client.send(request)
            return answer.status_code, answer.text
        except (httpx.HTTPError, httpx.InvalidURL) as problem:
            why = str(problem) or type(problem).__name__
            raise UnavailableError(
                f"The engine at {self.url} does not answer ({why}); what it serves stays, and it is asked again."
            ) from problem

    def close(self) -> None:
        """Close what is open."""
        self._client.close()


def said(answer: Any) -> str:
    """The sentence of an answer that refuses."""
    found = answer
    for field in ("error", "message", "error_message", "detail"):
        if isinstance(found, dict) and found.get(field):
            found = found[field]
    text = found if isinstance(found, str) else json.dumps(found)
    return " ".join(text.split())[:400].rstrip(".") or "it gives no reason"
