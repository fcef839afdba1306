"""The command copy: from one registry to another."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING, Annotated

import typer

from registry.cli.options import Json, Url
from registry.cli.render.screen import QUIET, REFERENCE, Line, Span, phrase, table, words
from registry.cli.session import Session, session
from registry.errors import UsageError
from registry.figures import counted, size

if TYPE_CHECKING:
    from registry.schemas import Copied


def copy(
    ref: Annotated[
        str | None, typer.Argument(metavar="REF", help="A revision: PATH, PATH@3, PATH@tag or PATH@sha256:...")
    ] = None,
    *,
    to: Annotated[str, typer.Option("--to", metavar="URL", help="The other registry: a folder or an address.")],
    recursive: Annotated[
        bool, typer.Option("-r", "--recursive", help="Copy all revisions at and under REF, which is a path.")
    ] = False,
    everything: Annotated[
        bool, typer.Option("--all", help="Without REF: copy all base models with all their adapters.")
    ] = False,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Copy a revision, a subtree or everything to another registry.

    The lineage, the base model, tags, metrics and annotations are copied with it; authors and times too, if the token
    for the other registry is an admin's. Digests stay the same, and so do numbers that are not taken there. Only
    missing bytes are transferred; a copy that was interrupted continues where it stopped.
    """
    from registry.app import open_registry

    if everything and ref is not None:
        raise UsageError(f"--all copies everything; leave out {ref}, or leave out --all.")
    if ref is None and not everything:
        raise UsageError("copy needs REF, the revision or path to copy, or --all for everything.")
    with session(url, as_json) as run, closing(open_registry(to, create=True)) as target:
        if ref is not None:
            answer = run.registry.copy(ref, target, recursive=recursive, progress=run.progress)
            run.answer(answer, lambda width: copied_lines(answer, width))
            _tell(run, answer)
            if not answer.revisions and not recursive:
                run.say(f"Its adapters are copied with -r: `registry copy -r {ref} --to {to}`.")
            return
        answers = run.registry.copy_all(
            target, copied=lambda one: None if as_json else _show(run, one), progress=run.progress
        )
        if as_json:
            run.answer(answers, lambda _: [])
        elif not answers:
            run.say(f"There are no base models in {run.registry.url}: nothing was copied.")


def _show(run: Session, answer: Copied) -> None:
    """One base model of several, as soon as it is copied."""
    run.show(copied_lines(answer, run.out.width))
    _tell(run, answer)


def _tell(run: Session, answer: Copied) -> None:
    new = sum(one.created for one in answer.revisions)
    base = f"the base model {answer.base} and " if answer.base_created else ""
    run.say(f"{base}{counted(new, 'new revision')}, {size(answer.bytes_copied)}, to {answer.target}")
    run.notices(answer.notices)


def copied_lines(answer: Copied, width: int | None) -> list[Line]:
    """One line per revision, parents first, by its reference in the target."""
    rows = [
        (
            [phrase(one.reference, REFERENCE)],
            [
                words("copied" if one.created else "already present", "" if one.created else QUIET),
                words("" if one.source == one.reference else f"from {one.source}", QUIET),
            ],
        )
        for one in answer.revisions
    ]
    return table(rows, width) or [(Span(answer.base, REFERENCE),)]
