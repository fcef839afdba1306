"""Commands about the service itself: its jobs, and how it is."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from registry.cli.options import Json, Url
from registry.cli.render.screen import BEHIND, GONE, QUIET, REFERENCE, Line, Span, fields, phrase, table, words
from registry.cli.render.text import counted, moment, size
from registry.cli.session import session

if TYPE_CHECKING:
    from registry.schemas import Event
    from registry.schemas.jobs import Health, JobCounts, Replica


class JobState(StrEnum):
    """Values of ``jobs --state``."""

    PENDING = "pending"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"


class JobKind(StrEnum):
    """Values of ``jobs --kind``."""

    PUBLISH = "publish"
    BASE = "base"
    MATERIALISE = "materialise"
    GC = "gc"
    FSCK = "fsck"
    RETABLE = "retable"
    COMBINE = "combine"
    MEASURE = "measure"
    DENSE = "dense"
    RETENTION = "retention"
    NOTICE = "notice"


def jobs(
    *,
    state: Annotated[JobState | None, typer.Option("--state", help="Only those in this state.")] = None,
    kind: Annotated[JobKind | None, typer.Option("--kind", help="Only those of this kind.")] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, metavar="N", help="List at most this many.")] = 100,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """List the long operations of a service, newest first.

    Those of your token, or everyone's for an admin without scopes. They are kept for a week after they ended. What the
    service looks at after each publish is only listed with --kind notice.
    """
    from registry.cli.render.lists import listed_lines
    from registry.schemas.jobs import JOBS

    with session(url, as_json) as run:
        answer = run.registry.jobs(
            state=None if state is None else state.value, kind=None if kind is None else kind.value, limit=limit
        )
        run.answer(answer, lambda width: listed_lines(JOBS, answer, width))
        if not answer:
            run.say("No operations match.")


def health_lines(answer: Health, width: int | None) -> list[Line]:
    """The replicas, a line each, and below them the rest."""
    rows = [
        (
            [
                phrase(f"{one.host}:{one.process}", REFERENCE),
                Span("answers") if one.answers else Span("silent", GONE),
                phrase(one.version, "" if one.version == answer.version else BEHIND),
                Span(moment(one.seen_at), QUIET),
            ],
            [words(text, QUIET) for text in _about(one)],
        )
        for one in answer.replicas
    ]
    older = answer.migration != answer.newest_migration
    schema = words(f"{answer.migration or 'none'}, this program has {answer.newest_migration}", BEHIND if older else "")
    week = answer.growth[-1]
    pairs = [
        ("replicas", [] if rows else [words("none is known", QUIET)]),
        ("operations", [words(_counts(answer.jobs))]),
        ("notices", [words(_counts(answer.notices))]),
        ("stored", [words(f"{size(answer.bytes)}, {size(week.bytes)} of them since {week.week}")]),
        ("last gc", [words(_event(answer.last_gc))]),
        ("last fsck", [words(_event(answer.last_fsck))]),
        ("schema", [schema]),
    ]
    header = ("REPLICA", "STATE", "VERSION", "SEEN (UTC)", "ABOUT")
    return [*table(rows, width, header=header), *fields(pairs, width, indent=0)]


def _about(replica: Replica) -> list[str]:
    told = replica.figures
    cache, pool = told.cache_bytes, told.pool_in_use
    return [
        "" if replica.worker is None else f"worker {replica.worker}",
        "" if cache is None else f"cache {size(cache)}, {told.cache_hits} hits, {told.cache_misses} misses",
        "" if pool is None else f"{pool} connections in use",
        "" if not told.bodies else counted(told.bodies, "body", "bodies"),
        "" if not told.jobs else counted(told.jobs, "operation"),
        replica.processor or "processor not known",
        "" if replica.numerics is None else f"numerics {replica.numerics}",
    ]


def _counts(found: JobCounts) -> str:
    waiting = "" if found.oldest_pending_at is None else f" since {moment(found.oldest_pending_at)}"
    return f"{found.pending} pending{waiting}, {found.running} running, {found.failed} failed in a week"


def _event(event: Event | None) -> str:
    if event is None:
        return "not known"
    damaged = event.detail.get("damaged") or event.detail.get("unreadable")
    return f"{moment(event.at)} UTC by {event.actor}{', which found damage' if damaged else ''}"
