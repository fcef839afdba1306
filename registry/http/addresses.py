"""Addresses of this service as its users know them: from settings or the socket, never from a Host header."""

from __future__ import annotations

import ipaddress
from typing import Any, Final
from urllib.parse import quote, urlsplit

from fastapi import Request

TREE: Final = "/tree"
"""Where the pages of base models, adapters and revisions are: no name is ``tree``."""


def public_address(request: Request) -> str:
    """The address that users reach the service by: ``REGISTRY_PUBLIC_URL``, or where the connection came in."""
    given: str | None = request.app.state.public_url
    if given is not None:
        return given
    return http_address(*request.scope["server"])


def http_address(host: str, port: int) -> str:
    """The URL of an address of this machine."""
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def host_of(address: str) -> str:
    """The name or number of a machine in a Host header, without the port."""
    try:
        return urlsplit(f"//{address}").hostname or ""
    except ValueError:
        return ""


def is_loopback(host: str) -> bool:
    """Whether a host name or an address is a loopback one."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def prefix_of(app: Any) -> str:
    """The path before all addresses of the service, as users know it: that of a proxy which removes it."""
    return urlsplit(app.state.public_url or "").path.rstrip("/")


def page_path(reference: str) -> str:
    """The page of a base model, an adapter or a revision, below the prefix."""
    return f"{TREE}/{quote(reference, safe='/@:')}"
