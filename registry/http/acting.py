"""What the routes work with: the service that they belong to, and the registry as the one who asks may see it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, cast

from anyio import CapacityLimiter
from fastapi import Depends, Request
from fastapi.dependencies.models import Dependant

from registry.catalogue.texts import is_plain
from registry.http.access import Access, Refusals
from registry.http.admission import Benches
from registry.http.bodies import Bodies
from registry.http.limits import Limits
from registry.http.metrics import Metrics
from registry.http.problems import MalformedError
from registry.memory import MemoryCache
from registry.services.local import LocalRegistry
from registry.services.running import Runner


@dataclass(frozen=True)
class Service:
    """One service process."""

    registry: LocalRegistry  # with every right: narrowed for each request
    access: Access
    refusals: Refusals
    bodies: Bodies
    limits: Limits
    metrics: Metrics
    memory: MemoryCache
    truncations: Benches
    tables: Benches
    runner: Runner
    part_threads: CapacityLimiter


def service_of(request: Request) -> Service:
    """The service that a request came to."""
    return cast("Service", request.app.state.service)


def acting(request: Request) -> LocalRegistry:
    """The registry of the one who asks; the first dependency of a route, so that strangers cost nothing more."""
    service = service_of(request)
    principal = service.access.principal(request)
    _check_query(request)
    request.state.principal = principal
    return service.registry.with_principal(principal)


def _check_query(request: Request) -> None:
    """Refuse what no route knows, what is said twice, and texts that no database takes.

    A misspelt parameter that is silently ignored is worse than none.
    """
    items = request.query_params.multi_items()
    if not items:
        return
    given = [name for name, _ in items]
    known = _query_names(request.scope["route"].dependant)
    for name, value in items:
        if name not in known:
            names = ", ".join(sorted(known)) or "none"
            raise MalformedError(f"The query parameter {name[:64]!r} is not one of this route, which knows {names}.")
        if given.count(name) > 1:
            raise MalformedError(f"The query parameter {name} is given {given.count(name)} times, once is expected.")
        if not is_plain(value):
            raise MalformedError(
                f"The query parameter {name} holds a NUL or a broken character, plain text is expected."
            )


def _query_names(dependant: Dependant) -> set[str]:
    own = {field.alias for field in dependant.query_params}
    return own.union(*map(_query_names, dependant.dependencies))


def address_of(request: Request) -> str:
    """The address that the service was asked at: what clients call this registry. Its own names are not theirs."""
    return str(request.base_url).rstrip("/")


Acting = Annotated[LocalRegistry, Depends(acting)]
