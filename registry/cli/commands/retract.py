"""Retraction, and what the commands show that change how a base model is read and protected."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from registry.cli.options import Json, Ref, Url
from registry.cli.render.screen import BEHIND, QUIET, REFERENCE, TAG, Line, Span, fields, phrase, table, words
from registry.cli.render.text import counted
from registry.cli.render.use import NO_USE, use_items, used_references
from registry.cli.session import Session, session
from registry.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from registry.schemas import BaseMeasured, ProtectedTag, Retabled, Retracted, RevisionSummary


def retract(
    ref: Ref,
    *,
    reason: Annotated[
        str,
        typer.Option("--reason", metavar="TEXT", help="The reason; it is shown to everyone who requests the weights."),
    ] = "",
    undo: Annotated[bool, typer.Option("--undo", help="Make the revision available again.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only list what would become unavailable, and how much it was used.")
    ] = False,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Make a revision and everything that contains it unavailable.

    For a bad revision that others were trained on. The history stays readable, but the weights can't be fetched. The
    output lists everything that becomes unavailable, with how much it was used, or, with --undo, available again.
    """
    if undo and reason:
        raise UsageError("--reason says why a revision is retracted; leave it out with --undo.")
    if undo and dry_run:
        raise UsageError("--dry-run lists what a retraction would make unavailable; leave it out with --undo.")
    if not undo and not dry_run and not reason.strip():
        raise UsageError("retract needs --reason TEXT, which is shown to everyone who requests the weights.")
    with session(url, as_json) as run:
        # Undo is idempotent, so that it may be retried: the answer does not tell whether it changed anything, and only
        # text output says so.
        before = run.registry.show(ref).revision if undo and not as_json else None
        answer = run.registry.retract(ref, reason=reason, undo=undo, dry_run=dry_run)
        if before is None or before.reference != answer.reference or _is_retracted_itself(before):
            run.answer(answer, lambda width: retracted_lines(answer, width))
        else:
            run.show([(Span(answer.reference, REFERENCE), Span("  was not retracted: nothing to undo"))])
            if before.retracted is not None:
                run.say(f"It is not available because {before.retracted.reference}, which it contains, was retracted.")
        if not answer.done:
            run.say(f"Nothing was changed: `registry retract {answer.reference} --reason TEXT` retracts it.")
        elif answer.reason is not None:
            run.say(f"`registry retract {answer.reference} --undo` makes it available again.")


def _is_retracted_itself(revision: RevisionSummary) -> bool:
    return revision.retracted is not None and revision.retracted.reference == revision.reference


def retracted_lines(answer: Retracted, width: int | None) -> list[Line]:
    """The reference alone first, for scripts; then every revision that became unavailable or available with it."""
    undone = answer.reason is None
    state = "available again" if undone else "retracted" if answer.done else "would be retracted"
    also = "also available" if undone else "also unavailable" if answer.done else "with it"
    own = next((one for one in answer.used if one.reference == answer.reference), None)
    pairs = [
        ("state", [words(state, "" if undone else BEHIND)]),
        ("reason", [words(answer.reason or "")]),
        ("used", use_items(own) or ([words(NO_USE, QUIET)] if answer.use else [])),
        (also, used_references(answer.descendants, answer.used) or [words("no other revision", QUIET)]),
        ("tags", [[phrase(tag, TAG)] for tag in answer.tags]),
        ("used in all", use_items(answer.use) if answer.descendants else []),
    ]
    return [(Span(answer.reference, REFERENCE),), *fields(pairs, width)]


def retabled_lines(answer: Retabled, width: int | None) -> list[Line]:
    """The old digest and the new one, the differences of the tables, and how many revisions are affected."""
    if not answer.changed:
        pairs = [("table", [[Span(answer.base.table_digest)], words("unchanged: there is nothing to update", QUIET)])]
        return [(Span(answer.base.name, REFERENCE),), *fields(pairs, width)]
    pairs = [
        ("table", [[Span(answer.base.table_digest)]]),
        ("before", [[Span(answer.previous)]]),
        ("new", [words(change) for change in answer.changes]),
        ("affects", [words(f"{counted(answer.revisions, 'revision')}: new plans and commit ids")]),
        ("dropped", [words(f"materialisation of {one}", BEHIND) for one in answer.materialisations]),
    ]
    return [(Span(answer.base.name, REFERENCE),), *fields(pairs, width)]


def protected_lines(answer: Sequence[ProtectedTag], width: int | None) -> list[Line]:
    """One line per pattern."""
    return table([([phrase(one.base, REFERENCE)], [[phrase(one.pattern, TAG)]]) for one in answer], width)


def after_retabling(run: Session, answer: Retabled, *_: object) -> None:
    """What is other from now on."""
    if answer.changed:
        run.say(
            "The plans and commit ids of the paths below have changed: fetch again what has to be verified, and "
            "pin the new commits where a Hub view is used."
        )
    run.notices(answer.base.notices)


def after_protecting(run: Session, answer: Sequence[ProtectedTag], given: Mapping[str, Any]) -> None:
    """How many patterns there are."""
    run.say(f"{counted(len(answer), 'pattern')} at {given['base']}; only admins can move the tags that match.")


def measured_lines(answer: BaseMeasured, width: int | None) -> list[Line]:
    """The base model, and how many norms there are."""
    there = [] if answer.measured else [words("they were there already: no weights were read", QUIET)]
    pairs = [("norms", [words(f"of {counted(answer.norms, 'parameter')}"), *there])]
    return [(Span(answer.base, REFERENCE),), *fields(pairs, width)]
