"""Tokens that `registry login` keeps on this machine, and which registry it made the default.

One file in the user's folder of settings, for its owner alone. A token is kept and given by origin (scheme, host and
port): it never goes to another one.
"""

from __future__ import annotations

import fcntl
import json
import os
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import platformdirs
from pydantic import Field, ValidationError

from registry.client.address import Address
from registry.errors import NotAllowedError, NotFoundError, UsageError
from registry.folders.refusals import unwritable
from registry.schemas import Schema

FILE: Final = "credentials.json"
_OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO


class _Kept(Schema):
    """The content of the file."""

    default: str | None = None  # address of a registry
    tokens: dict[str, str] = Field(default_factory=dict, repr=False)  # origin -> secret


@dataclass(frozen=True)
class Credentials:
    """What is kept in a folder of settings."""

    folder: Path

    @classmethod
    def of_user(cls) -> Credentials:
        """Those of the user who runs this process."""
        return cls(platformdirs.user_config_path("adapter-registry", appauthor=False))

    def token(self, url: str) -> str | None:
        """The token that is kept for the host of an address."""
        return self._read().tokens.get(Address.parse(url).origin)

    def default_url(self) -> str | None:
        """The registry that the last login chose."""
        return self._read().default

    def keep(self, url: str, token: str | None) -> None:
        """Keep a token for the host of an address, and make that registry the default; None: it needs no token."""
        address = Address.parse(url)

        def change(kept: _Kept) -> _Kept:
            tokens = {origin: secret for origin, secret in kept.tokens.items() if origin != address.origin}
            if token is not None:
                tokens[address.origin] = token
            return _Kept(default=address.url, tokens=tokens)

        self._change(change)

    def forget(self, url: str | None) -> str:
        """Forget the token of a registry, by default of the one that login chose; answers with its address.

        Raises:
            NotFoundError: nothing is kept for it.
        """
        chosen = url or self.default_url()
        if chosen is None:
            raise NotFoundError("No registry is logged in to; `registry login URL` keeps a token.")
        address = Address.parse(chosen)

        def change(kept: _Kept) -> _Kept:
            was_default = kept.default is not None and Address.parse(kept.default).origin == address.origin
            if address.origin not in kept.tokens and not was_default:
                raise NotFoundError(f"Nothing is kept for {address.url}; `registry login URL` keeps a token.")
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
                if os.fstat(stream.fileno()).st_mode & _OTHERS:
                    raise NotAllowedError(
                        f"{self._file} holds tokens and can be read or written by others; run `chmod 600 "
                        f"{self._file}`, and revoke the tokens if somebody may have read them."
                    )
                return _Kept.model_validate_json(stream.read())
        except FileNotFoundError:
            return _Kept()
        except ValidationError:
            # not what it says: it holds secrets
            raise UsageError(f"{self._file} is not what `registry login` writes; remove it and log in again.") from None
        except OSError as problem:
            raise NotAllowedError(f"{self._file} can't be read: {problem.strerror}; make it your own.") from problem

    def _change(self, change: Callable[[_Kept], _Kept]) -> None:
        """Replace the file as a whole, one process at a time."""
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.folder.chmod(0o700)
            with self._locked():
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

    @contextmanager
    def _locked(self) -> Iterator[None]:
        lock = os.open(self.folder, os.O_RDONLY)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        finally:
            os.close(lock)
