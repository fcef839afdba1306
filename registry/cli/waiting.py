"""Waiting until followers have what was changed: a loop of questions, each of which the service answers at once.

What was changed stays, whatever comes of the waiting. A follower counts from when it is first seen with its lease; one
that ends is not waited for any more, and one whose lease ends meanwhile is named. An error may pass by itself, since
followers try again: it counts once it has lasted for half a minute, or nothing else is to be waited for.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from registry.cli.session import Session
from registry.errors import NotFoundError, NotInPlaceError, UnavailableError
from registry.figures import clean, counted, moment
from registry.schemas.running import Running

PATIENCE: Final = 30.0
"""Seconds for which an error has to last."""
_FIRST: Final = 0.5  # seconds between two questions, at first and later
_MOST: Final = 3.0
_NAMED: Final = 5  # followers in a sentence
_TRANSIENT: Final = frozenset({"unavailable", "busy", "too_slow"})


@dataclass(frozen=True)
class Change:
    """What followers are to have.

    Args:
        what: it, as it completes "followers have ...": "got PATH@3".
        stays: the sentence that says that the change is made, however long it takes to arrive.
        has: whether a follower has it.
        concerns: whether a name at a follower is to be waited for.
        is_about: whether an error is about this change, and not one from before.
    """

    what: str
    stays: str
    has: Callable[[Running], bool]
    concerns: Callable[[Running], bool] = lambda _: True
    is_about: Callable[[Running], bool] = lambda _: True


_Key = tuple[str, str, str]


@dataclass
class Watch:
    """What is known of the followers of a change, question by question."""

    change: Change
    having: int = 0
    pending: list[Running] = field(default_factory=list)
    lost: list[Running] = field(default_factory=list)  # since they were first seen
    lost_before: list[Running] = field(default_factory=list)
    _seen: set[_Key] = field(default_factory=set)
    _failing: dict[_Key, float] = field(default_factory=dict)

    def look(self, rows: Iterable[Running], at: float) -> None:
        """Take the answer to a question, which was asked ``at`` this time of a clock."""
        self.having, self.pending, self.lost, self.lost_before = 0, [], [], []
        failing: dict[_Key, float] = {}
        for row in rows:
            key = _key(row)
            if key not in self._seen and not self.change.concerns(row):
                continue
            if row.state == "lost":
                (self.lost if key in self._seen else self.lost_before).append(row)
                continue
            self._seen.add(key)
            if self.change.has(row):
                self.having += 1
                continue
            self.pending.append(row)
            if self._fails(row):
                failing[key] = self._failing.get(key, at)
        self._failing = failing

    @property
    def is_done(self) -> bool:
        """Whether all that live have it, and none was lost."""
        return not self.pending and not self.lost

    def has_failed(self, at: float) -> bool:
        """Whether nothing is to be hoped for: the others were lost, or say why they can't for long enough."""
        stuck = (key in self._failing and at - self._failing[key] >= PATIENCE for key in map(_key, self.pending))
        return not self.is_done and all(stuck)

    def _fails(self, row: Running) -> bool:
        return (row.error is not None or row.code is not None) and self.change.is_about(row)

    def said(self) -> str:
        """How far it is, in a sentence that changes only with what it says."""
        of = self.having + len(self.pending) + len(self.lost)
        waiting = _listed([f"{_name(row)} ({row.state.replace('_', ' ')})" for row in (*self.pending, *self.lost)])
        return (
            f"{self.having} of {counted(of, 'follower')} {'has' if self.having == 1 else 'have'} {self.change.what}"
            + (f"; waiting for {waiting}." if waiting else ".")
        )

    def failure(self, after: float | None = None) -> NotInPlaceError:
        """The error that names who has it not, and why; ``after``: so many seconds, which were all."""
        lacking = len(self.pending) + len(self.lost)
        why = _listed([_why(row) for row in (*self.pending, *self.lost)])
        late = "" if after is None else f" after {counted(round(after), 'second')}"
        return NotInPlaceError(
            f"{self.change.stays} Of {counted(self.having + lacking, 'follower')}, {lacking} "
            f"{'has' if lacking == 1 else 'have'} not {self.change.what} yet{late}: {why}."
        )


def _key(row: Running) -> _Key:
    found = row.follower
    return ("", "", row.name or "") if found is None else (found.token or found.actor, found.id, row.name or "")


def _name(row: Running) -> str:
    return "" if row.follower is None else clean(row.follower.name)


def _why(row: Running) -> str:
    if row.state == "lost":
        seen = "" if row.follower is None else f", no word since {moment(row.follower.seen_at)} UTC"
        return f"{_name(row)} was lost{seen}"
    if row.error is not None or row.code is not None:
        return f"{_name(row)} failed: {clean((row.error or '').rstrip('.'))} ({row.code or 'no code'})"
    return f"{_name(row)} serves {row.serves or 'nothing'}"


def _listed(texts: Sequence[str]) -> str:
    more = len(texts) - _NAMED
    return "; ".join([*texts[:_NAMED], *([f"and {more} more"] if more > 0 else [])])


def wait(
    run: Session,
    change: Change,
    ask: Callable[[], Sequence[Running]],
    timeout: float,
    *,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Return once every live follower has a change, at once if nobody follows.

    Raises:
        NotInPlaceError: some have not, with the reasons, or after ``timeout`` seconds.
        UnavailableError: the registry does not know what runs, or could not be asked until the end.
    """
    watch, begun, pause, told = Watch(change), clock(), _FIRST, ""
    try:
        while True:
            problem = _ask(run, watch, ask, clock)
            at = clock()
            if problem is None:
                if watch.is_done:
                    run.say(watch.said() if watch.having else "Nobody follows it: there is nothing to wait for.")
                    _say_lost_before(run, watch)
                    return
                if watch.has_failed(at):
                    raise watch.failure()
                if watch.said() != told:
                    told = watch.said()
                    run.say(told)
            if at - begun + pause > timeout:
                raise problem or watch.failure(timeout)
            sleep(pause)
            pause = min(_MOST, pause * 1.25)
    except KeyboardInterrupt:
        run.say(f"{change.stays} Only the waiting was ended.")
        raise


def _ask(
    run: Session, watch: Watch, ask: Callable[[], Sequence[Running]], clock: Callable[[], float]
) -> UnavailableError | None:
    """Let the watch look; the error, if the registry could not be asked just now.

    Raises:
        UnavailableError: ``other_version``: it does not know what runs.
    """
    try:
        watch.look(ask(), clock())
    except NotFoundError:
        raise UnavailableError(
            f"{watch.change.stays} The registry at {run.registry.url} is of an older version that does not know what "
            "runs, so it can't be waited for.",
            code="other_version",
        ) from None
    except UnavailableError as error:
        if error.code not in _TRANSIENT:
            raise
        return error
    return None


def _say_lost_before(run: Session, watch: Watch) -> None:
    if watch.lost_before:
        names = _listed([_name(row) for row in watch.lost_before])
        run.say(f"Not waited for, because nothing was heard of {names} already before: `registry ps --state lost`.")
