"""Jobs: work that takes longer than a request, as the service shows it; and the replicas that do it."""

from __future__ import annotations

from datetime import date, datetime
from typing import Annotated, Literal

from registry.figures import moment, size
from registry.schemas import (
    BaseAdded,
    BaseMeasured,
    Checked,
    Collected,
    Event,
    Materialised,
    Published,
    Retabled,
    Retention,
    Schema,
)
from registry.schemas.form import Param
from registry.schemas.frames import Column, Described, Listed
from registry.schemas.protocol import Problem
from registry.schemas.publishing import Combined
from registry.schemas.statistics import DenseStatistics

OperationKind = Literal[
    "publish", "base", "materialise", "gc", "fsck", "retable", "measure", "dense", "notice", "combine", "retention"
]
OperationState = Literal["pending", "running", "done", "failed"]


class Looked(Schema):
    """What was done after the publish of a revision: its statistics were computed, and notices about it kept."""

    reference: str


class OperationResult(Schema):
    """The result of an operation; one of the fields is set."""

    published: Published | None = None
    base_added: BaseAdded | None = None
    materialised: Materialised | None = None
    collected: Collected | None = None
    checked: Checked | None = None
    retabled: Retabled | None = None
    measured: BaseMeasured | None = None
    dense: DenseStatistics | None = None
    looked: Looked | None = None
    combined: Combined | None = None
    retained: Retention | None = None


class Operation(Schema):
    """Work that takes longer than a request; any replica continues it if another one stops."""

    id: str
    kind: OperationKind
    state: OperationState
    stage: str  # what is being done, for a progress bar
    done: int  # bytes
    total: int
    created_at: datetime
    updated_at: datetime
    result: OperationResult | None = None
    problem: Problem | None = None


class JobsRequest(Schema):
    """Jobs of the token, or everyone's for an admin without scopes."""

    state: Annotated[
        OperationState | None, Param(description="Only jobs in this state.", help="Only those in this state.")
    ] = None
    kind: Annotated[
        OperationKind | None,
        Param(
            description="Only jobs of this kind. Those of `notice` are listed where they are asked for.",
            help="Only those of this kind.",
            metavar="<publish|base|materialise|gc|fsck|retable|combine|measure|dense|retention|notice>",
        ),
    ] = None


class JobSummary(Schema):
    """A job in a list; the answer of a finished one is at its own address."""

    id: str
    kind: str  # one of `OperationKind`; later versions have others
    state: OperationState
    subject: str | None  # the reference, path or name that it is about; None: the whole registry, or not recorded
    actor: str  # who requested it
    token: str | None
    stage: str  # what is being done, for a progress bar
    done: int  # bytes
    total: int
    created_at: datetime
    updated_at: datetime
    code: str | None  # of a failed one: the code of the error
    detail: str | None  # the same: its sentence


def _progress(job: JobSummary) -> str:
    if job.state != "running" or not job.stage:
        return ""
    return f"{job.stage}: {size(job.done)} of {size(job.total)}" if job.total else job.stage


class Jobs(Listed[JobSummary]):
    """Answer of ``jobs``: long operations, newest first."""

    __slots__ = ()
    described = Described[JobSummary](
        noun="job",
        columns=(
            Column("id", "id", cell=lambda one: one.id[:12], style="reference"),
            Column("created_at", "begun (UTC)", cell=lambda one: moment(one.created_at), style="quiet"),
            Column("kind", "kind"),
            Column("state", "state", style=lambda one: "gone" if one.state == "failed" else ""),
            Column(
                "subject",
                "about",
                cell=lambda one: one.subject or "everything",
                style=lambda one: "reference" if one.subject else "quiet",
            ),
            Column("actor", "by", before="by", style="quiet", free=True),
            Column("progress", "progress", cell=_progress, style="quiet", free=True),
            Column("detail", "why not", free=True),
        ),
        screen="id created_at kind state | subject actor progress detail",
        heads="ID | BEGUN (UTC) | KIND | STATE | ABOUT",
        table="id created_at kind state subject actor progress detail",
        frame="id kind state subject actor token stage done total created_at updated_at code detail",
    )


class JobCounts(Schema):
    """How many jobs there are."""

    pending: int
    running: int
    failed: int  # of those that were requested in the last seven days
    oldest_pending_at: datetime | None  # None: none is pending


class ReplicaFigures(Schema):
    """What a replica last wrote of itself. None: it does not tell, since it is of another version."""

    cache_hits: int | None = None  # since it was started, of what is cached in memory
    cache_misses: int | None = None
    cache_bytes: int | None = None
    cache_budget: int | None = None
    pool_in_use: int | None = None  # connections to the database
    pool_idle: int | None = None
    pool_most: int | None = None  # None also without a limit
    bodies: int | None = None  # files that are being sent, or wait for their turn
    jobs: int | None = None  # that it runs


class Replica(Schema):
    """A process that answers requests: a service, or one of its workers."""

    id: str
    host: str
    process: int
    worker: int | None  # its number among the workers of a service; None: the only process
    version: str
    processor: str | None  # its make; None: the machine does not say
    numerics: str | None  # fingerprint of its arithmetic; None: it has computed nothing yet
    started_at: datetime
    seen_at: datetime  # when it wrote this
    answers: bool  # it wrote within the last one and a half minutes
    figures: ReplicaFigures


class StoredWeek(Schema):
    """What was stored in a week and is still there."""

    week: date  # its Monday, in UTC
    bytes: int


class Health(Schema):
    """Answer of ``health``: how a service is, as far as its database tells."""

    version: str  # of the program that answers
    migration: str | None  # the newest that was applied to the database
    newest_migration: str  # that this program knows
    replicas: tuple[Replica, ...]  # by host and process; those of versions before this answer are not known
    jobs: JobCounts  # that somebody requested
    notices: JobCounts  # what the service looks at after each publish, when nothing else is to be done
    bytes: int  # of all blobs
    growth: tuple[StoredWeek, ...]  # of the last twelve weeks, oldest first; the last one is the current one
    last_gc: Event | None  # None: none is recorded
    last_fsck: Event | None  # the same; its detail has how much is damaged
