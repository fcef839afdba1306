"""What adapters take in the store, beside full checkpoints; and how often, when and through what they were used."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime
from typing import TYPE_CHECKING, Annotated, Final, Literal

from pydantic import ConfigDict, Field

from registry.figures import size as in_units
from registry.schemas.form import Param, Schema
from registry.schemas.frames import Column, Described, frame

if TYPE_CHECKING:
    import pandas


Interface = Literal["fetch", "hub", "vllm"]
"""Through what weights are requested: the API, the command and Python; the Hub views; the plugin in vLLM."""
OVER_HTTP: Final[tuple[Interface, ...]] = ("fetch", "vllm")
"""What a client of the API may say that it is."""
RECENT_DAYS: Final = 30
"""Uses are counted over this many days in UTC, today included."""


class Use(Schema):
    """How much something was used. Each download or load of weights counts once; who it was by is not told."""

    last_used_at: datetime | None = None  # None: not within the retention time of counts
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
    """That a token loaded a revision from a Hub view in an hour, or was only informed that a name means it."""

    path: str
    number: int
    who: str
    hour: datetime
    weights: bool  # False: it was only informed


@dataclass(frozen=True)
class Loads:
    """The numbers of an adapter's revisions that a token has loaded lately."""

    weights: tuple[int, ...] = ()
    told: tuple[int, ...] = ()  # of those that it was only informed of, which a cache that others fill may have
    missed: str | None = None  # why some of it could not be recorded, as a sentence


NOTHING: Final = Loads()
"""Of who has loaded nothing, as far as is known."""


@dataclass(frozen=True)
class Counted:
    """How many uses, and when the last one was."""

    count: int
    last_used_at: datetime


class UsageRequest(Schema):
    """About everything, or all at and under a path."""

    path: Annotated[
        str | None,
        Param(
            min_length=1,
            max_length=512,
            description="BASE or BASE/name/name...",
            examples=("llama/support",),
            help="Only this path and everything under it.",
        ),
    ] = None


class BaseFigures(Schema):
    """What there is of a base model's adapters, as far as the token sees them."""

    revisions: int
    published: int  # bytes of the files of all of these; what they share is stored once, see `Usage`
    full_checkpoints: int  # bytes of as many copies of the base model's weights
    newest: str | None  # the revision that was published last, PATH@N; None: none exists
    last_published_at: datetime | None


class Taken(Schema):
    """What an adapter or a revision takes, in bytes."""

    name: str  # a path, or PATH@N
    revisions: int
    size: int  # all of its files, each stored blob once
    own: int  # of these, what nothing else needs that the token sees


TAKEN: Final = Described(
    noun="adapter",
    columns=(
        Column("name", "adapter", style="reference"),
        Column("revisions", "revisions", right=True),
        Column[Taken]("size", "size", lambda one: in_units(one.size), right=True),
        Column[Taken]("own", "its own", lambda one: in_units(one.own), right=True),
    ),
    screen="own size revisions|name",
    heads="OWN|SIZE|REVISIONS|ADAPTER",
    table="name revisions size own",
    frame="name revisions size own",
)
"""What adapters take, for terminals, notebooks and frames."""


class Usage(Schema):
    """Answer of ``du``, in bytes. What a token does not see counts as if it were not stored."""

    path: str | None
    adapters: tuple[Taken, ...]  # by path; the 10,000 with the most bytes of their own
    revisions: tuple[Taken, ...]  # by path and number; the same
    size: int  # all files of these revisions, each stored blob once
    full_checkpoints: int  # as many copies of the weights of their base models
    materialisations: int  # what only materialisations keep
    collectable: int  # what only deleted revisions and expired materialisations keep, or nothing
    unlisted_adapters: int = 0  # beside those of ``adapters``; the sums count all
    unlisted_revisions: int = 0  # the same

    def _repr_html_(self) -> str:
        """A table of the adapters, in a notebook."""
        total = f"together {in_units(self.size)}; as full checkpoints {in_units(self.full_checkpoints)}"
        return f"{TAKEN.html(self.adapters)}<p>{total}</p>"

    def to_pandas(self, *, revisions: bool = False) -> pandas.DataFrame:
        """A data frame with a row for each adapter, or for each revision, in bytes.

        Raises:
            UnavailableError: ``missing_package``, pandas is not installed.
        """
        return frame(*TAKEN.values(self.revisions if revisions else self.adapters))

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "path": "llama/support",
                "adapters": [{"name": "llama/support", "revisions": 1, "size": 33566592, "own": 33564672}],
                "revisions": [{"name": "llama/support@1", "revisions": 1, "size": 33566592, "own": 33564672}],
                "size": 33566592,
                "full_checkpoints": 16060522496,
                "materialisations": 0,
                "collectable": 0,
                "unlisted_adapters": 0,
                "unlisted_revisions": 0,
            }
        }
    )
