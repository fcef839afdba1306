"""FastAPI dependencies of the routes: the service, and the registry with the rights of the request's principal.

The renderings that this process has made: distinguishes them from those of other replicas' arithmetic.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Annotated, cast

from anyio import CapacityLimiter
from fastapi import Depends, Request
from fastapi.dependencies.models import Dependant

from registry.errors import UnavailableError
from registry.http.access import Access, DenialLog
from registry.http.heartbeat import Heartbeat
from registry.http.origins import foreign_page
from registry.http.request.errors import MalformedError
from registry.http.request.limits import Limits
from registry.http.request.metrics import Metrics
from registry.http.threads import ReaderThreads
from registry.http.wire.admission import ThreadAdmission
from registry.http.wire.bodies import BodySender
from registry.memory import MemoryCache
from registry.reference import Path
from registry.rights import Principal, Rights
from registry.schemas.form import is_plain
from registry.schemas.protocol import AGENT, PROTOCOL, PROTOCOL_HEADER
from registry.services.jobs.runner import Runner
from registry.services.local import LocalRegistry


class Renderings:
    """A bounded LRU map of renderings made by this process."""

    def __init__(self, most: int = 16384) -> None:
        self._most = most
        self._lock = threading.Lock()
        self._paths: OrderedDict[str, Path] = OrderedDict()

    def note(self, rendering: str, path: Path) -> None:
        """Note a rendering of a path."""
        with self._lock:
            self._paths[rendering] = path
            self._paths.move_to_end(rendering)
            while len(self._paths) > self._most:
                self._paths.popitem(last=False)

    def knows(self, rendering: str, rights: Rights) -> bool:
        """Whether it was made here, of a path that these rights see."""
        with self._lock:
            path = self._paths.get(rendering)
        return path is not None and rights.sees(path)


@dataclass(frozen=True)
class Service:
    """The state of one service process."""

    registry: LocalRegistry  # unrestricted; narrowed for each request
    access: Access
    denials: DenialLog
    bodies: BodySender
    limits: Limits
    metrics: Metrics
    memory: MemoryCache
    truncations: ThreadAdmission
    tables: ThreadAdmission
    looks: ThreadAdmission
    runner: Runner
    heartbeat: Heartbeat
    part_threads: CapacityLimiter
    readers: ReaderThreads
    renderings: Renderings = field(default_factory=Renderings)


def service_of(request: Request) -> Service:
    """The service that handles a request."""
    return cast("Service", request.app.state.service)


def request_registry(request: Request) -> LocalRegistry:
    """The registry with the principal's rights; every route's first dependency: unauthenticated requests end here."""
    service = service_of(request)
    _check_client(request)
    principal = service.access.principal(request)
    _check_query(request)
    return registry_for(request, principal)


def registry_for(request: Request, principal: Principal) -> LocalRegistry:
    """The registry with the rights of the principal of a request, which denials of it name from now on.

    Where nobody said who they are, what a page of another site makes a browser read is no use by anybody here.
    """
    request.state.principal = principal
    found = service_of(request).registry.with_principal(principal)
    return found if principal.token is not None or foreign_page(request) is None else found.without_uses()


def _check_client(request: Request) -> None:
    """Refuse a client of an older protocol before anything is done: it would call what it can't read a failure.

    Those of protocol 3 don't say which one they speak. Other programs don't either, and are served.
    """
    said = request.headers.get(PROTOCOL_HEADER)
    if said is None and request.headers.get("user-agent", "").startswith(AGENT):
        said = "3"
    if said is not None and (not said.isdecimal() or int(said) < PROTOCOL):
        raise UnavailableError(
            f"This client speaks protocol {said[:16]!a}, and this registry speaks {PROTOCOL}: upgrade adapter-registry "
            "on that machine.",
            code="other_version",
        )


def _check_query(request: Request) -> None:
    """Refuse unknown and repeated query parameters, and texts that no database stores.

    A misspelt parameter that is silently ignored is worse than an error.
    """
    items = request.query_params.multi_items()
    if not items:
        return
    given = [name for name, _ in items]
    route = request.scope["route"]
    known: frozenset[str] = getattr(route, "query_names", None) or query_names(route.dependant)
    for name, value in items:
        if name not in known:
            names = ", ".join(sorted(known)) or "none"
            raise MalformedError(f"The query parameter {name[:64]!r} is unknown at this route, which accepts {names}.")
        if given.count(name) > 1:
            raise MalformedError(f"The query parameter {name} is given {given.count(name)} times, once is expected.")
        if not is_plain(value):
            raise MalformedError(
                f"The query parameter {name} contains a NUL or an invalid character, plain text is expected."
            )


def query_names(dependant: Dependant) -> frozenset[str]:
    """The query parameters that a route accepts."""
    own = frozenset(field.alias for field in dependant.query_params)
    return own.union(*map(query_names, dependant.dependencies))


def address_of(request: Request) -> str:
    """The base URL as the client addressed the service; the service's own host name may differ."""
    return str(request.base_url).rstrip("/")


RequestRegistry = Annotated[LocalRegistry, Depends(request_registry)]
