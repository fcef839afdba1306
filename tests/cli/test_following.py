"""Events that come are each given once, in the order in which they can be seen."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from registry.cli.commands.service import OVERLAP, Following
from registry.schemas import Event

BEGIN = datetime(2026, 1, 2, tzinfo=UTC)


def event(seconds: float, subject: str = "llama/x") -> Event:
    return Event(at=BEGIN + timedelta(seconds=seconds), action="tag", subject=subject, actor="ann", detail={})


class Log:
    """Events in the order in which they were committed."""

    def __init__(self) -> None:
        self.all: list[Event] = []
        self.looks: list[datetime | None] = []

    def since(self, start: datetime | None) -> Sequence[Event]:
        self.looks.append(start)
        return [one for one in reversed(self.all) if start is None or one.at >= start]


# Times in steps, so that many are alike; no event is committed later than others that are a minute newer.
BATCHES = st.lists(st.lists(st.integers(0, 40), max_size=4), min_size=1, max_size=8)


@given(batches=BATCHES, before=st.lists(st.integers(0, 40), max_size=8), limit=st.integers(1, 4))
def test_each_event_is_given_once_whatever_the_order_of_times(
    batches: list[list[int]], before: list[int], limit: int
) -> None:
    log = Log()
    log.all += [event(second, f"llama/x@{at}") for at, second in enumerate(before)]
    following = Following(log.since, log.since(None)[:limit])
    for number, batch in enumerate(batches):
        come = [event(number * 15 + second) for second in batch]  # some say the very same
        log.all += come
        assert following.new() == come
    assert following.new() == []


def test_it_looks_back_a_minute_and_no_further() -> None:
    log = Log()
    log.all = [event(0), event(500), event(1000)]
    following = Following(log.since, log.since(None))
    assert following.new() == []
    log.all += [event(990), event(2000)]
    assert following.new() == log.all[-2:]
    assert following.new() == []
    assert log.looks[-3:] == [BEGIN + timedelta(seconds=at) - OVERLAP for at in (1000, 1000, 2000)]


def test_the_first_event_of_an_empty_registry() -> None:
    log = Log()
    following = Following(log.since, ())
    assert following.new() == []
    log.all.append(event(1))
    assert following.new() == [event(1)]
    assert following.new() == []


def test_what_is_committed_between_the_list_and_the_first_look() -> None:
    log = Log()
    log.all = [event(1), event(2), event(3)]
    shown = log.since(None)[:1]
    log.all.append(event(2.5))
    assert Following(log.since, shown).new() == [event(2.5)]
