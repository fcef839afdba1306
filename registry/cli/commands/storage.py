"""Commands about stored bytes: materialise, retention, du, gc and fsck."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from registry.cli import completion
from registry.cli.options import AdapterPath, Json, Kind, MaterialisedAs, Measured, RowsChoice, Url, parse_expiry
from registry.cli.render.lists import listed_lines
from registry.cli.render.screen import BEHIND, QUIET, REFERENCE, Line, Span, fields, phrase, table, words
from registry.cli.render.statistics import figures
from registry.cli.session import Session, session
from registry.errors import IntegrityError, UnavailableError, UsageError
from registry.figures import command, counted, moment, short_digest, size

if TYPE_CHECKING:
    from registry.schemas import (
        ArtifactKind,
        Checked,
        Collected,
        CollectedBlob,
        Damage,
        Materialisation,
        Materialised,
        Retention,
    )
    from registry.schemas.usage import Usage


def materialise(
    ref: Annotated[
        str | None,
        typer.Argument(
            metavar="REF",
            help="A revision; with --list, a path and what is under it; with --drop, also an ID.",
            autocompletion=completion.references,
        ),
    ] = None,
    *,
    kind: MaterialisedAs = None,
    expires: Annotated[
        str | None,
        typer.Option("--expires", metavar="TIME", help="How long to keep it, such as 90d or 12h. Default: 30d."),
    ] = None,
    fidelity: Measured = RowsChoice.SAMPLE,
    list_: Annotated[
        bool, typer.Option("--list", help="List what is materialised: everything, or at and under REF.")
    ] = False,
    drop: Annotated[bool, typer.Option("--drop", help="Drop a materialisation by its ID, or all of REF.")] = False,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Precompute an artifact and keep it in the store for a while.

    The files are the same as those computed on request. They are kept until they expire or are dropped; materialising
    again extends the time. Every replica then serves these bytes, whatever processor it runs on.
    """
    if list_:
        _check_alone("--list", {"--drop": drop, "--as": kind, "--expires": expires})
        _list(ref, url, as_json)
        return
    if ref is None:
        raise UsageError("materialise needs a REF; `registry materialise --list` lists what is materialised.")
    if drop:
        _check_alone("--drop", {"--expires": expires})
        _drop(ref, kind.value if kind else None, url, as_json)
        return
    expires_in = parse_expiry(expires)
    with session(url, as_json) as run:
        answer = run.registry.materialise(
            ref,
            kind=(kind or Kind.LORA).value,
            expires_in=expires_in,
            fidelity=fidelity.value,
            progress=run.progress,
        )
        run.answer(answer, lambda width: materialised_lines(answer, width))


def _check_alone(option: str, others: dict[str, object]) -> None:
    wrong = next((name for name, value in others.items() if value), None)
    if wrong is not None:
        raise UsageError(f"{wrong} can't be given with {option}.")


def _list(ref: str | None, url: str | None, as_json: bool) -> None:
    from registry.schemas.artifacts import MATERIALISATIONS

    with session(url, as_json) as run:
        answer = run.registry.materialisations(ref)
        run.answer(answer, lambda width: listed_lines(MATERIALISATIONS, answer, width))
        if not answer:
            run.say(f"Nothing is materialised {'in ' + run.registry.url if ref is None else 'at ' + ref}.")


def _drop(which: str, kind: ArtifactKind | None, url: str | None, as_json: bool) -> None:
    with session(url, as_json) as run:
        answer = run.registry.drop_materialisation(which, kind=kind)
        run.answer(answer, lambda width: dropped_lines(answer, width))
        run.say("They can still be computed; `registry gc` collects bytes that nothing else needs.")


def materialised_lines(answer: Materialised, width: int | None) -> list[Line]:
    """The id alone first, for scripts; then its details."""
    one = answer.materialisation
    new = f"{size(answer.bytes_stored)} newly stored" if answer.created else "already materialised"
    pairs = [
        ("of", [[phrase(one.reference, REFERENCE)], words(f"as {one.kind}")]),
        ("rendering", [words(short_digest(one.rendering), QUIET)]),
        ("size", [words(f"{size(one.size)} in {counted(one.files, 'file')}"), words(new, QUIET)]),
        ("until", [words(f"{moment(one.expires_at)} UTC")]),
    ]
    if one.fidelity is not None:
        pairs.append(("fidelity", [words(figures(one.fidelity))]))
    return [(Span(one.id, REFERENCE),), *fields(pairs, width)]


def dropped_lines(answer: Sequence[Materialisation], width: int | None) -> list[Line]:
    """One line per dropped materialisation."""
    return table(
        [([Span(one.id, REFERENCE)], [words(f"dropped: {one.reference} as {one.kind}")]) for one in answer], width
    )


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
    from registry.cli.render.results import retention_lines

    with session(url, as_json) as run:
        answer = run.registry.set_retention(
            path,
            keep_last=keep_last,
            keep_every=keep_every,
            keep_best=tuple(keep_best or ()),
            keep_tagged=not no_keep_tagged,
        )
        run.answer(answer, lambda width: retention_lines(answer, width))
        say_what_runs(run, answer)


def after_running(run: Session, answer: Retention, given: Mapping[str, Any]) -> None:
    """How to restore what was deleted, or to delete what was only listed."""
    if not answer.done:
        say_what_runs(run, answer)
    elif answer.revisions and answer.until is not None:
        again = command("registry", "delete", "-r", given["path"], "--undo")
        run.say(f"{again} restores what was deleted until {moment(answer.until)} UTC. Numbers are never reused.")


def say_what_runs(run: Session, answer: Retention, *_: object) -> None:
    """That nothing was deleted, and what deletes it."""
    if answer.revisions:
        deletes = command("registry", "retention", "run", answer.rule.path)
        run.say(f"Nothing was deleted: {deletes} deletes what would go.")


_LISTED: Final = 20
_STATES: Final = {  # of a registry: that of its worst blob
    "sound": Span("sound", "green"),
    "unreadable": Span("unreadable", "red"),
    "damaged": Span("damaged", "red"),
}


def usage_lines(answer: Usage, width: int | None) -> list[Line]:
    """One line per adapter, and the sums."""
    from registry.schemas.usage import TAKEN

    less = f", {answer.full_checkpoints / answer.size:.0f} times as much" if answer.size else ""
    more = counted(answer.unlisted_adapters, "other adapter")
    revisions = len(answer.revisions) + answer.unlisted_revisions
    sums = [
        ("unlisted", [words(f"{more}, with less of their own", QUIET)] if answer.unlisted_adapters else []),
        ("total", [words(f"{size(answer.size)} in {counted(revisions, 'revision')}")]),
        ("full checkpoints", [words(f"would take {size(answer.full_checkpoints)}{less}")]),
        ("materialised", [words(size(answer.materialisations))] if answer.materialisations else []),
        ("collectable", [words(size(answer.collectable))] if answer.collectable else []),
    ]
    return [*listed_lines(TAKEN, answer.adapters, width), *fields(sums, width, indent=0)]


def collected_lines(answer: Collected, width: int | None) -> list[Line]:
    """The total first, then the largest blobs."""
    does = "would be collected" if answer.dry_run else "collected"
    gone = len(answer.revisions) + answer.unlisted_revisions + len(answer.bases)
    pairs = [
        (does, [words(f"{size(answer.bytes)} in {counted(len(answer.blobs) + answer.unlisted_blobs, 'blob')}")]),
        ("uploads", [words(f"{counted(answer.uploads, 'unfinished upload')}")] if answer.uploads else []),
        (
            "deleted",
            [words(f"{counted(gone, 'revision or base model', 'revisions and base models')} past the grace period")]
            if gone
            else [],
        ),
        (
            "expired",
            [words(counted(len(answer.materialisations), "materialisation"))] if answer.materialisations else [],
        ),
        ("kept", [words(f"{counted(answer.kept_for_grace, 'blob')} in grace")] if answer.kept_for_grace else []),
    ]
    return [*fields(pairs, width, indent=0), *_blobs(answer.blobs, answer.unlisted_blobs, width)]


def _blobs(blobs: Sequence[CollectedBlob], unlisted: int, width: int | None) -> list[Line]:
    shown = sorted(blobs, key=lambda blob: (-blob.size, blob.key))[:_LISTED]
    rows = [
        (
            [Span(size(blob.size)), Span("no row" if blob.digest is None else short_digest(blob.digest), QUIET)],
            [[phrase(blob.key)]],
        )
        for blob in shown
    ]
    more = len(blobs) - len(shown)
    text = [words(f"and {more} smaller ones (--json lists all)", QUIET)] if more and not unlisted else []
    if unlisted:
        text = [words(f"and {more + unlisted} others (--json lists {len(blobs)})", QUIET)]
    rest = fields([("", text)], width, indent=0)
    return [*table(rows, width, indent=2, right=(0,)), *rest]


def after_checking(run: Session, answer: Checked, *_: object) -> None:
    """Fail where something is damaged, or could not be read."""
    damaged = [one for one in answer.damage if one.state == "damaged"]
    if damaged:
        raise IntegrityError(
            f"{run.registry.url} is damaged: {counted(len(damaged), 'blob')} of {answer.blobs}, "
            f"{_takes(damaged)}, or restore them from a backup.",
            code="damaged",
        )
    if answer.damage:
        raise UnavailableError(
            f"{run.registry.url} could not be read completely: {counted(len(answer.damage), 'blob')} of "
            f"{answer.blobs}, which may be intact; check the store and run this again."
        )


def _takes(damaged: Sequence[Damage]) -> str:
    """What the damage makes unavailable, and how to repair it."""
    taken = {name for one in damaged for name in one.takes_down}
    kept = {name for one in damaged for name in one.materialisations}
    what = counted(len(taken), "revision or base model", "revisions and base models")
    files = "publish or add the same files again on the machine with the store"
    if not kept:
        return f"affecting {what}; {files}"
    again = f"drop {'it' if len(kept) == 1 else 'them'} and materialise {'it' if len(kept) == 1 else 'them'} again"
    if not taken:
        return f"affecting {counted(len(kept), 'materialisation')}; {again}"
    return f"affecting {what} and {counted(len(kept), 'materialisation')}; {files}, {again}"


def checked_lines(answer: Checked, width: int | None) -> list[Line]:
    """The state in one line, and all damage."""
    how = "all bytes read" if answer.deep else "sizes only; --deep reads all bytes"
    said = f"{counted(answer.blobs, 'blob')}, {size(answer.bytes)} ({how})"
    state = _STATES[max((one.state for one in answer.damage), key=list(_STATES).index, default="sound")]
    items = [words(said)]
    if answer.orphans:
        items.append(words(f"{counted(answer.orphans, 'leftover object')}; `registry gc` collects leftovers", QUIET))
    lines = table([([state], items)], width)
    for one in answer.damage:
        problem = [[phrase(one.key)], words(one.problem, BEHIND)]
        lines += table([([Span(short_digest(one.digest))], problem)], width, indent=2)
        names = (*one.takes_down, *one.materialisations)
        does = "affects" if one.state == "damaged" else "needed by"
        lines += table([([Span(does, QUIET), phrase(name, REFERENCE)], []) for name in names], width, indent=6)
    return lines
