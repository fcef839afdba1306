"""The command events: what was changed, by whom, and what is being changed now."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated, Final

import typer

from registry.cli.options import Json, Url
from registry.cli.session import Session, session

if TYPE_CHECKING:
    from datetime import datetime

    from registry.schemas import Event

POLL: Final = 1.0  # seconds between two looks


def events(
    path: Annotated[
        str | None, typer.Argument(metavar="PATH", help="Only what happened to this path and everything under it.")
    ] = None,
    *,
    after: Annotated[
        str | None, typer.Option("--after", metavar="TIME", help="Only since then: 24h, 7d, a date or a time in UTC.")
    ] = None,
    actor: Annotated[
        str | None, typer.Option("--actor", metavar="NAME", help="Only what was done under this name.")
    ] = None,
    kind: Annotated[
        str | None, typer.Option("--kind", metavar="ACTION", help="Only this action: publish, tag, 'delete undo'.")
    ] = None,
    follow: Annotated[
        bool, typer.Option("--follow", help="Print the events oldest first, and new ones as they come, until Ctrl-C.")
    ] = False,
    limit: Annotated[int, typer.Option("--limit", min=1, metavar="N", help="List at most this many events.")] = 100,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """List the changes made to the registry, newest first.

    With --follow and --json, each event is one line of JSON.
    """
    from registry.cli.render.lists import listed_lines
    from registry.operations.start_times import start_of
    from registry.schemas.team import Events

    since = None if after is None else start_of(after)
    with session(url, as_json) as run:

        def listed(start: datetime | None, most: int | None = None) -> tuple[Event, ...]:
            return run.registry.events(path, after=start, actor=actor, kind=kind, limit=most)

        answer = listed(since, limit)
        if follow:
            _follow(run, answer, lambda start: listed(start or since))
        run.answer(answer, lambda width: listed_lines(Events.described, answer, width))
        if not answer:
            run.say("No events match.")


def _follow(run: Session, shown: Sequence[Event], look: Callable[[datetime | None], Sequence[Event]]) -> None:
    """Print the events and then new ones, until the program is interrupted."""
    from registry.cli.following import Following

    tell = _Lines(run)
    tell.show(shown[::-1])
    following = Following(look, shown)
    while True:
        time.sleep(POLL)
        tell.show(following.new())


class _Lines:
    """Prints events as they come: in columns that keep their place, or as one line of JSON each."""

    def __init__(self, run: Session) -> None:
        self._run = run
        self._widths: list[int] = []

    def show(self, events: Sequence[Event]) -> None:
        if not events:
            return
        if self._run.as_json:
            self._run.progress.pause()
            sys.stdout.write("".join(json.dumps(event.model_dump(mode="json")) + "\n" for event in events))
            sys.stdout.flush()
            return
        from registry.cli.render.lists import listed_lines
        from registry.schemas.team import EVENT_KINDS, Events

        first = not self._widths
        actors = ["ACTOR", *(event.actor for event in events)]
        self._widths = [0, max(map(len, EVENT_KINDS)), max([*map(len, actors), *self._widths[2:]])]
        lines = listed_lines(Events.described, events, self._run.out.width, header=first, least=self._widths)
        self._run.show(lines)
