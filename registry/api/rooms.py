"""All routes of the API."""

from __future__ import annotations

from typing import Final

from registry.api import (
    artifacts,
    blobs,
    browse,
    description,
    health,
    keeping,
    labels,
    materialisations,
    operations,
    publishing,
    tokens,
    uploads,
)

_ROOMS: Final = (
    health, browse, labels, tokens, publishing, uploads, operations, blobs, artifacts, materialisations, keeping,
    description,
)  # fmt: skip
ROUTERS: Final = tuple(room.router for room in _ROOMS)
