"""The app of a service process, put together from a registry and the limits of what a request may take."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial

import anyio.to_thread
from anyio import CapacityLimiter
from fastapi import APIRouter, FastAPI, Request
from starlette.middleware import Middleware

from registry.catalogue import events
from registry.catalogue.tokens import any_exist, sign_in
from registry.errors import RegistryError
from registry.http.access import Access, Anonymous, Refusals
from registry.http.acting import Service
from registry.http.admission import Admission, Benches
from registry.http.bodies import Bodies
from registry.http.bounds import Bounds
from registry.http.envelope import Envelope
from registry.http.gauges import gauges
from registry.http.limits import Limits
from registry.http.metrics import Metrics
from registry.http.problems import install, problem
from registry.http.readiness import Readiness
from registry.memory import DEFAULT_BUDGET, MemoryCache
from registry.rights import Principal
from registry.services.local import LocalRegistry
from registry.services.running import Runner


def build(
    registry: LocalRegistry,
    routers: Sequence[APIRouter],
    *,
    anonymous: Anonymous = "none",
    limits: Limits | None = None,
) -> FastAPI:
    """The app of a service.

    Args:
        registry: with every right; each request works with the rights of the one who asks.
        routers: what it answers: the faces of the registry.
        anonymous: what those without a token may do.
        limits: what one request may take.
    """
    limits = limits or Limits()
    service = _service(registry, anonymous, limits)
    app = FastAPI(
        docs_url=None,  # its pages load scripts from elsewhere
        redoc_url=None,
        openapi_url=None,  # a route of our own, which asks for a token
        redirect_slashes=False,
        generate_unique_id_function=lambda route: route.name,
        lifespan=_lifespan(service),
        middleware=[
            Middleware(Envelope, limits=limits, metrics=service.metrics),
            Middleware(Bounds, limits=limits),
        ],
    )
    app.state.service = service
    app.state.readiness = Readiness(service.registry.deployment)
    for router in routers:
        app.include_router(router)
    install(app, partial(_note_refusal, service.refusals))
    return app


def _service(registry: LocalRegistry, anonymous: Anonymous, limits: Limits) -> Service:
    memory = registry.deployment.memory or MemoryCache(DEFAULT_BUDGET)
    registry = registry.with_memory(memory)
    deployment = registry.deployment

    def has_tokens() -> bool:
        with deployment.database.read() as session:
            return any_exist(session)

    def record(principal: Principal, action: str, error: RegistryError) -> None:
        subject = principal.token or principal.name
        deployment.database.change(lambda session: events.record_refusal(session, action, subject, principal, error))

    many = Admission("bodies", seats=limits.bodies, queue=limits.queue * 8, patience=limits.queue_time)
    few = Admission("computed bodies", seats=limits.computed, queue=limits.queue, patience=limits.queue_time)
    admissions = {"copied": many, "computed": few}
    return Service(
        registry=registry,
        access=Access(partial(sign_in, deployment.database), has_tokens, anonymous),
        refusals=Refusals(record),
        bodies=Bodies(threads=limits.bodies + limits.computed, stall=limits.stall_time, admissions=admissions),
        limits=limits,
        metrics=Metrics(partial(gauges, deployment), memory.use),
        memory=memory,
        truncations=Benches("truncations", seats=limits.computed, patience=limits.bench_time),
        tables=Benches("base models to understand", seats=limits.computed, patience=limits.bench_time),
        runner=Runner(deployment, describe=problem),
        part_threads=CapacityLimiter(limits.parts),
    )


def _lifespan(service: Service) -> Callable[[FastAPI], AbstractAsyncContextManager[None]]:
    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        anyio.to_thread.current_default_thread_limiter().total_tokens = service.limits.threads
        service.runner.start()
        try:
            yield
        finally:
            await anyio.to_thread.run_sync(service.runner.close)
            await anyio.to_thread.run_sync(service.memory.close)

    return lifespan


async def _note_refusal(refusals: Refusals, request: Request, error: RegistryError) -> None:
    await anyio.to_thread.run_sync(refusals.note, request, error)
