"""The tokens that `registry login` stores, and the default registry.

One file in the user's configuration folder, readable by its owner only. A token is stored and sent by origin (scheme,
host and port).
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import platformdirs
from pydantic import Field, ValidationError

from registry.client.http.address import Address
from registry.errors import NotAllowedError, NotFoundError, UsageError
from registry.files.opened import lock_folder, others_may_open
from registry.folders.errors import reason, unwritable
from registry.schemas import Schema

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
            # not what it says: it holds secrets
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
