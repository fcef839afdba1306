"""The service process: checks access rules, reports readiness, and shuts down gracefully."""

from __future__ import annotations

import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from registry.catalogue.team.tokens import any_exist
from registry.errors import NotAllowedError
from registry.http.access import Anonymous
from registry.http.addresses import is_loopback
from registry.http.request.limits import Limits
from registry.http.request.middleware import log_to_stderr
from registry.http.wire.webserver import Server, address_of, listen, stopped_by_signals
from registry.services.local import LocalRegistry

if TYPE_CHECKING:
    from fastapi import FastAPI


def serve(
    registry: LocalRegistry,
    make_app: Callable[[LocalRegistry, Anonymous, Limits], FastAPI],
    *,
    host: str,
    port: int,
    anonymous: Literal["none", "read"] = "none",
    embedded: bool,
    new: bool = False,
    trusted_proxies: Sequence[str] = (),
    limits: Limits | None = None,
) -> None:
    """Serve a registry until SIGTERM or SIGINT; returns when all requests have ended.

    Args:
        registry: unrestricted.
        make_app: makes the ASGI app, given the anonymous access.
        host: an address of this machine, or a name of one.
        port: 0 takes a free one.
        anonymous: access without a token.
        embedded: the registry is a folder: on loopback, and as long as it has no tokens, it is open to this machine.
        new: it was made just now: whoever meant another one is told that this one is empty.
        trusted_proxies: addresses and networks of proxies whose X-Forwarded-For is trusted.
        limits: limits of a request.

    Raises:
        NotAllowedError: the registry may not be served like this.
        UnavailableError: the database or the store can't be used, or the address is taken.
    """
    limits = limits or Limits()
    with open_front(registry, host=host, port=port, anonymous=anonymous, embedded=embedded, new=new) as front:
        log_to_stderr()
        server = Server(make_app(registry, front.access, limits), limits, trusted_proxies)
        server.announce = front.announce
        with stopped_by_signals(server, limits):
            server.run([front.listener])


@dataclass(frozen=True)
class Front:
    """Where a service answers, what it allows without a token, and what its first line says of the registry."""

    listener: socket.socket
    access: Anonymous
    registry: str

    def announce(self) -> None:
        """Say that requests are answered from now on."""
        print(f"Serving {self.registry} on {address_of(self.listener)}", file=sys.stderr, flush=True)


@contextmanager
def open_front(
    registry: LocalRegistry,
    *,
    host: str,
    port: int,
    anonymous: Literal["none", "read"],
    embedded: bool,
    new: bool,
) -> Iterator[Front]:
    """Check that a registry can and may be served, and listen; the arguments and errors are those of `serve`."""
    deployment = registry.deployment
    deployment.database.ping()
    deployment.blobs.ping()
    with deployment.database.read() as session:
        has_tokens = any_exist(session)
    access = allowed_access(host, anonymous, embedded=embedded, has_tokens=has_tokens)
    with closing(listen(host, port)) as listener:
        yield Front(listener, access, f"{deployment.url}{' (new and empty)' if new else ''}")


def allowed_access(host: str, anonymous: Literal["none", "read"], *, embedded: bool, has_tokens: bool) -> Anonymous:
    """The anonymous access at this address.

    Raises:
        NotAllowedError: nobody would have access, or everybody would have all of it.
    """
    if anonymous == "read":
        return "read"
    if embedded and is_loopback(host):
        return "open"  # until there is a token: see `Access`
    if not has_tokens:
        where = f"{host}, which others can reach," if not is_loopback(host) else host
        raise NotAllowedError(
            f"The registry has no tokens, so it is not served on {where} where requests could not be authenticated: "
            "create one with `registry token create --role admin`, or allow reading without a token with --anonymous "
            "read."
        )
    return "none"
