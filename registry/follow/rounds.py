"""Rounds of following: ask where all names point, compare with the sink, bring what is new, switch, then clear up.

A name is taken away only on the registry's word: what it leads to is retracted, or the name is gone while the base
model is there. A registry that can't be reached, another one, or a token of a smaller scope says neither.

Nothing here is a state that counts: what failed when is kept so as not to try again at once.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final

from registry.errors import (
    CODES,
    NotAllowedError,
    NotFoundError,
    RegistryError,
    RetractedError,
    UnavailableError,
    UsageError,
)
from registry.follow.asked import check_names
from registry.follow.reporting import of_name
from registry.follow.sinks import Form, Sink
from registry.operations.registry import Registry
from registry.progress import SILENT, Progress
from registry.reference import Reference
from registry.schemas.followed import Step, StepKind, Where
from registry.schemas.running import NameReport

_LONGEST: Final = 300.0
"""Seconds between tries of what fails."""
_AWAY: Final = 15.0
"""The same, while the name leads nowhere and may at any moment: such as one whose last requests end."""
_CLASSES: Final[dict[str, type[RegistryError]]] = {
    "retracted": RetractedError,
    "not_found": NotFoundError,
    "not_allowed": NotAllowedError,
    "bad_name": UsageError,
    "usage": UsageError,
}


@dataclass
class Follower:
    """One follower of some names into a sink.

    Args:
        tell: takes each step as soon as it is done.
        keep_for: seconds that a folder stays after the last name left it.
        dry_run: tell the steps, and change nothing.
        now: seconds since 1970.

    Raises:
        UsageError: of `check_names`.
    """

    registry: Registry
    names: Sequence[str]
    sink: Sink
    tell: Callable[[Step], None]
    form: Form = field(default_factory=Form)
    keep_for: float = 600.0
    dry_run: bool = False
    tell_in_place: bool = False
    progress: Progress = SILENT
    now: Callable[[], float] = time.time
    _wants: dict[str, str | None] = field(default_factory=dict)  # each name with what it points at, in the last round
    _serves: dict[str, str] = field(default_factory=dict)  # each name with what it leads to now
    _problems: dict[str, RegistryError] = field(default_factory=dict)  # why a name does not lead to what it wants
    _failed: dict[tuple[str, str], tuple[int, float, RegistryError]] = field(default_factory=dict)  # tries, not before
    _told: dict[str, str] = field(default_factory=dict)  # the last sentence about a name that leads nowhere

    def __post_init__(self) -> None:
        self.bases = check_names(self.names)

    def round(self) -> list[RegistryError]:
        """One round; what went wrong, a problem a name.

        Raises:
            RegistryError: the registry or the sink can't be asked; nothing was changed.
        """
        there = dict(self.sink.there())
        asked = self._asked(there)
        self._serves, self._problems = {name: led for name, led in there.items() if led}, {}
        self._wants = {one.name: one.reference for one in asked.values() if "*" not in one.name}
        self._told = {name: said for name, said in self._told.items() if name in asked}
        problems = [problem for one in asked.values() if (problem := self._missing(one, there)) is not None]
        stuck: dict[str, str] = {}
        for one in asked.values():
            if one.reference is None:
                continue
            before = there.get(one.name) or None
            problem = self._placed(one, before)
            if problem is not None:
                problems.append(problem)
                self._problems[one.name] = problem
                stuck |= {one.name: before} if before is not None else {}
        self._retire(stuck)
        wanted = {(one.name, one.reference) for one in asked.values()}
        self._failed = {tried: until for tried, until in self._failed.items() if tried in wanted}
        if not self.dry_run:
            problems += self._swept()
        return problems

    def _asked(self, there: Mapping[str, str]) -> dict[str, Where]:
        """Where each followed name leads, and why those that are there lead nowhere now."""
        answers = {one.name: one for one in self.registry.where([*self.names, *self.bases])}
        bases = {name for name in self.bases if answers.pop(name).reference is not None}
        lost = sorted(there.keys() - answers.keys())
        if any(one.reference is not None for one in answers.values()):
            # Not by a pattern any more: the tag is gone, or nobody asks for it. A call that finds nothing at all is
            # more likely a mistake than the wish to lose all.
            for one in self.registry.where(lost) if lost else ():
                told = f"{one.name} is not followed any more." if one.problem is None else one.problem
                answers[one.name] = Where(name=one.name, code=one.code or "not_found", problem=told)
        return {
            name: one if one.code != "not_found" or Reference.parse(name.replace("*", "x")).path.base in bases
            else _unsure(one)
            for name, one in answers.items()
        }  # fmt: skip

    def _missing(self, one: Where, there: Mapping[str, str]) -> RegistryError | None:
        """A name that leads to nothing that may be served: it goes, unless that is not what the answer says."""
        if one.reference is not None:
            self._told.pop(one.name, None)
            return None
        problem = _problem(one)
        if one.name in there and isinstance(problem, RetractedError | NotFoundError):
            self._drop(one.name, there[one.name], problem)
            self._told[one.name] = str(problem)
            return problem
        if one.name in there:
            self._problems[one.name] = problem
        if self._told.get(one.name) != str(problem):
            self._step("failed", one.name, before=there.get(one.name) or None, problem=problem)
        self._told[one.name] = str(problem)
        return problem

    def _drop(self, name: str, before: str, problem: RegistryError) -> None:
        if not self.dry_run:
            self.sink.drop(name)
            self._serves.pop(name, None)
        self._step("dropped", name, before=before or None, problem=problem)

    def _placed(self, one: Where, before: str | None) -> RegistryError | None:
        """Bring a revision and let its name lead to it; what fails leaves the one before."""
        if self.sink.leads_to(one.name, one, self.form):
            return None
        tried = (one.name, str(one.reference))
        tries, not_before, failed = self._failed.get(tried, (0, 0.0, None))
        if not_before - _LONGEST <= self.now() < not_before:  # a clock that was set back does not hold it up
            return failed
        try:
            self._bring(one, before)
        except RegistryError as problem:
            longest = _AWAY if before is None and isinstance(problem, UnavailableError) else _LONGEST
            self._failed[tried] = (tries + 1, self.now() + min(2.0**tries, longest), problem)
            self._step("failed", one.name, one.reference, before, problem)
            return problem
        self._failed.pop(tried, None)
        return None

    def _bring(self, one: Where, before: str | None) -> None:
        if self.dry_run:
            if before != one.reference:
                self._step("brought", one.name, one.reference)
                self._step("switched", one.name, one.reference, before)
            elif self.tell_in_place:
                self._step("in_place", one.name, one.reference)
            return
        if self.sink.bring(self.registry, one, self.form, self.progress):
            self._step("brought", one.name, one.reference)
        if not self.sink.leads_to(one.name, one, self.form):
            self.sink.point(one.name, one, self.form)
            self._serves[one.name] = str(one.reference)
            self._step("switched", one.name, one.reference, before)
        elif self.tell_in_place:
            self._step("in_place", one.name, one.reference)

    def _retire(self, stuck: Mapping[str, str]) -> None:
        """What stays in place of a revision that can't be brought has to be one that may still be served."""
        old = {one.name: one for one in self.registry.where(sorted(set(stuck.values())))} if stuck else {}
        for name, before in stuck.items():
            problem = None if old[before].reference is not None else _problem(old[before])
            if isinstance(problem, RetractedError | NotFoundError):
                self._drop(name, before, problem)

    def _swept(self) -> Iterator[RegistryError]:
        try:
            for reference in self.sink.sweep(self.now(), self.keep_for):
                self._step("removed", None, reference)
        except RegistryError as problem:
            self._step("failed", None, problem=problem)
            yield problem

    def _step(
        self,
        does: StepKind,
        name: str | None,
        reference: str | None = None,
        before: str | None = None,
        problem: RegistryError | None = None,
    ) -> None:
        self.tell(
            Step(
                at=datetime.fromtimestamp(self.now(), UTC),
                does=does,
                name=name,
                reference=reference,
                before=before,
                code=None if problem is None else problem.code,
                problem=None if problem is None else str(problem),
            )
        )

    def reports(self) -> Iterator[NameReport]:
        """What each name leads to since the last round, and why that is not what it points at, for the registry."""
        for name, wants in self._wants.items():
            problem = self._problems.get(name)
            yield of_name(
                name,
                serves=_number(name, self._serves.get(name)),
                wants=_number(name, wants),
                code=None if problem is None else problem.code,
                error=None if problem is None else str(problem),
            )

    def failed(self, problem: RegistryError) -> None:
        """A round failed altogether: it is told, and so it is reported of each name."""
        self._problems = dict.fromkeys(self._wants or (name for name in self.names if "*" not in name), problem)
        self._wants = self._wants or dict.fromkeys(self._problems)
        self._step("failed", None, problem=problem)

    def follow(
        self,
        interval: float,
        wait: Callable[[float], None] = time.sleep,
        report: Callable[[Iterable[NameReport]], None] = lambda _: None,
    ) -> None:
        """Rounds without end, each reported; one that fails altogether is told, and tried again later and later."""
        failures = 0
        while True:
            try:
                self.round()
                failures = 0
            except RegistryError as problem:
                failures += 1
                self.failed(problem)
            report(self.reports())
            wait(min(interval * 2.0 ** min(failures, 16), max(interval, _LONGEST)))


def _number(name: str, reference: str | None) -> int | None:
    """The number of a revision, if it is of the path that the name is of."""
    if reference is None:
        return None
    found = Reference.parse(reference)
    return found.number if found.path == Reference.parse(name).path else None


def _unsure(one: Where) -> Where:
    """A name that is not found where its base model is not found either: that is no word about the name."""
    base = one.name.partition("/")[0]
    told = (
        f"{one.name} stays as it is: this registry has no base model {base}, as far as this token sees, so it may be "
        "another registry or another token than before."
    )
    return one.model_copy(update={"code": "unavailable", "problem": told})


def _problem(one: Where) -> RegistryError:
    """An error as the registry named it, of the class that its exit code is of; a newer registry may have others."""
    code, said = str(one.code), str(one.problem)
    return _CLASSES.get(code, UnavailableError)(said, code=code if code in CODES else "unavailable")
