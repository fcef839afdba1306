"""The FastAPI app of a service process.

What is read rather than counted, of this process and of the whole registry: for metrics, and for its own row.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from typing import Any, Final

import anyio.to_thread
from anyio import CapacityLimiter
from fastapi import APIRouter, FastAPI, Request

from registry.catalogue.database import events
from registry.catalogue.database.following import Settled
from registry.catalogue.team.jobs import pending
from registry.catalogue.team.sessions import principal_of
from registry.catalogue.team.tokens import any_exist, sign_in
from registry.errors import RegistryError
from registry.http.access import Access, Anonymous, DenialLog
from registry.http.admission import Admission, ThreadAdmission
from registry.http.bodies import BodySender
from registry.http.context import Receive, Scope, Send
from registry.http.dependencies import ReaderThreads, Service
from registry.http.errors import Face, Refused, install, problem
from registry.http.health import Heartbeat, Readiness
from registry.http.limits import BoundsMiddleware, Limits
from registry.http.metrics import Metrics, SharedValues
from registry.http.middleware import RequestMiddleware
from registry.http.origins import OriginGuard
from registry.http.reads import ReadDispatch
from registry.http.streams import EventStreams
from registry.memory import DEFAULT_BUDGET, MemoryCache
from registry.rights import Principal
from registry.schemas.jobs import ReplicaFigures
from registry.services.deployment import Deployment
from registry.services.handlers.running import counts as what_runs
from registry.services.jobs import Runner
from registry.services.local import LocalRegistry
from registry.services.upkeep.health import damage, successes

log = logging.getLogger(__name__)


def of_process(deployment: Deployment) -> Mapping[str, Mapping[str, float]]:
    """Values by name and label that add up over processes."""
    use = deployment.database.pool()
    return {"pool": {"in_use": use.in_use, "idle": use.idle} | ({} if use.size is None else {"most": use.size})}


def figures_of(deployment: Deployment, memory: MemoryCache, *, bodies: int, jobs: int) -> ReplicaFigures:
    """What this process reports of itself in its row."""
    pool, kinds = deployment.database.pool(), memory.use().values()
    return ReplicaFigures(
        cache_hits=sum(use.hits for use in kinds),
        cache_misses=sum(use.misses for use in kinds),
        cache_bytes=sum(use.bytes for use in kinds),
        cache_budget=memory.budget,
        pool_in_use=pool.in_use,
        pool_idle=pool.idle,
        pool_most=pool.size,
        bodies=bodies,
        jobs=jobs,
    )


def of_registry(deployment: Deployment) -> Mapping[str, Mapping[str, float]]:
    """Values by name and label that every process reads alike."""
    try:
        with deployment.database.read() as session:
            return {
                "operations": {"open": pending(session)},
                "last_success_timestamp_seconds": successes(session),
                "damage": damage(session),
                **what_runs(session),
            }
    except RegistryError as error:
        log.warning("neither operations nor followers can be counted, nor the last upkeep found: %s", error)
        return {}


_PUBLISHED_EVERY: Final = 2.0  # seconds


def build(
    registry: LocalRegistry,
    routers: Sequence[APIRouter],
    faces: Sequence[Face] = (),
    *,
    public_url: str | None = None,
    anonymous: Anonymous = "none",
    limits: Limits | None = None,
    shared: SharedValues | None = None,
) -> FastAPI:
    """The app of a service.

    Args:
        registry: unrestricted; each request gets it with the rights of its principal.
        routers: the routes of the API.
        faces: others, each with its form of errors.
        public_url: the address that users reach it by; None for what it listens on.
        anonymous: access without a token.
        limits: limits of a request.
        shared: where metrics are added up, if this process is one of several workers.
    """
    limits = limits or Limits()
    service = _service(registry, anonymous, limits, shared)
    refused = partial(_record_denial, service.denials)
    app = _Application(
        limits,
        service.metrics,
        refused,
        docs_url=None,  # its pages load scripts from elsewhere
        redoc_url=None,
        openapi_url=None,  # a route of our own, which needs a token
        redirect_slashes=False,
        generate_unique_id_function=lambda route: route.name,
        lifespan=_lifespan(service),
    )
    app.state.service = service
    app.state.before_stop = service.streams.close
    app.state.readiness = Readiness(service.registry.deployment)
    app.state.public_url = public_url
    every = (*routers, *(router for face in faces for router in face.routers))
    for router in every:
        app.include_router(router)
    app.state.routes = tuple(route for router in every for route in router.routes)
    install(app, refused, faces)
    _make_routes(app)
    return app


def _make_routes(app: FastAPI) -> None:
    """Have FastAPI make what it makes of routes when a first request passes them: while other threads answer, it
    would set the process's filter of warnings, which is not safe.
    """
    for route in app.routes:
        route.matches({"type": "http", "method": "GET", "path": "", "root_path": "", "headers": []})


class _Application(FastAPI):
    """Our middleware stands before FastAPI's own, which has nothing to do where `ReadDispatch` finds the route."""

    def __init__(self, limits: Limits, metrics: Metrics, refused: Refused, **given: Any) -> None:
        super().__init__(**given)
        guarded = OriginGuard(ReadDispatch(super().__call__), refused)
        bounded = BoundsMiddleware(guarded, limits=limits)
        self._outermost = RequestMiddleware(bounded, limits=limits, metrics=metrics)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["app"] = self
        take = self._outermost if scope["type"] == "http" else super().__call__
        await take(scope, receive, send)


def _service(registry: LocalRegistry, anonymous: Anonymous, limits: Limits, shared: SharedValues | None) -> Service:
    memory = registry.deployment.memory or MemoryCache(DEFAULT_BUDGET)
    registry = registry.with_memory(memory).with_jobs()
    deployment = registry.deployment

    def has_tokens() -> bool:
        with deployment.database.read() as session:
            return any_exist(session)

    def record(principal: Principal, action: str, error: RegistryError) -> None:
        subject = principal.token or principal.name
        deployment.database.change(lambda session: events.record_denial(session, action, subject, principal, error))

    def by_thread(what: str) -> ThreadAdmission:
        return ThreadAdmission(what, slots=limits.computed, timeout=limits.thread_queue_time, place=shared)

    wait = limits.queue_time
    many = Admission("bodies", slots=limits.bodies, queue=limits.queue * 8, timeout=wait, place=shared)
    few = Admission("computed bodies", slots=limits.computed, queue=limits.queue, timeout=wait, place=shared)
    bodies = BodySender(
        threads=(limits.bodies + limits.computed) * (1 if shared is None else shared.workers),
        stall=limits.stall_time,
        admissions={"copied": many, "computed": few},
    )
    runner = Runner(deployment, threads=limits.jobs, describe=problem)
    readers = ReaderThreads(limits.threads)
    return Service(
        registry=registry,
        access=Access(
            partial(sign_in, deployment.database),
            has_tokens,
            anonymous,
            partial(principal_of, deployment.database),
        ),
        denials=DenialLog(record, most=limits.denials, most_of_one=limits.denials_of_one),
        bodies=bodies,
        limits=limits,
        metrics=Metrics(partial(of_registry, deployment), partial(of_process, deployment), memory.use, shared),
        memory=memory,
        truncations=by_thread("truncations"),
        tables=by_thread("base models to analyse"),
        looks=by_thread("tensors to look at"),
        runner=runner,
        heartbeat=Heartbeat(
            deployment.database,
            lambda: figures_of(deployment, memory, bodies=bodies.under_way, jobs=runner.running),
            None if shared is None else shared.worker,
        ),
        part_threads=CapacityLimiter(limits.parts),
        readers=readers,
        streams=EventStreams(Settled(deployment.database), readers.run, limits, shared),
    )


def _lifespan(service: Service) -> Callable[[FastAPI], AbstractAsyncContextManager[None]]:
    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        anyio.to_thread.current_default_thread_limiter().total_tokens = service.limits.threads
        service.runner.start()
        service.heartbeat.start()
        uses = service.registry.deployment.uses
        if uses is not None:
            uses.start()
        publishing = asyncio.create_task(_publish_metrics(service.metrics))
        try:
            yield
        finally:
            publishing.cancel()
            await anyio.to_thread.run_sync(service.heartbeat.close)
            await anyio.to_thread.run_sync(service.runner.close)
            if uses is not None:
                await anyio.to_thread.run_sync(uses.close)
            await anyio.to_thread.run_sync(service.readers.close)
            await anyio.to_thread.run_sync(service.memory.close)

    return lifespan


async def _publish_metrics(metrics: Metrics) -> None:
    while metrics.is_shared:
        metrics.publish()
        await asyncio.sleep(_PUBLISHED_EVERY)


async def _record_denial(denials: DenialLog, request: Request, error: RegistryError) -> None:
    await anyio.to_thread.run_sync(denials.note, request, error)
