"""The command that keeps a place of an inference engine at what names point at."""

from __future__ import annotations

import json
import os
import socket
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Annotated

import typer

from registry.cli import completion
from registry.cli.options import Json, MaxError, MaxLoraRank, Uniform, Url
from registry.cli.session import Session, session
from registry.errors import RegistryError, UsageError
from registry.figures import BEHIND, GONE, QUIET, Span, phrase, reference
from registry.schemas.form import EngineName
from registry.settings import parse_duration, read_settings

if TYPE_CHECKING:
    from registry.follow.reporting import Reporter
    from registry.follow.rounds import Follower
    from registry.follow.sinks import Sink
    from registry.schemas.followed import Step


def follow(
    names: Annotated[
        list[str],
        typer.Argument(
            metavar="NAME",
            help="What to follow: PATH@tag, PATH@3, or a pattern BASE/*@tag of all adapters that have the tag.",
            autocompletion=completion.references,
        ),
    ],
    *,
    to: Annotated[
        str,
        typer.Option(
            "--to",
            metavar="SINK",
            help="Where revisions are brought: folder=DIR, s3=BUCKET/PREFIX, or engines: vllm=URL,folder=DIR, "
            "sglang=URL,folder=DIR.",
        ),
    ],
    once: Annotated[
        bool, typer.Option("--once", help="One round, and exit: with 0 if every name is in place, else with its error.")
    ] = False,
    interval: Annotated[
        float, typer.Option("--interval", metavar="SECONDS", min=0.1, max=3600, help="Time between two rounds.")
    ] = 3.0,
    keep_for: Annotated[
        str,
        typer.Option(
            "--keep-for", metavar="TIME", help="How long a folder stays after the last name left it: 45s, 10m, 12h."
        ),
    ] = "10m",
    engine: Annotated[
        EngineName | None,
        typer.Option("--for", help="Bring what this engine loads, as `registry fetch --for` writes it."),
    ] = None,
    max_lora_rank: MaxLoraRank = None,
    max_error: MaxError = None,
    uniform: Uniform = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what one round would do, and do nothing.")] = False,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Keep a folder, a bucket or engines at what names point at.

    A new revision is fetched and checked beside the old one, then its name is switched to it in one step, and the old
    one is removed later. What is retracted, deleted or untagged loses its name. A revision that can't be brought leaves
    the old one in place and is tried again. All is in the folder or the engine, so that it may be stopped and started
    at any moment. Engines at all addresses of a host name are followed, each by itself; the folder is where they find
    revisions, under the same path. With --json, each step is one line of JSON.
    """
    from registry.follow.asked import Engines, check_names, sink_of
    from registry.follow.fleet import Fleet
    from registry.follow.reporting import Reporter
    from registry.follow.rounds import Follower
    from registry.follow.sinks import Form

    check_names(names)
    sink, grace = sink_of(to), _seconds(keep_for)
    with session(url, as_json) as run:

        def make(into: Sink, tell: Callable[[Step], None]) -> Follower:
            return Follower(
                run.registry,
                names,
                into,
                tell,
                form=Form(engine, max_lora_rank, max_error, uniform),
                keep_for=grace,
                dry_run=dry_run,
                tell_in_place=once or dry_run,
                progress=run.progress,
            )

        def report(address: str | None = None) -> Reporter:
            where = to if address is None else f"{to.partition(',')[0]} {address}"
            return Reporter(run.registry, to.partition("=")[0], f"{socket.gethostname()} {where}")

        tell = _teller(run)
        if isinstance(sink, Engines):
            sink.key = read_settings(os.environ).engine_key
            fleet = Fleet(sink, make, tell, None if once or dry_run else report, keep_for=grace, dry_run=dry_run)
            with fleet.opened():
                if once or dry_run:
                    _raise_first(fleet.round())
                    return
                fleet.follow(interval)
        follower = make(sink, tell)
        with nullcontext() if dry_run else sink.opened():
            if once or dry_run:
                _raise_first(follower.round())
                return
            with report() as reporter, reporter.beating():
                follower.follow(interval, report=reporter.update)


def _seconds(text: str) -> float:
    try:
        return float(parse_duration(text))
    except ValueError:
        raise UsageError(f"--keep-for {text!r} is no duration: 45s, 10m, 12h or 7d is expected.") from None


def _raise_first(problems: Sequence[RegistryError]) -> None:
    """The error of a round that left names out of place: the first one, of its own class."""
    if not problems:
        return
    first = problems[0]
    if len(problems) == 1:
        raise first
    raise type(first)(f"{len(problems)} problems keep names from their place; the first: {first}", code=first.code)


_WORDS = {
    "in_place": ("in place", ""),
    "brought": ("brought", ""),
    "switched": ("switched", ""),
    "dropped": ("dropped", GONE),
    "removed": ("removed", ""),
    "failed": ("failed", BEHIND),
}


def _teller(run: Session) -> Callable[[Step], None]:
    """Prints steps as they are done: a line each, or one line of JSON."""

    def tell(step: Step) -> None:
        run.progress.pause()
        if run.as_json:
            sys.stdout.write(json.dumps(step.model_dump(mode="json")) + "\n")
            sys.stdout.flush()
            return
        word, style = _WORDS[step.does]
        line = [Span(step.at.strftime("%Y-%m-%d %H:%M:%S"), QUIET), Span(f"  {word:9} ", style)]
        about = step.name or step.reference or ("" if step.problem else "nothing")
        line.append(reference(about))
        if step.name and step.reference:
            line += [Span(" -> "), reference(_short(step.reference, step.name))]
        if step.engine:
            line.append(phrase(f"{' ' if about else ''}at {step.engine}", QUIET))
        if step.before:
            line.append(phrase(f" (was {_short(step.before, step.name or '')})", QUIET))
        if step.problem:
            line.append(phrase(f"{': ' if about or step.engine else ''}{step.problem}", style))
        run.show([tuple(line)])

    return tell


def _short(reference: str, name: str) -> str:
    """A reference of the path that a name is of, without it."""
    path, _, number = reference.partition("@")
    return f"@{number}" if path == name.partition("@")[0] else reference
