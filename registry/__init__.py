"""Adapter registry: LoRA adapters as a tree, composed and merged along its paths."""

from __future__ import annotations

from typing import TYPE_CHECKING

from registry.version import __version__

if TYPE_CHECKING:
    from os import PathLike

    from registry.services.protocol import Registry

__all__ = ["__version__", "connect"]


def connect(url: str | PathLike[str] | None = None, token: str | None = None) -> Registry:
    """Open the registry at ``url`` (a folder), and make it if there is none.

    Without ``url``, `REGISTRY_URL` says where, else the user's data folder is taken. ``token`` is for registries over
    HTTP, which come later.

    Raises:
        UsageError: the place, the token or a setting is malformed or not supported yet.
        UnavailableError: the registry can't be opened.
    """
    # The package stays light to import: nothing below is loaded before a registry is asked for.
    from registry.app import connect as open_registry

    return open_registry(url, token)
