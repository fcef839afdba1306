"""Commands about stored bytes: materialise, retention, du, gc and fsck."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from registry.cli import completion
from registry.cli.options import AdapterPath, Json, MaterialisedAs, Measured, Url, parse_expiry
from registry.cli.session import Session, session
from registry.errors import IntegrityError, UnavailableError, UsageError
from registry.figures import (
    BEHIND,
    QUIET,
    Cell,
    Span,
    command,
    counted,
    moment,
    phrase,
    quiet,
    reference,
    short_digest,
    size,
    words,
)
from registry.schemas.frames import Block, pairs
from registry.schemas.sheets import figures

if TYPE_CHECKING:
    from registry.schemas import (
        ArtifactKind,
        Checked,
        Collected,
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
    fidelity: Measured = "sample",
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
        _drop(ref, kind, url, as_json)
        return
    expires_in = parse_expiry(expires)
    with session(url, as_json) as run:
        answer = run.registry.materialise(
            ref,
            kind=kind or "lora",
            expires_in=expires_in,
            fidelity=fidelity,
            progress=run.progress,
        )
        run.answer(answer, materialised)


def _check_alone(option: str, others: dict[str, object]) -> None:
    wrong = next((name for name, value in others.items() if value), None)
    if wrong is not None:
        raise UsageError(f"{wrong} can't be given with {option}.")


def _list(ref: str | None, url: str | None, as_json: bool) -> None:
    from registry.schemas.artifacts import Materialisations

    with session(url, as_json) as run:
        answer = run.registry.materialisations(ref)
        run.answer(answer, lambda found: [Materialisations.described.block(found)])
        if not answer:
            run.say(f"Nothing is materialised {'in ' + run.registry.url if ref is None else 'at ' + ref}.")


def _drop(which: str, kind: ArtifactKind | None, url: str | None, as_json: bool) -> None:
    with session(url, as_json) as run:
        answer = run.registry.drop_materialisation(which, kind=kind)
        run.answer(answer, dropped)
        run.say("They can still be computed; `registry gc` collects bytes that nothing else needs.")


def materialised(answer: Materialised) -> Iterator[Block]:
    """The id alone first, for scripts; then its details."""
    one = answer.materialisation
    new = f"{size(answer.bytes_stored)} newly stored" if answer.created else "already materialised"
    rows: list[tuple[str, Cell]] = [
        ("of", [reference(one.reference), f"as {one.kind}"]),
        ("rendering", quiet(short_digest(one.rendering))),
        ("size", [f"{size(one.size)} in {counted(one.files, 'file')}", quiet(new)]),
        ("until", f"{moment(one.expires_at)} UTC"),
        ("fidelity", None if one.fidelity is None else figures(one.fidelity)),
    ]
    yield pairs(one.id, rows)


def dropped(answer: Sequence[Materialisation]) -> Iterator[Block]:
    """One line per dropped materialisation."""
    yield Block(None, [(reference(one.id), f"dropped: {one.reference} as {one.kind}") for one in answer], indent=0)


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
    from registry.cli.render.results import retention

    with session(url, as_json) as run:
        answer = run.registry.set_retention(
            path,
            keep_last=keep_last,
            keep_every=keep_every,
            keep_best=tuple(keep_best or ()),
            keep_tagged=not no_keep_tagged,
        )
        run.answer(answer, retention)
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


def usage(answer: Usage) -> Iterator[Block]:
    """One line per adapter, and the sums."""
    from registry.schemas.usage import TAKEN

    yield TAKEN.block(answer.adapters)
    less = f", {answer.full_checkpoints / answer.size:.0f} times as much" if answer.size else ""
    more = counted(answer.unlisted_adapters, "other adapter")
    revisions = len(answer.revisions) + answer.unlisted_revisions
    sums: list[tuple[str, Cell]] = [
        ("unlisted", quiet(f"{more}, with less of their own" if answer.unlisted_adapters else "")),
        ("total", f"{size(answer.size)} in {counted(revisions, 'revision')}"),
        ("full checkpoints", f"would take {size(answer.full_checkpoints)}{less}"),
        ("materialised", size(answer.materialisations) if answer.materialisations else ""),
        ("collectable", size(answer.collectable) if answer.collectable else ""),
    ]
    yield pairs(None, sums, indent=0)


def collected(answer: Collected) -> Iterator[Block]:
    """The total first, then the largest blobs."""
    does = "would be collected" if answer.dry_run else "collected"
    gone = len(answer.revisions) + answer.unlisted_revisions + len(answer.bases)
    past = f"{counted(gone, 'revision or base model', 'revisions and base models')} past the grace period"
    expired = len(answer.materialisations)
    rows: list[tuple[str, Cell]] = [
        (does, f"{size(answer.bytes)} in {counted(len(answer.blobs) + answer.unlisted_blobs, 'blob')}"),
        ("uploads", counted(answer.uploads, "unfinished upload") if answer.uploads else ""),
        ("deleted", past if gone else ""),
        ("expired", counted(expired, "materialisation") if expired else ""),
        ("kept", f"{counted(answer.kept_for_grace, 'blob')} in grace" if answer.kept_for_grace else ""),
    ]
    yield pairs(None, rows, indent=0)
    blobs = sorted(answer.blobs, key=lambda blob: (-blob.size, blob.key))[:_LISTED]
    names = ("no row" if blob.digest is None else short_digest(blob.digest) for blob in blobs)
    listed = [(size(blob.size), Span(name, QUIET), phrase(blob.key)) for blob, name in zip(blobs, names, strict=True)]
    yield Block(None, listed, right=(0,))
    more = len(answer.blobs) - len(blobs)
    if answer.unlisted_blobs:
        yield _rest(f"and {more + answer.unlisted_blobs} others (--json lists {len(answer.blobs)})")
    elif more:
        yield _rest(f"and {more} smaller ones (--json lists all)")


def _rest(text: str) -> Block:
    return pairs(None, [("", quiet(text))], indent=0)


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


def checked(answer: Checked) -> Iterator[Block]:
    """The state in one line, and all damage."""
    how = "all bytes read" if answer.deep else "sizes only; --deep reads all bytes"
    state = _STATES[max((one.state for one in answer.damage), key=list(_STATES).index, default="sound")]
    left = f"{counted(answer.orphans, 'leftover object')}; `registry gc` collects leftovers" if answer.orphans else ""
    said = f"{counted(answer.blobs, 'blob')}, {size(answer.bytes)} ({how})"
    yield Block(None, [(state, [said, quiet(left)])], indent=0)
    for one in answer.damage:
        yield Block(None, [(short_digest(one.digest), [phrase(one.key), words(one.problem, BEHIND)])])
        names = (*one.takes_down, *one.materialisations)
        does = Span("affects" if one.state == "damaged" else "needed by", QUIET)
        yield Block(None, [(does, reference(name), None) for name in names], indent=6)
