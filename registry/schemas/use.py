"""Use: how often, when and through what revisions were asked for as weights."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime
from typing import Final, Literal

from pydantic import Field

from registry.schemas.form import Schema

Interface = Literal["fetch", "hub", "vllm"]
"""Through what weights are asked for: the API, the command and Python; the Hub views; the plugin in vLLM."""
OVER_HTTP: Final[tuple[Interface, ...]] = ("fetch", "vllm")
"""What a client of the API may say that it is."""
RECENT_DAYS: Final = 30
"""Uses are counted over this many days in UTC, today included."""


class Use(Schema):
    """How much something was used. Each download or load of weights counts once; who it was by is not told."""

    last_used_at: datetime | None = None  # None: not within the time that counts are kept
    uses: int = 0  # in the last 30 days
    by_interface: dict[str, int] = Field(
        default_factory=dict
    )  # of these: fetch, hub, vllm; later versions may have others
    tokens: int = 0  # how many tokens made these uses; who needed none counts by name


class RevisionUse(Use):
    """How much a revision was used."""

    reference: str  # PATH@N


@dataclass(frozen=True, order=True)
class UseKey:
    """What is counted together: uses of a revision on a day, through one interface, by one token or principal."""

    path: str
    number: int
    day: date  # in UTC
    interface: str
    who: str


@dataclass(frozen=True, order=True)
class Load:
    """That a token loaded a revision from a Hub view in an hour, or was told only that a name means it."""

    path: str
    number: int
    who: str
    hour: datetime
    weights: bool  # False: it was told only


@dataclass(frozen=True)
class Loads:
    """The numbers of an adapter's revisions that a token has loaded lately."""

    weights: tuple[int, ...] = ()
    told: tuple[int, ...] = ()  # of those that it was told of only, which a cache that others fill may have
    missed: str | None = None  # why some of it could not be recorded, as a sentence


NOTHING: Final = Loads()
"""Of who has loaded nothing, as far as is known."""


@dataclass(frozen=True)
class Counted:
    """How many uses, and when the last one was."""

    count: int
    last_used_at: datetime
