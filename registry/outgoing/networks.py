"""Which machines a service may be led to. A name is looked up once, judged, and what was judged is connected to.

Public addresses are open. All others are closed, whichever way they are written, unless the operator lists them: what
stands behind a service, such as a database, a cloud's metadata or another pod, trusts whoever reaches it.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Final
from urllib.request import getproxies_environment, proxy_bypass

import anyio
import httpx

Ip = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

_PORTS: Final = {"http": 80, "https": 443}
_MOST_TRIED: Final = 6  # addresses of one name
_NUMBER: Final = re.compile(r"[0-9]+|0[xX][0-9a-fA-F]*")  # a last label that makes a host an IPv4 address to some
_LOCAL: Final = "localhost"

# What is not public, by IANA's registries of special addresses and with what some clouds use. Python's `is_global` is
# no judge of it: until 3.12.4 it called 192.0.0.192 public, and multicast is public to it.
_CLOSED: Final = {
    "this network": "0.0.0.0/8",
    "private": "10.0.0.0/8 172.16.0.0/12 192.168.0.0/16",
    "shared by a provider's customers": "100.64.0.0/10",
    "loopback": "127.0.0.0/8 ::1/128",
    "link-local, where clouds have their metadata": "169.254.0.0/16 fe80::/10",
    "a cloud's metadata": "168.63.129.16/32",
    "reserved": "192.0.0.0/24 192.88.99.0/24 198.18.0.0/15 240.0.0.0/4 2001::/23 2002::/16",
    "for documentation": "192.0.2.0/24 198.51.100.0/24 203.0.113.0/24 2001:db8::/32 3fff::/20",
    "multicast": "224.0.0.0/4 ff00::/8",
    "unique local": "fc00::/7",
}
_KINDS: Final = tuple((ipaddress.ip_network(one), kind) for kind, every in _CLOSED.items() for one in every.split())
_PUBLIC_6: Final = ipaddress.ip_network("2000::/3")
_NAT64: Final = ipaddress.ip_network("64:ff9b::/96")


@dataclass(frozen=True)
class Target:
    """Where a URL leads."""

    url: httpx.URL
    host: str  # a name, or a number without brackets
    port: int

    @property
    def origin(self) -> tuple[str, str, int]:
        return self.url.scheme, self.host, self.port

    @property
    def netloc(self) -> str:
        """Host and port, as messages and the header Host name them."""
        return self.url.netloc.decode("ascii")


class ClosedError(Exception):
    """A host has no address that may be queried; ``str(error)`` says which it has, for the operator."""


def target_of(url: str) -> Target:
    """Where a URL leads.

    Raises:
        ValueError: it is no http(s) URL, or has a bad host or port, a user name or a password.
    """
    try:
        found = httpx.URL(url)
        host = found.raw_host.decode("ascii").lower().rstrip(".")
        host.encode("idna")  # the system asks how long its labels are
    except (httpx.InvalidURL, UnicodeError) as error:
        raise ValueError("it is malformed") from error
    port = found.port if found.port is not None else _PORTS.get(found.scheme, 0)
    if found.scheme not in _PORTS:
        raise ValueError("it is neither http nor https")
    if found.userinfo:
        raise ValueError("it holds a user name or a password")
    if not host or "%" in host or not 0 < port < 1 << 16:
        raise ValueError("its host or port is no such thing")
    return Target(found, host, port)


class Networks:
    """The networks that are open.

    Args:
        listed: by the operator, besides public ones.
        named: URLs that the operator set; an address in one, or ``localhost``, is open as if it were listed.
    """

    def __init__(self, listed: Sequence[str] = (), named: Sequence[str] = ()) -> None:
        found = [ipaddress.ip_network(one) for one in listed]
        for url in named:
            host = target_of(url).host
            numbers = ("127.0.0.1", "::1") if host == _LOCAL else (host,)
            found += [ipaddress.ip_network(one) for one in numbers if _number(one) is not None]
        self._listed = tuple(found)

    def closed(self, address: Ip) -> str | None:
        """Why an address may not be queried; None: it may."""
        inner = _inner(address)
        if any(
            one in network for one in (address, inner) for network in self._listed if one.version == network.version
        ):
            return None
        for network, kind in _KINDS:
            if inner.version == network.version and inner in network:
                return kind
        return None if inner.version == 4 or inner in _PUBLIC_6 else "reserved"

    async def addresses(self, target: Target) -> list[str]:
        """The addresses of a host that may be queried, looked up now; a few, in the system's order.

        Raises:
            ClosedError: it has none.
            OSError: it is not known.
        """
        number = _number(target.host)
        if number is not None:
            found: list[Ip] = [number]
        else:
            rows = await anyio.getaddrinfo(target.host, target.port, type=socket.SOCK_STREAM)
            found = [ipaddress.ip_address(str(place[0])) for *_, place in rows]
        judged = [(one, self.closed(one)) for one in dict.fromkeys(found)]
        opened = [str(one) for one, why in judged if why is None]
        if not opened:
            told = ", ".join(f"{one} ({why})" for one, why in judged)
            raise ClosedError(f"{target.host} is {told or 'without an address'}")
        return opened[:_MOST_TRIED]

    def check_behind_proxy(self, target: Target) -> None:
        """Judge what can be judged if a proxy looks names up: numbers, and the proxy's own machine.

        Raises:
            ClosedError: it may not be requested from the proxy.
        """
        number = _number(target.host)
        local = target.host == _LOCAL or target.host.endswith(f".{_LOCAL}")
        if number is None and not local and _NUMBER.fullmatch(target.host.rpartition(".")[2]) is None:
            return
        why = self.closed(ipaddress.IPv4Address("127.0.0.1") if number is None else number)
        if why is not None:
            raise ClosedError(f"{target.host} is {why}")


def proxy_for(target: Target) -> str | None:
    """The proxy that the environment names for a target (``HTTPS_PROXY``, ``NO_PROXY``): the operator's own way out."""
    found = getproxies_environment()
    proxy = found.get(target.url.scheme) or found.get("all")
    if not proxy or proxy_bypass(f"{target.host}:{target.port}"):
        return None
    return proxy if "://" in proxy else f"http://{proxy}"


def _number(host: str) -> Ip | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def _inner(address: Ip) -> Ip:
    """The IPv4 address that an IPv6 address stands for, if it does."""
    if isinstance(address, IPv4Address):
        return address
    if address in _NAT64:
        return IPv4Address(int(address) & 0xFFFF_FFFF)
    return address.ipv4_mapped or address
