"""The commands of retention: set and run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from registry.cli.options import AdapterPath, Json, Url
from registry.cli.render.text import moment
from registry.cli.session import Session, session
from registry.figures import command

if TYPE_CHECKING:
    from registry.schemas import Retention


def set_(
    path: AdapterPath,
    *,
    keep_last: Annotated[
        int | None,
        typer.Option("--keep-last", min=1, metavar="N", help="Keep the N revisions with the highest numbers."),
    ] = None,
    keep_every: Annotated[
        int | None, typer.Option("--keep-every", min=1, metavar="N", help="Keep revisions N, 2 N, 3 N and so on.")
    ] = None,
    keep_best: Annotated[
        list[str] | None,
        typer.Option(
            "--keep-best",
            metavar="max|min:METRIC:N",
            help="Keep the N revisions with the best values of a metric, such as max:acc:3; may be repeated.",
        ),
    ] = None,
    no_keep_tagged: Annotated[
        bool, typer.Option("--no-keep-tagged", help="Also delete revisions that have tags, and those tags.")
    ] = False,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Set which revisions of an adapter are kept.

    What no part of the rule keeps is deleted by `registry retention run`, and by a service after each publish to the
    adapter; this only lists it. The newest revision always stays, and so do those that were retracted, that have a
    protected tag, that others were trained on or combined of, and that are materialised. A rule takes the place of an
    earlier one.
    """
    with session(url, as_json) as run:
        answer = run.registry.set_retention(
            path,
            keep_last=keep_last,
            keep_every=keep_every,
            keep_best=tuple(keep_best or ()),
            keep_tagged=not no_keep_tagged,
        )
        _answer(run, answer)
        say_what_runs(run, answer)


def run(
    path: AdapterPath,
    *,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only list what would be deleted.")] = False,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Delete what the retention rule of an adapter does not keep.

    As `registry delete` does: within the grace period, `registry delete -r PATH --undo` restores all that one run
    deleted, unless something else was deleted there since. Remove the rule first, or the next run deletes it again.
    Numbers are never reused.
    """
    with session(url, as_json) as run:
        answer = run.registry.run_retention(path, dry_run=dry_run, progress=run.progress)
        _answer(run, answer)
        if not answer.done:
            say_what_runs(run, answer)
        elif answer.revisions and answer.until is not None:
            again = command("registry", "delete", "-r", path, "--undo")
            run.say(f"{again} restores what was deleted until {moment(answer.until)} UTC. Numbers are never reused.")


def _answer(run: Session, answer: Retention) -> None:
    from registry.cli.render.retention import retention_lines

    run.answer(answer, lambda width: retention_lines(answer, width))


def say_what_runs(run: Session, answer: Retention, *_: object) -> None:
    """That nothing was deleted, and what deletes it."""
    if answer.revisions:
        deletes = command("registry", "retention", "run", answer.rule.path)
        run.say(f"Nothing was deleted: {deletes} deletes what would go.")
