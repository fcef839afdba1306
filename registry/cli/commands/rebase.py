"""The command rebase: a revision on another revision of its parent."""

from __future__ import annotations

from typing import Annotated

import typer

from registry.cli import completion
from registry.cli.options import Json, Ref, Url
from registry.cli.session import session
from registry.errors import InvalidAdapterError, UsageError
from registry.figures import command


def rebase(
    ref: Ref,
    onto: Annotated[
        str,
        typer.Option(
            "--onto",
            metavar="REF",
            help="A revision of its parent; a PATH alone is the newest.",
            autocompletion=completion.references,
        ),
    ],
    message: Annotated[
        str, typer.Option("-m", "--message", metavar="TEXT", help="A description of the new revision.")
    ] = "",
    tag: Annotated[
        list[str] | None, typer.Option("--tag", metavar="TAG", help="Point a tag at it; may be repeated.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Publish it without asking first.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only report how far the path's weights move.")] = False,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Put a revision on another revision of its parent.

    It becomes a new revision with the same files, marked as rebased and not trained. How far the path's weights move
    is reported first; it is published after a question at the terminal, or with --yes. Evaluate it before you use it:
    nothing was trained. A DoRA, and an adapter that keeps copies of its parent's weights, can't be rebased.
    """
    from registry.cli.render.rebased import rebased_lines

    with session(url, as_json) as run:
        found = None
        if dry_run or not yes:
            found = run.registry.rebase(ref, onto, message=message, tags=tag or (), dry_run=True, progress=run.progress)
            run.answer(found, lambda width: rebased_lines(found, width))
            if found.refused is not None:
                raise InvalidAdapterError(found.refused, code="not_rebasable")
            again = command("registry", "rebase", found.reference, "--onto", found.onto, "--yes")
            if dry_run:
                run.say(f"Nothing was published: {again} publishes it.")
                return
            if as_json or not run.confirm("Publish it as a new revision?"):
                raise UsageError(f"Nothing was published: {again} publishes it.")
        done = run.registry.rebase(
            ref if found is None else found.reference,
            onto if found is None else found.onto,
            message=message,
            tags=tag or (),
            progress=run.progress,
        )
        run.answer(done, lambda width: rebased_lines(done, width, only_new=found is not None))
        assert done.revision is not None, "only a dry run makes none"
        if not done.created:
            run.say(f"{done.revision.reference} was there already.")
        run.notices(done.revision.notices)
