"""The composition root: turns the place of a registry and the settings into a registry that works."""

from __future__ import annotations

import os
import re
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

from registry.errors import UsageError
from registry.settings import Settings, read_settings

if TYPE_CHECKING:
    from registry.services.protocol import Registry

_SCHEME = re.compile(r"([a-z][a-z0-9+.-]+)://", re.IGNORECASE)


def connect(url: str | PathLike[str] | None = None, token: str | None = None) -> Registry:
    """Open the registry at ``url``, and make it if there is none.

    ``url`` is a folder. Without it, `REGISTRY_URL` says where, else the user's data folder is taken.

    Raises:
        UsageError: the place, the token or a setting is malformed or not supported yet.
        UnavailableError: the registry can't be opened.
    """
    return open_registry(url, token, create=True)


def open_registry(url: str | PathLike[str] | None = None, token: str | None = None, *, create: bool) -> Registry:
    """Open the registry at ``url``; without ``create``, one that is not there raises `NotFoundError`."""
    settings = read_settings(os.environ)
    folder = registry_folder(url, settings)
    if token is not None:
        raise UsageError(f"A token is for a registry over HTTP, but {folder} is a folder; leave the token out.")

    from registry.services.local import LocalRegistry

    return LocalRegistry.open(
        folder,
        actor=settings.author,
        create=create,
        cache_folder=settings.cache_dir,
        cache_limit=settings.cache_size,
    )


def registry_folder(url: str | PathLike[str] | None, settings: Settings) -> Path:
    """The folder that ``url``, else the settings, else the user's data folder names.

    Raises:
        UsageError: the place is not a folder.
    """
    place = os.fspath(url) if url is not None else settings.url
    if place is None:
        import platformdirs

        return platformdirs.user_data_path("adapter-registry", appauthor=False)
    if not place or "\0" in place:
        raise UsageError(f"The place of the registry is {place!r}, but a folder is expected.")
    if match := _SCHEME.match(place):
        if match[1].lower() in {"http", "https"}:
            raise UsageError(
                f"{place} is an address, but registries over HTTP are not supported yet; give a folder.",
                code="not_supported_yet",
            )
        raise UsageError(f"{place} can't be the place of a registry; give a folder.")
    try:
        return Path(place).expanduser().absolute()
    except RuntimeError as error:
        raise UsageError(f"{place} names the home folder of a user who is not known; give a folder.") from error
