"""The command materialise: computed artifacts kept in the store for a while."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from registry.cli import completion
from registry.cli.options import Json, Kind, MaterialisedAs, Measured, RowsChoice, Url, parse_expiry
from registry.cli.render.fidelity import figures
from registry.cli.render.screen import QUIET, REFERENCE, Line, Span, fields, phrase, table, words
from registry.cli.render.text import counted, moment, short_digest, size
from registry.cli.session import session
from registry.errors import UsageError

if TYPE_CHECKING:
    from registry.schemas import ArtifactKind, Materialisation, Materialised


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
    with session(url, as_json) as run:
        answer = run.registry.materialisations(ref)
        run.answer(answer, lambda width: listed_lines(answer, width))
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


def listed_lines(answer: Sequence[Materialisation], width: int | None) -> list[Line]:
    """One line per materialisation, by path."""
    rows = [
        (
            [phrase(one.id, REFERENCE), Span(size(one.size)), Span(moment(one.expires_at))],
            [[phrase(one.reference)], [Span(one.kind, QUIET)]],
        )
        for one in answer
    ]
    return table(rows, width, header=("ID", "SIZE", "UNTIL (UTC)", "OF, AS"), right=(1,))


def dropped_lines(answer: Sequence[Materialisation], width: int | None) -> list[Line]:
    """One line per dropped materialisation."""
    return table(
        [([Span(one.id, REFERENCE)], [words(f"dropped: {one.reference} as {one.kind}")]) for one in answer], width
    )
