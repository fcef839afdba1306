"""Events as they come, in process: of what a principal may see, from where it stopped."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Final, cast

from sqlalchemy.orm import Session

from registry.catalogue.database import events, following
from registry.catalogue.database.events import EventFilter, EventPosition
from registry.catalogue.database.following import Settled
from registry.catalogue.database.visibility import rights_of
from registry.catalogue.tree import browse
from registry.errors import UsageError
from registry.operations.following import START, Following, Lost
from registry.operations.operation import READER
from registry.operations.table import event_key
from registry.reference import Path
from registry.schemas.protocol import cursor_to, key_of
from registry.schemas.team import FollowedEvent, FollowRequest
from registry.services.deployment import Deployment

POLL: Final = 0.5  # seconds between two looks at the database
SOON: Final = 0.05  # the same while an event waits for others
_MOST: Final = 100
"""Events that are read at once."""


class Follower:
    """Where one reader is among the events. Whoever has it looks at ``settled`` from time to time.

    Args:
        deployment: of the principal whose rights decide what is seen.
        request: where to begin, and the conditions.
        settled: shared by all followers of a process.

    Raises:
        NotAllowedError: the principal may not read.
        NotFoundError: nothing is, or ever was, at the path.
        UsageError: no event of this registry gave the cursor; or a condition is none.
        UnavailableError: ``busy``, see `Settled.now`.
    """

    def __init__(self, deployment: Deployment, request: FollowRequest, settled: Settled) -> None:
        READER.require(deployment.rights, request)
        if request.since is not None and request.last:
            raise UsageError(f"After a cursor come all events: leave the number {request.last} of the newest ones out.")
        path = None if request.path is None else Path.parse(request.path)
        self._deployment = deployment
        self._settled = settled
        self._conditions = EventFilter(path, request.after, request.actor, request.kind)
        now = settled.now() if request.once or request.since is None else 0
        self._end = now if request.once else None
        with deployment.read() as session:
            if path is not None and not events.recent(session, 1, EventFilter(path)):
                browse.check_there(session, path)
            self._conditions.conditions()  # raises for what is none
            if request.since is None:
                self._key = following.before(session, now, request.last, self._conditions)
                self.cursor = _written(following.position_at(session, self._key))
            else:
                self._key = 0 if request.since == START else _key_of(session, request.since)
                self.cursor = request.since

    @property
    def more(self) -> bool:
        """Whether there are settled events that were not looked at."""
        return self._key < self._until

    @property
    def _until(self) -> int:
        return self._settled.key if self._end is None else self._end

    def next(self) -> Sequence[FollowedEvent]:
        """The next events that meet the conditions, which may be none; raises what reading raises."""
        until, wanted = self._until, self._conditions
        if until <= self._key:
            return ()
        with self._deployment.read() as session:
            rows, key = following.after(session, self._key, until, wanted, _MOST)
            rights, places = rights_of(session), following.positions(session, rows)
            found = [
                FollowedEvent(**dict(events.shown(row, rights)), cursor=_written(place))
                for row, place in zip(rows, places, strict=True)
            ]
        self._key = key
        if found:
            self.cursor = found[-1].cursor
        return found


def _written(position: EventPosition | None) -> str:
    return START if position is None else cursor_to([position.at.isoformat(), position.place])


def _key_of(session: Session, cursor: str) -> int:
    try:
        position = EventPosition(*cast("tuple[datetime, int]", event_key(key_of(cursor))))
    except ValueError:
        raise UsageError(
            f"The cursor {cursor[:64]!r} is malformed: one that came with an event, or {START}, is expected; a time is "
            "told by `after`."
        ) from None
    try:
        return events.key_at(session, position)
    except UsageError:
        raise UsageError(
            f"The cursor {cursor[:64]!r} is of no event that is here: it is another registry's, or its event was "
            "removed or lost; leave it out to begin now."
        ) from None


class FollowingHere(Following):
    """Events of a registry in this process, which is looked at every half second."""

    def __init__(self, deployment: Deployment, request: FollowRequest, lost: Lost | None) -> None:
        super().__init__(lost)
        self._settled = Settled(deployment.database)
        self._once = request.once
        self._follower = Follower(deployment, request, self._settled)
        self.cursor = self._follower.cursor

    def _more(self) -> Sequence[FollowedEvent] | None:
        if not self._once:
            self._settled.look()
        found = self._follower.next()
        if not found and not self._follower.more:
            if self._once:
                return None
            self._closed.wait(SOON if self._settled.waits else POLL)
        return found
