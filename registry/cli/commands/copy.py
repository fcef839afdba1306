"""The command copy: from one registry to another."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from registry.cli.options import Json, Ref, Url
from registry.cli.render.screen import QUIET, REFERENCE, Line, Span, phrase, table, words
from registry.cli.render.text import counted, size
from registry.cli.session import session

if TYPE_CHECKING:
    from registry.schemas import Copied


def copy(
    ref: Ref,
    *,
    to: Annotated[str, typer.Option("--to", metavar="URL", help="The other registry: a folder or an address.")],
    recursive: Annotated[
        bool, typer.Option("-r", "--recursive", help="Copy all revisions at and under REF, which is a path.")
    ] = False,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Copy a revision, or a whole subtree, to another registry.

    The lineage, the base model, tags, metrics and annotations are copied with it; authors and times too, if the token
    for the other registry is an admin's. Digests stay the same, and so do numbers that are not taken there. Only
    missing bytes are transferred; a copy that was interrupted continues where it stopped.
    """
    from registry.app import open_registry

    with session(url, as_json) as run:
        target = open_registry(to, create=True)
        try:
            answer = run.registry.copy(ref, target, recursive=recursive, progress=run.progress)
        finally:
            target.close()
        run.answer(answer, lambda width: copied_lines(answer, width))
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
