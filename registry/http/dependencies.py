"""FastAPI dependencies of the routes: the service, and the registry with the rights of the request's principal.

The service knows the renderings that this process has made, which distinguishes them from those of other replicas'
arithmetic, and has worker threads for what only reads. Of these the one that was idle last gets the next work: what it
needs is still in the caches. A pool of the standard library hands work round all of its threads in turn, which takes
twice as long for a short read.
"""

from __future__ import annotations

import asyncio
import threading
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Annotated, Any, Final, TypeVar, cast

from anyio import CapacityLimiter
from fastapi import Depends, Request

from registry.errors import UnavailableError
from registry.http.access import Access, DenialLog
from registry.http.admission import ThreadAdmission
from registry.http.bodies import BodySender
from registry.http.errors import MalformedError
from registry.http.health import Heartbeat
from registry.http.limits import Limits
from registry.http.metrics import Metrics
from registry.http.origins import foreign_page
from registry.http.payloads import call_of
from registry.http.streams import EventStreams
from registry.memory import MemoryCache
from registry.reference import Path
from registry.rights import Principal, Rights
from registry.schemas.form import is_plain
from registry.schemas.protocol import AGENT, PROTOCOL, PROTOCOL_HEADER
from registry.services.jobs import Runner
from registry.services.local import LocalRegistry

T = TypeVar("T")
_Job = tuple[Callable[..., Any], tuple[Any, ...], "asyncio.Future[Any]"]


class ReaderThreads:
    """Threads that are started as they are needed. All but `close` is called by one event loop.

    Args:
        most: threads; what comes while all of them work, waits in its order.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._all: list[_Worker] = []
        self._idle: list[_Worker] = []
        self._waiting: deque[_Job] = deque()

    async def run(self, work: Callable[..., T], *given: Any) -> T:
        """The result of ``work(*given)``, or its error, from one of the threads."""
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        job = (work, given, future)
        if self._idle:
            self._idle.pop().jobs.put(job)
        elif len(self._all) < self._most:
            self._all.append(_Worker(self._done, f"reader-{len(self._all)}"))
            self._all[-1].jobs.put(job)
        else:
            self._waiting.append(job)
        return await future

    def _done(self, worker: _Worker, future: asyncio.Future[Any], result: Any, error: BaseException | None) -> None:
        if self._waiting:
            worker.jobs.put(self._waiting.popleft())
        else:
            self._idle.append(worker)
        if future.cancelled():
            return
        if error is None:
            future.set_result(result)
        else:
            future.set_exception(error)

    def close(self) -> None:
        """End all threads once they have done what they do."""
        for worker in self._all:
            worker.jobs.put(None)
        for worker in self._all:
            worker.thread.join()


class _Worker:
    def __init__(self, done: Callable[..., None], name: str) -> None:
        self.jobs: Final[SimpleQueue[_Job | None]] = SimpleQueue()
        self._done = done
        self.thread: Final = threading.Thread(target=self._work, name=name, daemon=True)
        self.thread.start()

    def _work(self) -> None:
        while (job := self.jobs.get()) is not None:
            work, given, future = job
            result, error = None, None
            try:
                result = work(*given)
            except BaseException as raised:  # noqa: BLE001 - whoever waits gets it
                error = raised
            try:
                future.get_loop().call_soon_threadsafe(self._done, self, future, result, error)
            except RuntimeError:  # the loop was stopped meanwhile, and nobody waits
                return
            del job, work, given, future, result, error  # no reference is held until the next one


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
    streams: EventStreams
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

    If nobody said who they are, what a page of another site makes a browser read is no use by anybody here.
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
    known = call_of(request.scope["route"]).query_names
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


def address_of(request: Request) -> str:
    """The base URL as the client addressed the service; the service's own host name may differ."""
    return str(request.base_url).rstrip("/")


RequestRegistry = Annotated[LocalRegistry, Depends(request_registry)]
