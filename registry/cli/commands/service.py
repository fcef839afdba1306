"""Commands of who runs a registry: serve, db upgrade, jobs, health, and events, which can be followed."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

import typer

from registry.cli.options import Json, Url
from registry.cli.render.screen import Line
from registry.cli.session import Session, answer_alone, session
from registry.errors import UnavailableError, UsageError
from registry.figures import BEHIND, GONE, QUIET, Cell, Span, counted, moment, phrase, quiet, reference, size, words
from registry.settings import MAX_WORKERS

if TYPE_CHECKING:
    from registry.schemas import Event
    from registry.schemas.frames import Block
    from registry.schemas.jobs import Health, JobCounts, Replica


_LISTED: Final = 100


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
    since: Annotated[
        str | None,
        typer.Option("--since", metavar="CURSOR", help="What came after the event with this cursor, oldest first."),
    ] = None,
    follow: Annotated[
        bool, typer.Option("--follow", help="Print the events oldest first, and new ones as they come, until Ctrl-C.")
    ] = False,
    limit: Annotated[
        int | None, typer.Option("--limit", min=1, metavar="N", help="List at most this many events; 100 by default.")
    ] = None,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """List the changes made to the registry, newest first.

    With --follow or --since and --json, each event is one line of JSON, with the cursor that leads on from it.
    """
    from registry.operations.arguments import start_of
    from registry.schemas.team import Events

    start = None if after is None else start_of(after)
    if since is not None and limit is not None:
        raise UsageError("After a cursor come all events: give --since or --limit, not both.")
    with session(url, as_json) as run:
        if follow or since is not None:
            last = (limit or _LISTED) if since is None else 0
            given = {"path": path, "after": start, "actor": actor, "kind": kind}
            _follow(run, since=since, last=last, once=not follow, **given)
            return
        answer = run.registry.events(path, after=start, actor=actor, kind=kind, limit=limit or _LISTED)
        run.answer(answer, lambda found: [Events.described.block(found)])
        if not answer:
            run.say("No events match.")


def _follow(run: Session, **given: Any) -> None:
    """Print events as they come, until the program is interrupted."""
    tell = _Lines(run)

    def lost(error: UnavailableError) -> None:
        run.progress.pause()
        run.talk.say(f"notice: {error} Events that come meanwhile are printed when it is there again.", BEHIND)

    with run.registry.follow_events(**given, lost=lost) as following:
        for event in following:
            tell.show([event])


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
        from registry.schemas.team import EVENT_KINDS, Events

        first = not self._widths
        actors = ["ACTOR", *(event.actor for event in events)]
        self._widths = [0, max(map(len, EVENT_KINDS)), max([*map(len, actors), *self._widths[2:]])]
        self._run.show([Events.described.block(events, header=first, least=self._widths)])


def upgrade(url: Url = None, as_json: Json = False) -> None:
    """Upgrade the database schema to the version of this program.

    Safe to run from several machines at once. The database of a registry in a folder is copied first. Such a registry
    is also upgraded by the first command that writes to it, which says so; commands that only read leave it as it is.
    """
    from registry.app import upgrade_database

    answer = upgrade_database(url)

    def lines(_: object) -> list[Line]:
        if answer.before == answer.after:
            what = f"is already at {answer.after}"
        else:
            what = f"created at {answer.after}" if answer.before is None else f"{answer.before} -> {answer.after}"
        copies = [] if answer.copied_to is None else [(Span(f"its database of before: {answer.copied_to}", BEHIND),)]
        notices = [(Span(notice, BEHIND),) for notice in answer.notices]
        return [(phrase(answer.database), Span(f"  {what}")), *copies, *notices]

    answer_alone(answer, lines, as_json=as_json)


LOOPBACK: Final = "127.0.0.1"
PORT: Final = 8321


def serve(
    *,
    host: Annotated[
        str,
        typer.Option(
            "--host", metavar="HOST", help="The address to listen on; 0.0.0.0 for all addresses of this machine."
        ),
    ] = LOOPBACK,
    port: Annotated[
        int, typer.Option("--port", metavar="PORT", min=0, max=65535, help="The port; 0 chooses a free one.")
    ] = PORT,
    anonymous: Annotated[
        Literal["read"] | None, typer.Option("--anonymous", help="Allow reading without a token.")
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            "--workers", metavar="N", min=1, max=MAX_WORKERS, help="Processes that answer on the port; 1 by default."
        ),
    ] = None,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Serve this registry over HTTP.

    Serves a folder or, with REGISTRY_DATABASE_URL and REGISTRY_STORE_URL, a team's database and store. A registry
    without tokens is served on loopback only, where it is open to everyone on this machine. On SIGTERM and Ctrl-C,
    requests in progress are finished first. With --workers (or REGISTRY_WORKERS) several processes share the port: they
    answer more requests a second, and are started again if they die.
    """
    del as_json  # nothing is printed on stdout: the log is JSON, and so are errors with --json
    from registry.app import serve as serve_registry

    serve_registry(url, host=host, port=port, anonymous=anonymous or "none", workers=workers)


def health(answer: Health) -> Iterator[Block]:
    """The replicas, a line each, and below them the rest."""
    from registry.schemas.frames import Block, pairs

    replicas = [
        (
            reference(f"{one.host}:{one.process}"),
            Span("answers") if one.answers else Span("silent", GONE),
            phrase(one.version, "" if one.version == answer.version else BEHIND),
            Span(moment(one.seen_at), QUIET),
            [quiet(text) for text in _about(one)],
        )
        for one in answer.replicas
    ]
    yield Block(None, replicas, ("REPLICA", "STATE", "VERSION", "SEEN (UTC)", "ABOUT"), indent=0)
    older = answer.migration != answer.newest_migration
    schema = f"{answer.migration or 'none'}, this program has {answer.newest_migration}"
    week = answer.growth[-1]
    rows: list[tuple[str, Cell]] = [
        ("replicas", quiet("" if replicas else "none is known")),
        ("operations", _counts(answer.jobs)),
        ("notices", _counts(answer.notices)),
        ("stored", f"{size(answer.bytes)}, {size(week.bytes)} of them since {week.week}"),
        ("last gc", _event(answer.last_gc)),
        ("last fsck", _event(answer.last_fsck)),
        ("schema", words(schema, BEHIND if older else "")),
    ]
    yield pairs(None, rows, indent=0)


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
