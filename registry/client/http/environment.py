"""An HTTP client configured by the environment: proxies and certificate authorities.

httpx reads these variables itself; what it can't use is reported with the name of the variable. Values of proxies are
redacted: they may hold a password.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any, Final
from urllib.request import getproxies

import httpx

from registry.errors import RegistryError, UnavailableError, UsageError
from registry.folders.errors import reason

_PROXIES: Final = ("http_proxy", "https_proxy", "all_proxy")


def open_client(**settings: Any) -> httpx.Client:
    """An httpx client; ``settings`` are its arguments.

    Raises:
        UsageError: a variable that names proxies, or certificates, can't be used.
        UnavailableError: ``missing_package``, the package for such a proxy is not installed.
    """
    try:
        return httpx.Client(**settings)
    except ImportError as problem:
        raise _socks() from problem
    except OSError as problem:
        raise _certificates(problem) from problem
    except (httpx.InvalidURL, ValueError) as problem:
        raise _proxy() from problem


def names_proxies() -> bool:
    """Whether there are proxies for some addresses; httpx decides for which."""
    return any(getproxies().get(scheme) for scheme in ("http", "https", "all"))


def _socks() -> RegistryError:
    name = next((name for name, value in _given(*_PROXIES) if value.lower().startswith("socks")), "ALL_PROXY")
    return UnavailableError(
        f"{name} names a SOCKS proxy, and the package socksio, which is needed for it, is not installed here; install "
        "it, or name an HTTP proxy.",
        code="missing_package",
    )


def _certificates(problem: OSError) -> RegistryError:
    name = next((name for name in ("SSL_CERT_FILE", "SSL_CERT_DIR") if os.environ.get(name)), "SSL_CERT_FILE")
    value = os.environ.get(name, "")
    return UsageError(
        f"{name} is {value!r}, which holds no certificates that can be read ({reason(problem)}); the "
        "authorities to trust, as PEM, are expected."
    )


def _proxy() -> RegistryError:
    for name, value in _given(*_PROXIES):
        try:
            httpx.Proxy(value if "://" in value else f"http://{value}")
        except (httpx.InvalidURL, ValueError):
            return UsageError(f"{name} is not the address of a proxy; http://HOST:PORT is expected.")
    name, _ = next(_given("no_proxy"), ("NO_PROXY", ""))
    return UsageError(
        f"{name} has an entry that can't be read; names, IPv4 addresses and networks, and IPv6 addresses without "
        "brackets are expected, with commas between them; IPv6 networks are not supported."
    )


def _given(*names: str) -> Iterator[tuple[str, str]]:
    """The set variables of these names, in any case, with their values."""
    return ((name, value) for name, value in os.environ.items() if name.lower() in names and value)
