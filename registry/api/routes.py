"""All routes of the API."""

from __future__ import annotations

from typing import Final

from registry.api import about, artifacts, blobs, health, jobs, operations, uploads

ROUTERS: Final = tuple(module.router for module in (health, about, operations, uploads, jobs, blobs, artifacts))
