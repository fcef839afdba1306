"""Adapter registry: LoRA adapters as a tree, composed and merged along its paths."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Final

from registry import errors
from registry.errors import (
    AccuracyError,
    ConflictError,
    IntegrityError,
    InvalidAdapterError,
    InvalidBaseError,
    NotAllowedError,
    NotFoundError,
    NotInPlaceError,
    RegistryError,
    RetractedError,
    UnavailableError,
    UsageError,
)
from registry.version import __version__

if TYPE_CHECKING:
    from os import PathLike

    from registry.operations.readable import ReadableArtifact, ReadableFile
    from registry.operations.registry import Registry
    from registry.progress import Progress
    from registry.schemas import (
        BaseSummary,
        Event,
        Fetched,
        Log,
        Published,
        Resolved,
        RevisionSummary,
        SearchResult,
        Shown,
        Tree,
        TreeNode,
        Verified,
    )

__all__ = [
    "AccuracyError",
    "BaseSummary",
    "ConflictError",
    "Event",
    "Fetched",
    "IntegrityError",
    "InvalidAdapterError",
    "InvalidBaseError",
    "Log",
    "NotAllowedError",
    "NotFoundError",
    "NotInPlaceError",
    "Progress",
    "Published",
    "ReadableArtifact",
    "ReadableFile",
    "Registry",
    "RegistryError",
    "Resolved",
    "RetractedError",
    "RevisionSummary",
    "SearchResult",
    "Shown",
    "Tree",
    "TreeNode",
    "UnavailableError",
    "UsageError",
    "Verified",
    "__version__",
    "connect",
    "errors",
]

_ELSEWHERE: Final = {
    "Progress": "progress",
    "ReadableArtifact": "operations.readable",
    "ReadableFile": "operations.readable",
    "Registry": "operations.registry",
}
"""Types for annotations, and where they are loaded from when somebody asks for one; the others are schemas."""


def connect(url: str | PathLike[str] | None = None, token: str | None = None) -> Registry:
    """Open a registry: a folder, a team's database and store, or a service.

    Args:
        url: a folder, where a registry is made if it holds none, or the address of a service. None: `REGISTRY_URL`
            says where, else the team's `REGISTRY_DATABASE_URL` and `REGISTRY_STORE_URL`, else what ``registry login``
            chose, else the user's data folder.
        token: for services. None: `REGISTRY_TOKEN` for the host of `REGISTRY_URL`, else what ``registry login`` keeps
            for the host.

    Raises:
        UsageError: the place, the token or a setting is malformed.
        UnavailableError: the registry can't be opened, or nothing answers at the address.

    Example:
        >>> team = registry.connect("./my-registry")
        >>> team
        <registry at ...my-registry, in this process>
        >>> team.close()
    """
    # The package stays light to import: nothing below is loaded before a registry is opened.
    from registry.app import connect as open_registry

    return open_registry(url, token)


if not TYPE_CHECKING:  # type checkers know the names by the imports above, and no others

    def __getattr__(name: str) -> Any:
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        found = getattr(importlib.import_module(f"{__name__}.{_ELSEWHERE.get(name, 'schemas')}"), name)
        globals()[name] = found
        return found

    def __dir__() -> list[str]:
        return sorted({*__all__, *(name for name in globals() if name.startswith("__"))})
