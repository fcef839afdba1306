"""Events: what happened, and what happens."""

from __future__ import annotations

from datetime import datetime, timedelta

from registry.errors import UsageError
from registry.operations import table
from registry.operations.arguments import asked, check_limit, start_of
from registry.operations.following import Following, Lost
from registry.operations.methods.calls import TableCalls
from registry.schemas.team import MOST_FIRST, Events, EventsRequest, FollowRequest


class Happening(TableCalls):
    """Events: what happened, and what happens."""

    def events(
        self,
        path: str | None = None,
        *,
        after: str | datetime | timedelta | None = None,
        actor: str | None = None,
        kind: str | None = None,
        limit: int | None = 100,
    ) -> Events:
        """Changes made to the registry, newest first.

        Args:
            path: only those at and under it.
            after: only since then: ``"24h"`` or ``"7d"`` ago, or a date or a time (in UTC unless it has a zone).
            actor: only those of this name.
            kind: only this action, such as ``"publish"`` or ``"tag"``.
            limit: at most so many. None: all.

        Returns:
            A tuple that a notebook shows as a table, and that ``.to_pandas()`` makes a data frame of.

        Example:
            >>> [change.subject for change in team.events() if change.action == "publish"]
            ['llama/support/french@1', 'llama/support@2', 'llama/support@1']
        """
        since = None if after is None else start_of(after)
        request = asked(EventsRequest, path=path, after=since, actor=actor, kind=kind)
        return Events(self._list(table.EVENTS, request, check_limit(limit)))

    def follow_events(
        self,
        path: str | None = None,
        *,
        since: str | None = None,
        after: str | datetime | timedelta | None = None,
        actor: str | None = None,
        kind: str | None = None,
        last: int = 0,
        once: bool = False,
        lost: Lost | None = None,
    ) -> Following:
        """Changes made to the registry as they come, oldest first, from now on or from where a program stopped.

        Iterating waits for the next event, and goes on by itself after the registry was away. The cursor of an event
        leads on from it: to a token it tells nothing of what it may not see.

        Args:
            path: only those at and under it.
            since: only what came after the event with this cursor; ``"start"``: all events. None: from now on.
            after: only since then, as `events` takes it.
            actor: only those of this name.
            kind: only this action, such as ``"publish"`` or ``"tag"``.
            last: without ``since``, begin with so many of the newest events.
            once: end after the events that are there.
            lost: is called with the error when the registry can't be reached, once until it can be again.

        Returns:
            An iterator of events, each with its ``cursor``; its own is that of the last event it gave. Close it, or use
            it in a ``with`` block.

        Raises:
            UsageError: no event of this registry gave the cursor, or another argument is malformed.
            NotFoundError: nothing exists at ``path``.
            NotAllowedError: while iterating, too: the token was revoked or has expired.

        Example:
            >>> with team.follow_events("llama", since="start", kind="publish", once=True) as changes:
            ...     first = next(changes)
            >>> first.subject
            'llama/support@1'
            >>> with team.follow_events("llama", since=first.cursor, kind="publish", once=True) as changes:
            ...     [change.subject for change in changes]
            ['llama/support@2', 'llama/support/french@1']
        """
        if not 0 <= last <= MOST_FIRST:
            raise UsageError(f"last is {last}: 0 to {MOST_FIRST} of the newest events are expected.")
        start = None if after is None else start_of(after)
        return self._follow(asked(FollowRequest, locals(), after=start), lost)
