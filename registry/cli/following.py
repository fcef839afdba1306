"""Follows events: what is new since the last look, whatever the order in which replicas commit."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from registry.schemas import Event

OVERLAP: Final = timedelta(minutes=1)
"""How far a look goes back before the newest event: one may be seen after another that has a later time."""

Look = Callable[[datetime | None], "Sequence[Event]"]
"""All events from a time on, newest first; None: from where the user began."""


class Following:
    """What was shown already, so that each event is given once.

    Events have no number that may be told: it would say how much happens outside the scopes of a token. They are told
    apart by what they say, within the time that a look goes back.
    """

    def __init__(self, look: Look, shown: Sequence[Event]) -> None:
        """``shown``: the newest events, newest first, or all where there are fewer than were asked for."""
        self._look = look
        self._seen = Counter(map(_text, shown))
        self._since: datetime | None = None
        self._advance(shown)
        self._last = _text(shown[0]) if shown else None

    def new(self) -> list[Event]:
        """The events that came since, oldest first."""
        found = self._look(self._since)
        if self._last is not None:  # on the first look: what lies below the last one that was shown is older
            texts = [_text(event) for event in found]
            below = texts[texts.index(self._last) :] if self._last in texts else []
            self._seen |= Counter(below)
            self._last = None
        left = self._seen.copy()
        new = []
        for event in reversed(found):
            text = _text(event)
            if left[text]:
                left[text] -= 1
            else:
                new.append(event)
        self._seen = Counter(map(_text, found))
        self._advance(found)
        return new

    def _advance(self, found: Iterable[Event]) -> None:
        newest = max((event.at for event in found), default=None)
        if newest is not None and (self._since is None or newest - OVERLAP > self._since):
            self._since = newest - OVERLAP


def _text(event: Event) -> str:
    return event.model_dump_json()
