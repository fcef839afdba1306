"""Addresses of services, and the tokens that `registry login` stores for them.

One file in the user's configuration folder has the tokens and the default registry, readable by its owner only. A token
is stored and sent by origin (scheme, host and port).
"""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import platformdirs
from pydantic import Field, ValidationError

from registry.errors import NotAllowedError, NotFoundError, UsageError
from registry.files.opened import lock_folder, others_may_open
from registry.folders.local_files import reason, unwritable
from registry.schemas import Schema
from registry.settings import redacted

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
            # not the text: the query may hold a secret too
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
    """Whether the host can be one: httpx encodes and decodes its labels, and the system checks their lengths."""
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


FILE: Final = "credentials.json"


class _Kept(Schema):
    default: str | None = None  # address of a registry
    tokens: dict[str, str] = Field(default_factory=dict, repr=False)  # origin -> secret


@dataclass(frozen=True)
class Credentials:
    """The credentials file of a configuration folder."""

    folder: Path

    @classmethod
    def of_user(cls) -> Credentials:
        """Those of the user of this process."""
        return cls(platformdirs.user_config_path("adapter-registry", appauthor=False))

    def token(self, url: str) -> str | None:
        """The token stored for the origin of an address."""
        return self._read().tokens.get(Address.parse(url).origin)

    def default_url(self) -> str | None:
        """The registry of the last login."""
        return self._read().default

    def keep(self, url: str, token: str | None) -> None:
        """Store a token for the origin of an address, and make that registry the default; None: it needs no token."""
        address = Address.parse(url)

        def change(kept: _Kept) -> _Kept:
            tokens = {origin: secret for origin, secret in kept.tokens.items() if origin != address.origin}
            if token is not None:
                tokens[address.origin] = token
            return _Kept(default=address.url, tokens=tokens)

        self._change(change)

    def forget(self, url: str | None) -> str:
        """Remove the token of a registry, by default of the last login's; returns its address.

        Raises:
            NotFoundError: none is stored.
        """
        chosen = url or self.default_url()
        if chosen is None:
            raise NotFoundError("You are not logged in to a registry; `registry login URL` stores a token.")
        address = Address.parse(chosen)

        def change(kept: _Kept) -> _Kept:
            was_default = kept.default is not None and Address.parse(kept.default).origin == address.origin
            if address.origin not in kept.tokens and not was_default:
                raise NotFoundError(f"No token is stored for {address.url}; `registry login URL` stores one.")
            tokens = {origin: secret for origin, secret in kept.tokens.items() if origin != address.origin}
            return _Kept(default=None if was_default else kept.default, tokens=tokens)

        self._change(change)
        return address.url

    @property
    def _file(self) -> Path:
        return self.folder / FILE

    def _read(self) -> _Kept:
        try:
            with self._file.open("rb") as stream:
                if others_may_open(stream.fileno()):
                    raise NotAllowedError(
                        f"{self._file} holds tokens and can be read or written by others; run `chmod 600 "
                        f"{self._file}`, and revoke the tokens if someone may have read them."
                    )
                return _Kept.model_validate_json(stream.read())
        except FileNotFoundError:
            return _Kept()
        except ValidationError:
            # not its text: it holds secrets
            raise UsageError(f"{self._file} is not what `registry login` writes; remove it and log in again.") from None
        except OSError as problem:
            raise NotAllowedError(
                f"{self._file} can't be read: {reason(problem)}; make it readable for your user."
            ) from problem

    def _change(self, change: Callable[[_Kept], _Kept]) -> None:
        """Replace the file atomically, under a lock."""
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.folder.chmod(0o700)
            with closing(lock_folder(self.folder)):
                kept = change(self._read())
                # Made for its owner alone from the first byte on.
                descriptor, name = tempfile.mkstemp(dir=self.folder, prefix=f".{FILE}-")
                try:
                    with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
                        stream.write(json.dumps(kept.model_dump(), indent=2) + "\n")
                        stream.flush()
                        os.fsync(stream.fileno())
                    Path(name).replace(self._file)
                except BaseException:
                    Path(name).unlink(missing_ok=True)
                    raise
        except OSError as problem:
            raise unwritable(self._file, problem) from problem
