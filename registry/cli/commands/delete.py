"""Commands that delete and retract, and undo it; and what is shown where a base model is read otherwise."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from registry.cli import completion
from registry.cli.options import BaseName, Json, Ref, Timeout, Url, Wait, parse_timeout
from registry.cli.session import Session, session
from registry.errors import ConflictError, NotFoundError, UsageError
from registry.figures import (
    BEHIND,
    QUIET,
    TAG,
    Cell,
    Span,
    counted,
    moment,
    phrase,
    quiet,
    reference,
    short_digest,
    words,
)
from registry.schemas.frames import Block, pairs
from registry.schemas.sheets import NO_USE, used, used_references

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from registry.schemas import BaseMeasured, Deleted, DeletedTree, ProtectedTag, Retabled, Retracted, RevisionSummary


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
    wait: Wait = False,
    timeout: Timeout = None,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Make a revision and everything that contains it unavailable.

    For a bad revision that others were trained on. The history stays readable, but the weights can't be fetched. The
    output lists everything that becomes unavailable, with how much it was used, or, with --undo, available again.

    With --wait, the command returns once no follower that lives serves any of it. If one fails, is lost or takes longer
    than --timeout, it is named with its reason, and the exit code is 9. It stays retracted.
    """
    seconds = parse_timeout(timeout, wait=wait)
    if wait and (undo or dry_run):
        raise UsageError("--wait waits until nobody serves what is retracted; leave it out with --undo and --dry-run.")
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
            run.answer(answer, retracted)
        else:
            run.show([(reference(answer.reference), Span("  was not retracted: nothing to undo"))])
            if before.retracted is not None:
                run.say(f"It is not available because {before.retracted.reference}, which it contains, was retracted.")
        if not answer.done:
            run.say(f"Nothing was changed: `registry retract {answer.reference} --reason TEXT` retracts it.")
        elif answer.reason is not None:
            run.say(f"`registry retract {answer.reference} --undo` makes it available again.")
        if wait:
            from registry.cli.commands.running import wait_for_retraction

            wait_for_retraction(run, answer, seconds)


def _is_retracted_itself(revision: RevisionSummary) -> bool:
    return revision.retracted is not None and revision.retracted.reference == revision.reference


def retracted(answer: Retracted) -> Iterator[Block]:
    """The reference alone first, for scripts; then every revision that became unavailable or available with it."""
    undone = answer.reason is None
    state = "available again" if undone else "retracted" if answer.done else "would be retracted"
    also = "also available" if undone else "also unavailable" if answer.done else "with it"
    own = next((one for one in answer.used if one.reference == answer.reference), None)
    rows: list[tuple[str, Cell]] = [
        ("state", words(state, "" if undone else BEHIND)),
        ("reason", answer.reason),
        ("used", used(own) or quiet(NO_USE if answer.use else "")),
        (also, used_references(answer.descendants, answer.used) or quiet("no other revision")),
        ("tags", [phrase(tag, TAG) for tag in answer.tags]),
        ("used in all", used(answer.use) if answer.descendants else None),
    ]
    yield pairs(answer.reference, rows)


def retabled(answer: Retabled) -> Iterator[Block]:
    """The old digest and the new one, the differences of the tables, and how many revisions are affected."""
    rows: list[tuple[str, Cell]] = [
        ("table", [Span(answer.base.table_digest), quiet("unchanged: there is nothing to update")])
    ]
    if answer.changed:
        rows = [
            ("table", Span(answer.base.table_digest)),
            ("before", Span(answer.previous)),
            ("new", [*answer.changes]),
            ("affects", f"{counted(answer.revisions, 'revision')}: new plans and commit ids"),
            ("dropped", [words(f"materialisation of {one}", BEHIND) for one in answer.materialisations]),
        ]
    yield pairs(answer.base.name, rows)


def protected(answer: Sequence[ProtectedTag]) -> Iterator[Block]:
    """One line per pattern."""
    yield Block(None, [(reference(one.base), phrase(one.pattern, TAG)) for one in answer], indent=0)


def after_retabling(run: Session, answer: Retabled, *_: object) -> None:
    """What is other from now on."""
    if answer.changed:
        run.say(
            "The plans and commit ids of the paths below have changed: fetch again what has to be verified, and "
            "pin the new commits where a Hub view is used."
        )
    run.notices(answer.base.notices)


def after_protecting(run: Session, answer: Sequence[ProtectedTag], given: Mapping[str, Any]) -> None:
    """The number of patterns."""
    run.say(f"{counted(len(answer), 'pattern')} at {given['base']}; only admins can move the tags that match.")


def measured(answer: BaseMeasured) -> Iterator[Block]:
    """The base model, and the number of its norms."""
    there = quiet("" if answer.measured else "they were there already: no weights were read")
    yield pairs(answer.base, [("norms", [f"of {counted(answer.norms, 'parameter')}", there])])


Yes = Annotated[bool, typer.Option("--yes", help="Delete without asking first.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only list what would be deleted, and how much it was used.")]
Undo = Annotated[bool, typer.Option("--undo", help="Restore it, within the grace period (REGISTRY_GC_GRACE).")]


def delete(
    ref: Annotated[
        str,
        typer.Argument(
            metavar="REF",
            help="A revision: PATH@3 or PATH@sha256:... With -r: a PATH.",
            autocompletion=completion.references,
        ),
    ],
    *,
    recursive: Annotated[
        bool, typer.Option("-r", "--recursive", help="Delete the adapter PATH and everything under it.")
    ] = False,
    with_tags: Annotated[
        bool, typer.Option("--with-tags", help="Also delete revisions that have tags, and those tags.")
    ] = False,
    yes: Yes = False,
    dry_run: DryRun = False,
    undo: Undo = False,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Delete a revision that nothing was trained on.

    Name the revision by its number or digest. With -r, everything at and under a path is deleted; it is listed first,
    and deleted after a question at the terminal, or with --yes. Within the grace period, --undo restores what was
    deleted: number, digest, message, metrics, annotations, and the tags that do not point at another revision by now;
    with -r, what the last deletion there removed. A number is never reused. A revision that others were trained on can
    be retracted instead.
    """
    if yes and not recursive:
        raise UsageError("--yes needs -r: a single revision is deleted without listing it first.")
    with session(url, as_json) as run:
        if recursive:
            _delete_tree(run, ref, with_tags=with_tags, yes=yes, dry_run=dry_run, undo=undo)
            return
        # Undo is idempotent, so that it may be retried: only text output says whether it changed anything.
        there = undo and not as_json and _is_there(run, ref)
        answer = run.registry.delete(ref, with_tags=with_tags, dry_run=dry_run, undo=undo)
        if there:
            run.show([(reference(answer.reference), Span("  was not deleted: nothing to undo"))])
            return
        run.answer(answer, deleted)
        if not answer.done:
            tags = " --with-tags" if answer.tags else ""
            run.say(f"Nothing was deleted: `registry delete {answer.reference}{tags}` deletes it.")
        elif not undo:
            again = f"registry delete {answer.reference} --undo"
            run.say(f"{_until(answer, again)} Its number is never reused.")


def base_delete(
    name: BaseName,
    *,
    recursive: Annotated[
        bool, typer.Option("-r", "--recursive", help="Also delete every revision of its adapters.")
    ] = False,
    yes: Yes = False,
    dry_run: DryRun = False,
    undo: Undo = False,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Delete a base model.

    Only if it has no adapters, or, with -r, together with all its adapters. What would be deleted is listed first,
    with the token scopes and protected tags that name the base model, because they would apply to another base model
    of the same name. It is deleted after a question at the terminal, or with --yes; if the list is empty, neither is
    needed. Within the grace period, --undo restores everything that was deleted together.
    """
    with session(url, as_json) as run:
        if undo:
            there = not as_json and _is_there(run, name)
            answer = run.registry.delete_base(name, recursive=recursive, dry_run=dry_run, undo=True)
            if there:
                run.show([(reference(name), Span("  was not deleted: nothing to undo"))])
                return
            run.answer(answer, deleted_tree)
            return
        command = f"registry base delete {'-r ' if recursive else ''}{name} --yes"
        if dry_run:
            _list_only(run, run.registry.delete_base(name, recursive=recursive, dry_run=True), command, recursive)
            return
        if not yes:
            listed = run.registry.delete_base(name, recursive=recursive, dry_run=True)
            refused = listed.revisions and not recursive  # the call below raises, with the reason
            if not refused and (listed.revisions or listed.scopes or listed.protected_tags):
                _ask(run, listed, command)
        answer = run.registry.delete_base(name, recursive=recursive)
        run.answer(answer, deleted_tree)
        run.say(f"{_until(answer, f'registry base delete {name} --undo')} The name is available again.")


def _delete_tree(run: Session, path: str, *, with_tags: bool, yes: bool, dry_run: bool, undo: bool) -> None:
    if not undo and (dry_run or not yes):
        listed = run.registry.delete_tree(path, dry_run=True)
        tags = " --with-tags" if listed.tags else ""
        command = f"registry delete -r {path} --yes{tags}"
        if dry_run:
            _list_only(run, listed, command, recursive=True)
            return
        _ask(run, listed, command, refused=bool(listed.tags and not with_tags))
    answer = run.registry.delete_tree(path, with_tags=with_tags, dry_run=dry_run, undo=undo)
    run.answer(answer, deleted_tree)
    if not undo:
        again = f"registry delete -r {path} --undo"
        run.say(f"{_until(answer, again)} Numbers are never reused.")


def _list_only(run: Session, listed: DeletedTree, command: str, recursive: bool) -> None:
    run.answer(listed, deleted_tree)
    if listed.revisions and not recursive:
        raise ConflictError(
            f"The base model {listed.path} can't be deleted without -r, because "
            f"{counted(len(listed.revisions), 'revision')} below it would be deleted too.",
            code="has_children",
        )
    run.say(f"Nothing was deleted: `{command}` deletes what is listed.")


def _ask(run: Session, listed: DeletedTree, command: str, *, refused: bool = False) -> None:
    """List what would be deleted and ask, at a terminal; not where it would be ``refused`` anyway.

    Raises:
        UsageError: the answer is no, or nobody can be asked.
    """
    run.answer(listed, deleted_tree)
    if refused or run.as_json or not run.confirm("Delete what is listed?"):
        raise UsageError(f"Nothing was deleted: `{command}` deletes what is listed.")


def _is_there(run: Session, ref: str) -> bool:
    try:
        run.registry.resolve(ref)
    except NotFoundError:
        return False
    return True


def _until(answer: Deleted | DeletedTree, command: str) -> str:
    until = "" if answer.until is None else f" until {moment(answer.until)} UTC"
    return f"`{command}` restores what was deleted{until}."


def deleted(answer: Deleted) -> Iterator[Block]:
    """What was deleted or restored: the revision and the tags that named it; and how much it was used."""
    state = "restored" if answer.undone else "deleted" if answer.done else "would be deleted"
    gone = "points at it again" if answer.undone else "is removed" if answer.done else "would be removed"
    tags = [
        *(f"tag {tag} {gone}" for tag in answer.tags),
        *(f"tag {tag} points at another revision now" for tag in answer.tags_elsewhere),
    ]
    about = [(state, Span(short_digest(answer.digest), QUIET)), *(words(tag, BEHIND) for tag in tags)]
    yield Block(None, [(reference(answer.reference), about)], indent=0)
    yield pairs(None, [("used", used(answer.use))])


def deleted_tree(answer: DeletedTree) -> Iterator[Block]:
    """The number of revisions, every revision and tag; for a base model also its scopes and protected tags."""
    state = "restored" if answer.undone else "deleted" if answer.done else "would be deleted"
    rows: list[tuple[str, Cell]] = [
        (state, counted(len(answer.revisions), "revision")),
        ("revisions", used_references(answer.revisions, answer.used)),
        ("used", used(answer.use) if answer.revisions else None),
        ("tags", [phrase(tag, TAG) for tag in answer.tags]),
        ("elsewhere", [phrase(tag, TAG) for tag in answer.tags_elsewhere]),
        ("scopes", [(reference(one.scope), Span(f"of {one.token}", QUIET)) for one in answer.scopes]),
        ("protected", [phrase(pattern, TAG) for pattern in answer.protected_tags]),
    ]
    yield pairs(answer.path, rows)
