"""All engines behind one host name, each followed by itself: its addresses are found again in every round.

Engines are brought to what the names say one after another, so that those of a fleet never all switch at once. One that
is away or refuses holds up no other. Each has its own line in ``registry ps``. The folders are common to all.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final, NoReturn

from registry.errors import RegistryError
from registry.follow.asked import Engines
from registry.follow.endpoint import Endpoint
from registry.follow.engines import EngineSink
from registry.follow.plugin import PluginSink
from registry.follow.reporting import Reporter
from registry.follow.rounds import Follower
from registry.follow.sinks import Sink
from registry.schemas.followed import Step

_MOST: Final = 15.0
"""Seconds until an engine that is away is asked again, at most: it may be starting."""


@dataclass
class _Member:
    """One engine, as long as its address is there."""

    endpoint: Endpoint
    follower: Follower
    reporter: Reporter | None
    ends: ExitStack
    sink: EngineSink | PluginSink | None = None  # None: it has not answered yet, or not the last time
    failures: int = 0
    not_before: float = 0.0
    problem: RegistryError | None = None


@dataclass
class Fleet:
    """See the module.

    Args:
        make: makes the follower of a sink, which tells its steps to what is given with it.
        tell: takes each step as soon as it is done, with the address of its engine.
        report: makes what reports for an engine, by its address; None: nothing is reported.
        clock: a clock that never goes back, for tests.
    """

    place: Engines
    make: Callable[[Sink, Callable[[Step], None]], Follower]
    tell: Callable[[Step], None]
    report: Callable[[str], Reporter] | None = None
    keep_for: float = 600.0
    dry_run: bool = False
    now: Callable[[], float] = time.time
    clock: Callable[[], float] = time.monotonic
    _members: dict[str, _Member] = field(default_factory=dict)

    @contextmanager
    def opened(self) -> Iterator[None]:
        """The folders, for this process alone, and goodbyes at the end; raises ConflictError."""
        with ExitStack() as stack:
            if not self.dry_run:
                stack.enter_context(self.place.room.opened())
            stack.callback(self._part, set())
            yield

    def round(self, interval: float = 3.0) -> list[RegistryError]:
        """One round over all engines; what went wrong, engine by engine.

        Raises:
            UnavailableError: the host has no addresses, or is not known; nothing was changed.
        """
        found = self.place.found()
        self._part(set(found))
        problems: list[RegistryError] = []
        for address in found:
            if address not in self._members:
                self._members[address] = self._member(address)
            member = self._members[address]
            if member.not_before <= self.clock():
                problems += self._attempt(member, interval)
            elif member.problem is not None:
                problems.append(member.problem)
        return problems + self._swept()

    def _member(self, address: str) -> _Member:
        ends, endpoint = ExitStack(), self.place.endpoint(address)
        ends.callback(endpoint.close)
        reporter = None if self.report is None else ends.enter_context(self.report(address))
        if reporter is not None:
            ends.enter_context(reporter.beating())

        def tell(step: Step) -> None:
            self.tell(step.model_copy(update={"engine": address}))

        return _Member(endpoint, self.make(self.place.sink(endpoint, ()), tell), reporter, ends)

    def _attempt(self, member: _Member, interval: float) -> list[RegistryError]:
        try:
            if member.sink is None:
                member.sink = self.place.sink(member.endpoint, member.follower.bases)
                member.follower.sink = member.sink
            problems = member.follower.round()
            member.failures, member.problem = 0, None
        except RegistryError as problem:
            member.sink = None  # it may be another process when it comes back
            if str(problem) != str(member.problem):
                member.follower.failed(problem)
            later = min(interval * 2.0 ** min(member.failures, 8), max(interval, _MOST))
            member.failures, member.problem, problems = member.failures + 1, problem, [problem]
            member.not_before = self.clock() + later
        if member.reporter is not None:
            member.reporter.update(member.follower.reports())
        return problems

    def _swept(self) -> list[RegistryError]:
        """Remove old folders, unless an engine can't be asked whether it reads them."""
        sinks = [member.sink for member in self._members.values()]
        if self.dry_run or None in sinks:
            return []
        try:
            used = {key for sink in sinks if sink is not None for key in sink.used()}
            self.place.room.read()
            for reference in self.place.room.sweep(used, self.now(), self.keep_for):
                self.tell(
                    Step(at=datetime.fromtimestamp(self.now(), UTC), does="removed", name=None, reference=reference)
                )
        except RegistryError as problem:
            self._tell(problem)
            return [problem]
        return []

    def _part(self, staying: Collection[str]) -> None:
        """Say goodbye for engines whose addresses are gone."""
        for address in self._members.keys() - staying:
            self._members.pop(address).ends.close()

    def _tell(self, problem: RegistryError) -> None:
        at = datetime.fromtimestamp(self.now(), UTC)
        self.tell(Step(at=at, does="failed", name=None, code=problem.code, problem=str(problem)))

    def follow(self, interval: float, wait: Callable[[float], None] = time.sleep) -> NoReturn:
        """Rounds without end."""
        told = ""
        while True:
            try:
                self.round(interval)
                told = ""
            except RegistryError as problem:
                if told != str(problem):
                    told = str(problem)
                    self._tell(problem)
            wait(interval)
