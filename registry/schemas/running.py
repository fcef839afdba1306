"""What runs: what followers report of the names that they follow, and what they have, as people ask for it.

A follower keeps a folder or an engine at what names point at. It reports for itself, and no longer counts once its
lease has ended. Times are the service's.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Annotated, Final, Literal

from pydantic import ConfigDict, Field

from registry.figures import age, moment
from registry.schemas.form import Param, Schema
from registry.schemas.frames import Column, Described, Listed, Style

MAX_NAMES: Final = 1000
"""Names of one follower."""
MAX_SENTENCE: Final = 500  # characters of an error
MAX_FOLLOWERS: Final = 100
"""Followers of one token whose leases go on."""
MAX_REFERENCE: Final = 512  # characters
MAX_WHERE: Final = 256

RunningState = Literal["in_place", "behind", "failed", "lost", "unserved"]
"""Of a name at a follower: it has what the name points at; not yet; it can't, and says why; its lease has ended. Or of
a name that no follower serves."""

_Number = Annotated[int, Field(ge=1, lt=1 << 63)]


class NameReport(Schema):
    """What a follower has of a name: the number of the revision that it serves and of the one that it wants."""

    name: str = Field(min_length=1, max_length=MAX_REFERENCE)  # PATH, PATH@tag or PATH@N
    serves: _Number | None = None  # None: nothing
    wants: _Number | None = None  # None: nothing, or it could not find out
    code: str | None = Field(default=None, pattern="^[a-z0-9_]{1,64}$")  # of an error
    error: str | None = Field(default=None, min_length=1, max_length=MAX_SENTENCE)  # why it can't serve what it wants


class ReportRequest(Schema):
    """All that a follower has, each time: a name that is not said is not followed any more."""

    id: str = Field(pattern="^[0-9a-f]{32}$")
    """Random, and made by the follower when it starts."""
    kind: str = Field(pattern="^[a-z0-9][a-z0-9.-]{0,31}$")
    name: str = Field(min_length=1, max_length=MAX_WHERE)
    """For people: where it keeps what."""
    version: str = Field(default="", max_length=64)
    names: tuple[NameReport, ...] = Field(default=(), max_length=MAX_NAMES)
    gone: bool = False
    """It ends, and is to be forgotten."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "id": "0123456789abcdef0123456789abcdef",
                "kind": "vllm",
                "name": "vllm=http://10.0.0.7:8000",
                "version": "0.4.0",
                "names": [
                    {
                        "name": "llama/support@prod",
                        "serves": 2,
                        "wants": 3,
                        "code": "engine_limits",
                        "error": "The engine takes ranks up to 16, and llama/support@3 has 32.",
                    }
                ],
            }
        }
    )


class Reported(Schema):
    """Answer of ``report``."""

    lease: float  # seconds for which the report counts
    again: float  # seconds until the next one is expected, also if nothing changes
    left_out: tuple[str, ...] = ()  # names outside the token's scopes, of which nothing is kept

    model_config = ConfigDict(json_schema_extra={"example": {"lease": 30.0, "again": 10.0, "left_out": []}})


class RunningRequest(Schema):
    """All that runs, or what meets every given condition."""

    ref: Annotated[
        str | None,
        Param(
            min_length=1,
            max_length=MAX_REFERENCE,
            description="Only names of adapters at and under this path; with @tag only this name; with @3 or a digest "
            "what follows or serves this revision.",
            examples=("llama/support@prod",),
        ),
    ] = None
    state: Annotated[
        RunningState | None,
        Param(description="Only what is in this state.", examples=("failed",)),
    ] = None
    unserved: Annotated[
        bool,
        Param(
            description="Instead: protected tags, and tags of names that are followed elsewhere, that nobody serves.",
            help="List what nobody serves: protected tags, and tags that are followed elsewhere.",
        ),
    ] = False


class Follower(Schema):
    """A follower: what it says of itself, and by which token."""

    id: str
    kind: str
    name: str
    version: str
    actor: str  # the name of its token
    token: str | None  # the id of its token
    started_at: datetime  # its first report
    seen_at: datetime  # its last one
    lease_until: datetime


class Running(Schema):
    """A name at a follower; or a follower that follows nothing; or a name that nobody serves."""

    name: str | None  # PATH@tag, as it is followed; None: the follower follows nothing
    state: RunningState
    points_at: str | None  # PATH@N that the name points at now; None: at nothing, or at what was retracted
    moved_at: datetime | None  # since when, if that is not what is served and is known
    serves: str | None  # PATH@N
    since: datetime | None  # since when it is served
    withdrawn: Literal["retracted", "deleted"] | None  # what is served is not available any more
    wants: str | None  # PATH@N that the follower found when it last looked
    code: str | None  # of the error
    error: str | None  # why it does not serve what the name points at, as the follower says
    follower: Follower | None  # None: nobody serves the name

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "name": "llama/support@prod",
                "state": "failed",
                "points_at": "llama/support@3",
                "moved_at": "2026-03-02T10:15:00Z",
                "serves": "llama/support@2",
                "since": "2026-02-27T08:00:00Z",
                "withdrawn": None,
                "wants": "llama/support@3",
                "code": "engine_limits",
                "error": "The engine takes ranks up to 16, and llama/support@3 has 32.",
                "follower": {
                    "id": "0123456789abcdef0123456789abcdef",
                    "kind": "vllm",
                    "name": "vllm=http://10.0.0.7:8000",
                    "version": "0.4.0",
                    "actor": "serving",
                    "token": "tok_abcdefghij",
                    "started_at": "2026-02-27T07:59:58Z",
                    "seen_at": "2026-03-02T10:16:10Z",
                    "lease_until": "2026-03-02T10:16:40Z",
                },
            }
        }
    )

    @property
    def path(self) -> str:
        """Of the adapter; empty if the follower follows nothing."""
        return (self.name or "").partition("@")[0]


_LOOKS: Final[dict[str, Style]] = {"behind": "behind", "failed": "gone", "lost": "gone", "unserved": "behind"}


def _number(reference: str | None) -> str:
    """``@3`` of ``PATH@3``."""
    return "-" if reference is None else f"@{reference.rpartition('@')[2]}"


def _of(one: Running, field: Literal["name", "kind", "actor"]) -> str | None:
    found: str | None = None if one.follower is None else getattr(one.follower, field)
    return found


def _why(one: Running) -> Iterator[str]:
    """What somebody who is woken up wants to know, in few words."""
    now = datetime.now(UTC)
    if one.follower is not None and one.state == "lost":
        yield f"no word since {moment(one.follower.seen_at)} UTC"
    if one.withdrawn is not None:
        yield f"serves what was {one.withdrawn}"
    if one.name is not None and one.points_at is None:
        yield "the name points at nothing available"
    elif one.points_at is not None and one.points_at != one.serves:
        yield f"points at {_number(one.points_at)}{_for_long(one.moved_at, now)}"
    if one.error is not None:
        yield one.error if one.code is None else f"{one.error} ({one.code})"


def _for_long(time: datetime | None, now: datetime) -> str:
    if time is None:
        return ""
    said = age(time, now)
    return f" since {said}" if said == "just now" else f" for {said}"


class WhatRuns(Listed[Running]):
    """Answer of ``ps``: by name, then by follower; first the followers that follow nothing."""

    __slots__ = ()
    described = Described(
        noun="name",
        columns=(
            Column("name", "name", lambda one: one.name or "(no name)", style="reference"),
            Column("serves", "serves", lambda one: _number(one.serves)),
            Column("points_at", "points at", lambda one: _number(one.points_at)),
            Column(
                "state",
                "state",
                lambda one: one.state.replace("_", " "),
                style=lambda one: _LOOKS.get(one.state, ""),
            ),
            Column("since", "since (UTC)", lambda one: "-" if one.since is None else moment(one.since)),
            Column(
                "follower", "follower", lambda one: _of(one, "name") or "nobody", value=lambda one: _of(one, "name")
            ),
            Column("kind", "kind", lambda one: _of(one, "kind") or "", value=lambda one: _of(one, "kind")),
            Column("why", "why", lambda one: tuple(_why(one)), style="quiet", free=True),
            Column("actor", "token", lambda one: _of(one, "actor") or "", value=lambda one: _of(one, "actor")),
            Column(
                "seen_at",
                "last word (UTC)",
                lambda one: "" if one.follower is None else moment(one.follower.seen_at),
                value=lambda one: None if one.follower is None else one.follower.seen_at,
            ),
        ),
        screen="name serves state since | follower why",
        heads="NAME | SERVES | STATE | SINCE (UTC) | FOLLOWER",
        table="name serves points_at state since follower seen_at why",
        frame="name state points_at moved_at serves since withdrawn wants code error follower kind actor seen_at",
    )
