"""The stylesheet and the module of the pages, addressed by their digests, so that browsers keep them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Final

from fastapi import APIRouter, Response

from registry.errors import NotFoundError
from registry.plots.drawing import stylesheet

router = APIRouter(include_in_schema=False)
_TYPES: Final[Mapping[str, str]] = {"style.css": "text/css", "page.js": "text/javascript", "icon.svg": "image/svg+xml"}
_FOREVER: Final = "public, max-age=31536000, immutable"


@dataclass(frozen=True)
class _Asset:
    name: str
    content: bytes
    digest: str


@cache
def _assets() -> Mapping[str, _Asset]:
    folder = files("registry.web") / "static"
    contents = {name: (folder / name).read_bytes() for name in _TYPES}
    contents["style.css"] += stylesheet().encode()
    return {name: _Asset(name, content, hashlib.sha256(content).hexdigest()[:16]) for name, content in contents.items()}


def asset_names() -> Mapping[str, str]:
    """The address of each asset below the prefix."""
    return {name: f"/static/{asset.digest}/{name}" for name, asset in _assets().items()}


@router.api_route("/static/{digest}/{name}", methods=["GET", "HEAD"])
async def asset(digest: str, name: str) -> Response:
    """An asset; nothing of a registry, so nobody has to sign in."""
    found = _assets().get(name)
    if found is None or found.digest != digest:
        raise NotFoundError(f"There is no {name[:64]!r} with the digest {digest[:64]!r}: reload the page.")
    return Response(found.content, media_type=_TYPES[name], headers={"Cache-Control": _FOREVER})
