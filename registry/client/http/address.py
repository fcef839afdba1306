"""Addresses of services: syntax, and when two name the same one."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from registry.errors import UsageError
from registry.settings.parsers import redacted

_WITHOUT_SCHEME: Final = re.compile(r"(?!https?:)[^@:/]+([.:][^@:/]+)+(/[^@:]*)?", re.IGNORECASE)
_PORTS: Final = {"http": 80, "https": 443}


@dataclass(frozen=True)
class Address:
    """``https://host:port/prefix``. Secrets are stored and sent by origin: scheme, host and port."""

    scheme: str
    host: str
    port: int
    prefix: str

    @classmethod
    def parse(cls, text: str) -> Address:
        """Parse the address of a service.

        Raises:
            UsageError: it is malformed, or has credentials, a query or a fragment.
        """
        found = _split(text)
        if found is None:
            meant = _split(f"http://{text}") if _WITHOUT_SCHEME.fullmatch(text) else None
            form = "http(s)://HOST" if meant is None else meant.url
            raise UsageError(f"{redacted(text)!r} is not the address of a registry; {form} is expected.")
        parts = urlsplit(text)
        if parts.username is not None or parts.password is not None:
            # not the text: it holds a secret
            raise UsageError(
                f"The address of {found.host} holds a user name or a password; leave them out and give a token."
            )
        if parts.query or parts.fragment:
            # not the text: what is asked for may hold a secret too
            raise UsageError(f"The address contains a '?' or a '#' after {found.url}; leave it out.")
        if not has_host(text):
            raise UsageError(f"The host in {text!r} is not valid: a label is empty, too long or malformed; correct it.")
        return found

    @property
    def origin(self) -> str:
        """Scheme, host and port, normalised."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}" + ("" if self.port == _PORTS[self.scheme] else f":{self.port}")

    @property
    def url(self) -> str:
        """The address, normalised."""
        return self.origin + self.prefix

    def is_origin_of(self, url: str) -> bool:
        """Whether a URL has this origin."""
        other = _split(url)
        return other is not None and other.origin == self.origin


def has_host(text: str) -> bool:
    """Whether the host can be one: httpx encodes and decodes its labels, and the system asks how long they are."""
    import httpx  # takes a while, and the place of a registry is most often a folder

    try:
        url = httpx.URL(text)
        return bool(url.host and url.raw_host.decode("ascii").encode("idna"))
    except (httpx.InvalidURL, UnicodeError):
        return False


def _split(text: str) -> Address | None:
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        return None
    scheme, host = parts.scheme.lower(), (parts.hostname or "").lower().rstrip(".")
    odd = any(letter.isspace() or not letter.isprintable() for letter in text)
    if scheme not in _PORTS or not host or odd or port == 0:
        return None
    return Address(scheme, host, port or _PORTS[scheme], parts.path.rstrip("/"))
