"""Requests to the other Hub: without a token and without cookies, to its origin alone, through the guard."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Final

from registry.http.request.limits import MIB
from registry.outgoing.guard import Answer, Bounds, Guard
from registry.outgoing.networks import Networks, Target, target_of
from registry.version import __version__

PASSED_ON: Final = "adapter-registry"
MOST_PASSED_ON: Final = 3
"""So many registries may ask one another; more are a circle."""

_HEAD: Final = 20.0  # seconds; clients give up a HEAD after 10 s
METADATA: Final = Bounds(size=32 * MIB, head=_HEAD, total=2 * _HEAD)
FILES: Final = Bounds(size=512 << 30, head=_HEAD, total=12 * 3600)
_OURS: Final = {"User-Agent": f"{PASSED_ON}/{__version__}", "Accept": "application/json, */*;q=0.5"}


class Upstream:
    """The Hub at an address.

    Args:
        url: its address, from which the paths of its API go down.
        networks: beside public ones that it may be in; an address in ``url`` itself counts as one.
    """

    def __init__(self, url: str, networks: Sequence[str] = ()) -> None:
        target = target_of(url.rstrip("/"))
        self.url = str(target.url).rstrip("/")
        self.host = target.netloc
        """How messages name it."""
        self.guard = Guard(f"{self.host}, which REGISTRY_UPSTREAM names,", Networks(networks, named=(url,)))
        self._origin = target.origin

    def is_own(self, target: Target) -> bool:
        """Whether a target is at its origin."""
        return target.origin == self._origin

    def asking(
        self,
        method: str,
        path: str,
        *,
        who: str,
        bounds: Bounds,
        headers: Mapping[str, str],
        query: str = "",
        body: bytes | None = None,
    ) -> AbstractAsyncContextManager[Answer]:
        """Its answer to a request, as `Guard.asking` gives it. Redirects to its own origin are followed."""
        url = f"{self.url}{path}" + (f"?{query}" if query else "")
        every = _OURS | dict(headers)
        return self.guard.asking(method, url, who=who, bounds=bounds, headers=every, body=body, follows=self.is_own)
