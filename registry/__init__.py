"""Adapter registry: LoRA adapters as a tree, composed and merged along its paths."""

from __future__ import annotations

from typing import TYPE_CHECKING

from registry import errors
from registry.version import __version__

if TYPE_CHECKING:
    from os import PathLike

    from registry.operations.registry import Registry

__all__ = ["__version__", "connect", "errors"]


def connect(url: str | PathLike[str] | None = None, token: str | None = None) -> Registry:
    """Open the registry at ``url``: a folder, where it is made if there is none, or the address of a service.

    Without ``url``, `REGISTRY_URL` says where, else the team's `REGISTRY_DATABASE_URL` and `REGISTRY_STORE_URL`, else
    what ``registry login`` chose, else the user's data folder is taken. ``token`` is for services; without it,
    `REGISTRY_TOKEN` is taken for the host of `REGISTRY_URL`, else what ``registry login`` keeps for the host.

    Raises:
        UsageError: the place, the token or a setting is malformed.
        UnavailableError: the registry can't be opened. A service is not asked before the first call.
    """
    # The package stays light to import: nothing below is loaded before a registry is asked for.
    from registry.app import connect as open_registry

    return open_registry(url, token)
