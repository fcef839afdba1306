"""The command fsck, and what du and gc show."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Final

import typer

from registry.cli.options import Json, Url
from registry.cli.render.screen import BEHIND, QUIET, REFERENCE, Line, Span, fields, phrase, table, words
from registry.cli.render.text import counted, short_digest, size
from registry.cli.session import session
from registry.errors import IntegrityError, UnavailableError

if TYPE_CHECKING:
    from registry.schemas import Checked, Collected, CollectedBlob, Damage
    from registry.schemas.usage import Usage

_LISTED: Final = 20
_STATES: Final = {  # of a registry: that of its worst blob
    "sound": Span("sound", "green"),
    "unreadable": Span("unreadable", "red"),
    "damaged": Span("damaged", "red"),
}


def usage_lines(answer: Usage, width: int | None) -> list[Line]:
    """One line per adapter, and the sums."""
    header = ("OWN", "SIZE", "REVISIONS", "ADAPTER")
    rows = [
        ([Span(size(one.own)), Span(size(one.size)), Span(str(one.revisions))], [[phrase(one.name, REFERENCE)]])
        for one in answer.adapters
    ]
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
    return [*table(rows, width, header=header, right=(0, 1, 2)), *fields(sums, width, indent=0)]


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


def fsck(
    *,
    deep: Annotated[bool, typer.Option("--deep", help="Read all stored bytes and compare their digests.")] = False,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Check that everything that was published is stored.

    Checks that every row has its blob, of the right size; with --deep, also that every blob has the right bytes.
    Damaged blobs are listed with the revisions and base models that they affect, and the exit code is 6. Storing the
    same files again repairs them. Blobs that could not be read are listed too, and may be intact: without damage, the
    exit code is then 1.
    """
    with session(url, as_json) as run:
        answer = run.registry.fsck(deep=deep, progress=run.progress)
        run.answer(answer, lambda width: checked_lines(answer, width))
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
