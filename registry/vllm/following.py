"""Following: what the names in vLLM's table mean is asked again, and the table is brought to what the registry says.

A round asks for all names in one request. What moved is brought to this machine, loaded by the engine, and only then
put in the place of the old: nothing waits, nothing is refused in between, and a request that has begun ends on the
adapter that it began with. The table is the only state: each round starts from it, so that a round that failed, or a
name that somebody unloaded, needs no repair.

A name is dropped where the registry says that it must not be served. It is not dropped because the registry says
nothing, or does not see its base model either: that is another address or a narrower token, and no word about the name.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

from registry.errors import RegistryError, UsageError
from registry.follow.reporting import of_name
from registry.reference import Reference
from registry.schemas.followed import MOST_NAMES, Where
from registry.schemas.running import NameReport
from registry.vllm.served import Asked

LOG: Final = logging.getLogger("vllm.registry")
POLL: Final = 2.0  # seconds between rounds
_MOST: Final = 60.0  # seconds until what failed is tried again
_SPREAD: Final = 0.2  # so that the engines of a fleet do not ask all at once


class ServerEndedError(Exception):
    """The server of this process has ended: there is nothing to follow for."""


class EngineError(Exception):
    """What the engine says to what was asked of it."""


@dataclass(frozen=True)
class Memory:
    """The adapters that an engine has in memory, by number."""

    capacity: int  # --max-cpu-loras, else --max-loras: vLLM makes room by evicting the least recently used
    named: frozenset[int]  # those that names in the table lead to
    loaded: frozenset[int]

    def takes(self, number: int, before: int) -> bool:
        """Whether an adapter may be loaded before anybody asks for it.

        It may if all that is named fits with it. If not, the engine changes adapters all the time: then the next
        request for a name in use would evict the same as we do now, but one for a name that rests need never come.
        """
        return number in self.loaded or len(self.named | {number}) <= self.capacity or before in self.loaded


class Server(Protocol):
    """What following needs of vLLM; see `registry.vllm.inside`."""

    def names(self) -> dict[str, Any]:
        """The table: what each name that was asked for is answered with."""

    def memory(self) -> Memory:
        """Which adapters the engine has in memory."""

    def warm(self, request: Any) -> None:
        """Have the engine load an adapter; raises EngineError."""

    def put(self, name: str, before: Any, request: Any) -> bool:
        """Answer a name with another adapter from now on; False: somebody else changed it."""

    def drop(self, name: str, before: Any) -> bool:
        """Forget a name; False: somebody else did."""


class Source(Protocol):
    """What following needs of the resolver."""

    base: str

    def where(self, names: Sequence[str]) -> tuple[Where, ...]:
        """What the registry says that references mean; raises RegistryError."""

    def bring(self, asked: Asked) -> Any:
        """vLLM's request for what a name means now, its files on this machine; raises RegistryError or OSError."""

    def given(self, request: Any) -> str | None:
        """``PATH@N sha256:...`` of a request that the resolver made; None: somebody else made it."""


@dataclass(frozen=True)
class Entry:
    """A name in the table that the resolver put there."""

    name: str
    asked: Asked
    reference: str
    request: Any
    revision: str


@dataclass
class Wait:
    """When something that failed is tried again."""

    seconds: float = POLL
    until: float = 0.0  # of the clock that nobody sets
    problem: Exception | None = None

    def longer(self, problem: Exception | None = None) -> None:
        """It failed again."""
        self.problem = problem
        self.until = time.monotonic() + self.seconds
        self.seconds = min(_MOST, 2 * self.seconds)


class Follower:
    """One loop for one server, on a thread that ends with the process.

    Args:
        report: is told after each round what every name leads to, and why not to what it means.
    """

    def __init__(
        self, server: Server, source: Source, report: Callable[[list[NameReport]], None] | None = None
    ) -> None:
        self._server = server
        self._source = source
        self._report = report
        self._meant: dict[str, Where] = {}  # by reference, in the last round
        self._known: dict[str, Entry] = {}  # by name, since most are the same in each round
        self._refused: dict[str, Wait] = {}  # by revision
        self._told: dict[str, str] = {}  # by name: the last warning about it
        self._away: Wait | None = None
        self._thread = threading.Thread(target=self.run, name="registry-follow", daemon=True)

    def start(self) -> None:
        """Begin, on a thread of its own."""
        self._thread.start()

    def alive(self) -> bool:
        """Whether it has not ended with its server."""
        return self._thread.is_alive()

    def run(self, pause: Callable[[float], object] = time.sleep) -> None:
        """Follow until the server ends."""
        more = False
        while True:
            if not more:
                pause((self._away.seconds if self._away else POLL) * random.uniform(1 - _SPREAD, 1 + _SPREAD))  # noqa: S311
            try:
                more = self.attempt()
            except ServerEndedError:
                return

    def attempt(self) -> bool:
        """A round that may fail: what serves goes on, and one warning is logged until a round succeeds.

        Raises:
            ServerEndedError: the server has ended.
        """
        try:
            more = self.round()
            if self._report is not None:
                self._report(self._reports())
        except ServerEndedError:
            raise
        except Exception as problem:  # whatever it is, it must neither end the following nor harm what serves
            if self._away is None:
                self._away = Wait()
                LOG.warning(
                    "What the names in vLLM mean could not be asked, so they stay what they are: %s",
                    str(problem) or type(problem).__name__,
                    exc_info=problem if _is_unknown(problem) else None,
                )
            self._away.longer()
            return False
        if self._away is not None:
            self._away = None
            LOG.info("The registry was asked again what the names in vLLM mean.")
        return more

    def round(self) -> bool:
        """Ask for all names, and change what has changed; True: there was more than one round's time allows.

        Raises:
            RegistryError: the registry could not be asked.
            ServerEndedError: the server has ended.
            EngineError: it did not tell its names.
        """
        entries = list(self._entries())
        if not entries:
            return False
        begun = time.monotonic()
        answers = self._ask(sorted({entry.reference for entry in entries}))
        self._meant = {reference: answer for reference, (answer, _) in answers.items()}
        moved = []
        for entry in entries:
            answer, base_is_there = answers[entry.reference]
            if answer.reference is None:
                self._gone(entry, answer, base_is_there=base_is_there)
                continue
            self._told.pop(entry.name, None)
            if revision_of(answer) != entry.revision:
                moved.append((entry, revision_of(answer)))
        self._refused = {one: wait for one, wait in self._refused.items() if one in {to for _, to in moved}}
        self._told = {name: said for name, said in self._told.items() if name in {one.name for one in entries}}
        self._end_retracted([entry for entry, to in moved if to in self._refused])
        return self._move_all(moved, begun)

    def _reports(self) -> list[NameReport]:
        """What the table leads to now: a name that stays what the registry does not mean, with the reason."""
        found = {}
        for entry in self._entries():
            meant = self._meant.get(entry.reference)
            wait = None if meant is None else self._refused.get(revision_of(meant))
            problem = None if wait is None else wait.problem
            why = None if problem is None else str(problem) or type(problem).__name__
            code = None if problem is None else problem.code if isinstance(problem, RegistryError) else "engine"
            if meant is not None and meant.reference is None:  # it stays, which was warned of
                why, code = meant.problem, meant.code
            found[entry.reference] = of_name(
                entry.reference,
                serves=_number(entry.revision),
                wants=None if meant is None or meant.reference is None else _number(meant.reference),
                code=code,
                error=why,
            )
        return list(found.values())

    def _entries(self) -> Iterator[Entry]:
        known, self._known = self._known, {}
        for name, request in self._server.names().items():
            revision = self._source.given(request)
            if revision is None:
                continue
            entry = known.get(name)
            if entry is None or entry.request is not request or entry.revision != revision:
                entry = _entry(name, request, revision)
            if entry is not None:
                self._known[name] = entry
                yield entry

    def _ask(self, references: list[str]) -> dict[str, tuple[Where, bool]]:
        """What each means; and of what is not found, whether the base model is found in the same answer."""
        found = self._answers(references)
        missing = [one for one in references if found[one].code == "not_found"]
        base = self._source.base
        checked: dict[str, bool] = {}
        for start in range(0, len(missing), MOST_NAMES - 1):
            part = missing[start : start + MOST_NAMES - 1]
            again = self._answers([base, *part])
            found |= {one: again[one] for one in part}
            checked |= dict.fromkeys(part, again[base].reference is not None)
        return {one: (found[one], checked.get(one, False)) for one in references}

    def _answers(self, names: list[str]) -> dict[str, Where]:
        parts = (names[start : start + MOST_NAMES] for start in range(0, len(names), MOST_NAMES))
        return {answer.name: answer for part in parts for answer in self._source.where(part)}

    def _gone(self, entry: Entry, answer: Where, *, base_is_there: bool) -> None:
        if answer.code == "retracted" or (answer.code == "not_found" and base_is_there):
            if self._server.drop(entry.name, entry.request):
                LOG.warning("%s is served no more: %s", entry.name, answer.problem)
            return
        why = str(answer.problem)
        if answer.code == "not_found":
            why += (
                f" But the base model {self._source.base} is not found either: REGISTRY_URL leads to another registry, "
                "or the token sees less than before."
            )
        if self._told.get(entry.name) != why:
            self._told[entry.name] = why
            LOG.warning("%s stays %s, which it may no longer be: %s", entry.name, entry.revision.partition(" ")[0], why)

    def _end_retracted(self, stuck: list[Entry]) -> None:
        """Names that lead to what can't be loaded stay what they are only while that may be served itself."""
        served = {entry.name: entry.revision.partition(" ")[0] for entry in stuck}
        answers = self._ask(sorted(set(served.values())))
        for entry in stuck:
            answer, base_is_there = answers[served[entry.name]]
            if answer.reference is None:
                self._gone(entry, answer, base_is_there=base_is_there)

    def _move_all(self, moved: list[tuple[Entry, str]], begun: float) -> bool:
        """Those in use first; True: some are left, because a retraction must not wait for many of them."""
        due = [(entry, to) for entry, to in moved if self._is_due(to)]
        if not due:
            return False
        loaded = self._server.memory().loaded
        due.sort(key=lambda one: one[0].request.lora_int_id not in loaded)
        for done, (entry, to) in enumerate(due, 1):
            if self._is_due(to):  # else it was refused for the name before
                self._move(entry, to)
            if time.monotonic() - begun > POLL:
                return done < len(due)
        return False

    def _is_due(self, revision: str) -> bool:
        wait = self._refused.get(revision)
        return wait is None or wait.until <= time.monotonic()

    def _move(self, entry: Entry, revision: str) -> None:
        """Warm first, then switch; what is refused leaves the old one."""
        try:
            request = self._source.bring(entry.asked)
            if request.lora_int_id == entry.request.lora_int_id:  # the same bytes under the same name
                return
            if self._server.memory().takes(request.lora_int_id, entry.request.lora_int_id):
                self._server.warm(request)
                switched = self._server.put(entry.name, entry.request, request)
            else:
                switched = self._server.drop(entry.name, entry.request)
        except ServerEndedError:
            raise
        except Exception as problem:  # noqa: BLE001 - whatever it is: other names are not to wait for this one
            self._refuse(entry, revision, problem)
            return
        self._refused.pop(revision, None)
        if switched:
            LOG.info("%s moved from %s to %s", entry.name, entry.request.lora_name, request.lora_name)

    def _refuse(self, entry: Entry, revision: str, problem: Exception) -> None:
        if revision not in self._refused:
            LOG.error(
                "%s stays %s, because %s can't be loaded into vLLM, which is tried again: %s",
                entry.name,
                entry.request.lora_name,
                revision.partition(" ")[0],
                str(problem) or type(problem).__name__,
                exc_info=problem if _is_unknown(problem) else None,
            )
        self._refused.setdefault(revision, Wait()).longer(problem)


def _entry(name: str, request: Any, revision: str) -> Entry | None:
    try:
        asked = Asked.parse(name)
    except UsageError:  # a name of another grammar, under which somebody loaded one of our adapters
        return None
    return None if asked is None else Entry(name, asked, str(asked.reference), request, revision)


def _number(revision: str) -> int | None:
    """The number of ``PATH@N``, whatever stands after it."""
    return Reference.parse(revision.partition(" ")[0]).number


def _is_unknown(problem: Exception) -> bool:
    """Whether it is a bug, which needs its traceback."""
    return not isinstance(problem, RegistryError | EngineError | OSError)


def revision_of(answer: Where) -> str:
    """A revision as it is compared: its number in its path, and its digest, since a path may be made anew."""
    return f"{answer.reference} {answer.digest}"
