"""A service of several workers: starts them on one port, starts them again when they die, and stops them together.

A worker is a process that answers on the shared port until its connection to the supervisor says stop, or ends. The
supervisor of uvicorn is not used: it makes the app by import in each process, runs uvicorn's own server in it instead
of ours, kills a worker whose threads leave it no turn for five seconds, and has no words of ours for logs and metrics.
"""

from __future__ import annotations

import logging
import multiprocessing
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection, Pipe, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Final, Literal

from registry.errors import RegistryError, UnavailableError
from registry.http.limits import Limits
from registry.http.metrics import SharedValues
from registry.http.middleware import log_to_stderr
from registry.http.server import AFTER_STOP, SIGNALS, Front, Server, end

if TYPE_CHECKING:
    from fastapi import FastAPI


READY: Final = "ready"
Order = Literal["stop", "stop at once"]
MakeService = Callable[[Limits, SharedValues], AbstractContextManager["FastAPI"]]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Work:
    """What all workers of a service do; it travels to their processes.

    Args:
        make: opens the registry and makes the app on it.
        listener: the socket that all of them accept from.
        limits: those of one worker.
        trusted_proxies: addresses and networks of proxies whose X-Forwarded-For is trusted.
    """

    make: MakeService
    listener: socket.socket
    limits: Limits
    trusted_proxies: tuple[str, ...] = ()


def work(given: Work, shared: SharedValues, control: Connection) -> None:
    """Answer requests until an order says to stop, or whoever gives orders is gone.

    Says `READY` once. SIGTERM stops this worker alone, and gracefully; another one takes its place.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes of a terminal: the supervisor stops us
    log_to_stderr(shared.worker)
    try:
        with given.make(given.limits, shared) as app:
            server = Server(app, given.limits, given.trusted_proxies)
            server.announce = partial(_say_ready, control)
            signal.signal(signal.SIGTERM, lambda _number, _frame: end(server, given.limits))
            threading.Thread(target=_obey, args=(server, given.limits, control), name="orders", daemon=True).start()
            server.run([given.listener])
    except RegistryError as error:
        log.error("the worker can't start: %s", error)
        raise SystemExit(1) from None


def _say_ready(control: Connection) -> None:
    with suppress(OSError):  # the other end is gone, which `_obey` finds too
        control.send(READY)


def _obey(server: Server, limits: Limits, control: Connection) -> None:
    while True:
        try:
            order: Order = control.recv()
        except (EOFError, OSError):
            end(server, limits)
            return
        if order == "stop at once":
            server.force_exit = True
        end(server, limits)


_LAST: Final = 5.0  # seconds after a worker should have ended by itself
_HEALTHY: Final = 60.0  # seconds: a worker that ran for so long is started again at once
_LONGEST: Final = 30.0  # seconds between two attempts to start a worker


def serve_with_workers(front: Front, given: Work, count: int) -> None:
    """Serve with so many processes until SIGTERM or SIGINT; returns when the requests of all have ended.

    Args:
        front: what is served, and the socket that is listened on; it is closed when the service stops.
        given: what each worker does; its limits are those of one.
        count: workers.

    Raises:
        UnavailableError: a worker could not begin when the service started; the log says why.
    """
    log_to_stderr()
    with tempfile.TemporaryDirectory(prefix="registry-workers-") as folder, _signals() as signals:
        supervisor = _Supervisor(front, given, Path(folder), signals, count)
        try:
            supervisor.run()
        finally:
            supervisor.close()


@dataclass
class _Worker:
    """One place among the workers, and the process that has it now."""

    number: int
    process: BaseProcess
    control: Connection
    began: float
    ready: bool = False
    failures: int = 0  # starts in a row that did not last


class _Supervisor:
    def __init__(self, front: Front, given: Work, folder: Path, signals: Connection, count: int) -> None:
        self._front = front
        self._given = given
        self._folder = folder
        self._count = count
        self._signals = signals
        self._spawn = multiprocessing.get_context("spawn")  # a fork would share connections and threads
        self._announced = False
        self._failed = False
        self._stopping: float | None = None  # since when
        self._due: dict[int, tuple[float, int]] = {}  # when the worker of a number is started, and its failures
        self._workers: dict[int, _Worker] = {}

    def run(self) -> None:
        for number in range(1, self._count + 1):
            self._workers[number] = self._start(number, 0)
        while self._workers or self._due:
            self._wait()
            self._start_those_due()
            self._kill_those_late()
        if self._failed:
            raise UnavailableError("A worker of the service could not start; its log says why.")

    def close(self) -> None:
        """Let go of the workers that are left after an error; each ends when its connection does."""
        for worker in self._workers.values():
            worker.control.close()

    def _start(self, number: int, failures: int) -> _Worker:
        ours, theirs = Pipe()
        process = self._spawn.Process(
            target=work,
            args=(self._given, SharedValues(self._folder, number, self._count), theirs),
            name=f"worker-{number}",
        )
        process.start()
        theirs.close()  # so that the end of either process is the end of the connection
        log.info("a worker starts", extra={"worker": number, "pid": process.pid})
        return _Worker(number, process, ours, time.monotonic(), failures=failures)

    def _wait(self) -> None:
        by_control = {worker.control: worker for worker in self._workers.values() if not worker.ready}
        by_sentinel = {worker.process.sentinel: worker for worker in self._workers.values()}
        happened = wait([self._signals, *by_control, *by_sentinel], timeout=self._until_next())
        if self._signals in happened:
            self._signals.recv_bytes()
            self._stop()
        for control in [one for one in happened if one in by_control]:
            self._heard(by_control[control])
        for sentinel in [one for one in happened if one in by_sentinel]:
            self._ended(by_sentinel[sentinel])

    def _until_next(self) -> float | None:
        times = [when for when, _ in self._due.values()]
        if self._stopping is not None:
            times.append(self._deadline(self._stopping))
        return max(0.0, min(times) - time.monotonic()) if times else None

    def _heard(self, worker: _Worker) -> None:
        try:
            worker.control.recv()
        except EOFError:
            return  # it ended, as its sentinel says
        worker.ready = True
        if not self._announced and all(one.ready for one in self._workers.values()):
            self._announced = True
            self._front.announce()
        elif self._announced:
            log.info("a worker is ready again", extra={"worker": worker.number})

    def _ended(self, worker: _Worker) -> None:
        worker.process.join()
        worker.control.close()
        del self._workers[worker.number]
        if self._stopping is not None:
            return
        status = worker.process.exitcode
        if not self._announced:
            log.error("a worker ended before it was ready", extra={"worker": worker.number, "status": status})
            self._failed = True
            self._stop()
            return
        lasted = time.monotonic() - worker.began > _HEALTHY
        failures = 0 if lasted else worker.failures + 1
        pause = 0.0 if failures < 2 else min(2.0**failures, _LONGEST)
        log.error(
            "a worker ended and is started again",
            extra={"worker": worker.number, "status": status, "seconds": pause},
        )
        self._due[worker.number] = (time.monotonic() + pause, failures)

    def _start_those_due(self) -> None:
        for number, (when, failures) in list(self._due.items()):
            if time.monotonic() >= when:
                del self._due[number]
                self._workers[number] = self._start(number, failures)

    def _stop(self) -> None:
        """The first time gracefully, then at once."""
        order: Order = "stop" if self._stopping is None else "stop at once"
        if self._stopping is None:
            self._stopping = time.monotonic()
            self._due.clear()
            self._front.listener.close()
        for worker in self._workers.values():
            if worker.ready:
                self._tell(worker, order)
            else:  # it has no requests yet
                worker.process.terminate()

    def _tell(self, worker: _Worker, order: Order) -> None:
        try:
            worker.control.send(order)
        except OSError:
            log.info("a worker ended before it was told to stop", extra={"worker": worker.number})

    def _deadline(self, since: float) -> float:
        return since + self._given.limits.stop_time + AFTER_STOP + _LAST

    def _kill_those_late(self) -> None:
        if self._stopping is not None and time.monotonic() > self._deadline(self._stopping):
            for worker in self._workers.values():
                log.error("a worker did not stop and is killed", extra={"worker": worker.number})
                worker.process.kill()


@contextmanager
def _signals() -> Iterator[Connection]:
    """A connection on which a byte arrives for each SIGTERM and SIGINT."""
    ours, theirs = Pipe(duplex=False)

    def note(_number: int, _frame: FrameType | None) -> None:
        theirs.send_bytes(b".")

    before = {number: signal.signal(number, note) for number in SIGNALS}
    try:
        yield ours
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        ours.close()
        theirs.close()
