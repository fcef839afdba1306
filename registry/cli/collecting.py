"""Commands about what is stored: gc, fsck."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Final

import typer

from registry.cli.options import Json, Url
from registry.cli.screen import BEHIND, QUIET, REFERENCE, Line, Span, fields, phrase, table, words
from registry.cli.session import session
from registry.cli.words import counted, short_digest, size
from registry.errors import IntegrityError

if TYPE_CHECKING:
    from registry.schemas import Checked, Collected, CollectedBlob

_LISTED: Final = 20


def gc(
    *,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be collected.")] = False,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Collect the bytes that nothing needs.

    Only what nothing has needed for the grace period (REGISTRY_GC_GRACE, a day by default). It may run while others
    publish, and beside another gc; one that was stopped is finished by the next.
    """
    with session(url, as_json) as run:
        answer = run.registry.gc(dry_run=dry_run, progress=run.progress)
        run.answer(answer, lambda width: collected_lines(answer, width))


def collected_lines(answer: Collected, width: int | None) -> list[Line]:
    """How much first, then the largest of what it was."""
    does = "would be collected" if answer.dry_run else "collected"
    pairs = [
        (does, [words(f"{size(answer.bytes)} in {counted(len(answer.blobs), 'blob')}")]),
        ("uploads", [words(f"{counted(answer.uploads, 'upload')} that nobody finished")] if answer.uploads else []),
        (
            "expired",
            [words(counted(len(answer.materialisations), "materialisation"))] if answer.materialisations else [],
        ),
        ("kept", [words(f"{counted(answer.kept_for_grace, 'blob')} in grace")] if answer.kept_for_grace else []),
    ]
    return [*fields(pairs, width, indent=0), *_blobs(answer.blobs, width)]


def _blobs(blobs: Sequence[CollectedBlob], width: int | None) -> list[Line]:
    shown = sorted(blobs, key=lambda blob: (-blob.size, blob.key))[:_LISTED]
    rows = [
        (
            [Span(size(blob.size)), Span("no row" if blob.digest is None else short_digest(blob.digest), QUIET)],
            [[phrase(blob.key)]],
        )
        for blob in shown
    ]
    more = len(blobs) - len(shown)
    text = [words(f"and {more} smaller ones (--json lists all)", QUIET)] if more else []
    rest = fields([("", text)], width, indent=0)
    return [*table(rows, width, indent=2, right=(0,)), *rest]


def fsck(
    *,
    deep: Annotated[bool, typer.Option("--deep", help="Read all stored bytes and compare their digests.")] = False,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Check that all that was published is stored.

    Every row has its blob, of the right size; with --deep every blob has its bytes. What is damaged is named, with the
    revisions and base models that it takes down; the command then ends with 6. Storing the same files again mends them.
    """
    with session(url, as_json) as run:
        answer = run.registry.fsck(deep=deep, progress=run.progress)
        run.answer(answer, lambda width: checked_lines(answer, width))
        if answer.damage:
            raise IntegrityError(
                f"{run.registry.url} is damaged: {counted(len(answer.damage), 'blob')} of {answer.blobs}, which "
                f"{_takes(answer)}, or restore them from a backup.",
                code="damaged",
            )


def _takes(answer: Checked) -> str:
    """What the damage takes down, and how to mend it."""
    taken = {name for one in answer.damage for name in one.takes_down}
    kept = {name for one in answer.damage for name in one.materialisations}
    what = counted(len(taken), "revision or base model", "revisions and base models")
    if not kept:
        return f"takes down {what}; publish or add the same files again"
    again = f"drop {'it' if len(kept) == 1 else 'them'} and materialise {'it' if len(kept) == 1 else 'them'} again"
    if not taken:
        return f"takes down {counted(len(kept), 'materialisation')}; {again}"
    return (
        f"takes down {what} and {counted(len(kept), 'materialisation')}; publish or add the same files again, {again}"
    )


def checked_lines(answer: Checked, width: int | None) -> list[Line]:
    """Sound or damaged, in one line, and everything that is damaged."""
    how = "all bytes read" if answer.deep else "sizes only; --deep reads all bytes"
    said = f"{counted(answer.blobs, 'blob')}, {size(answer.bytes)} ({how})"
    state = Span("damaged", "red") if answer.damage else Span("sound", "green")
    items = [words(said)]
    if answer.orphans:
        items.append(words(f"{counted(answer.orphans, 'leftover object')}; `registry gc` collects leftovers", QUIET))
    lines = table([([state], items)], width)
    for one in answer.damage:
        problem = [[phrase(one.key)], words(one.problem, BEHIND)]
        lines += table([([Span(short_digest(one.digest))], problem)], width, indent=2)
        names = (*one.takes_down, *one.materialisations)
        lines += table([([Span("takes down", QUIET), phrase(name, REFERENCE)], []) for name in names], width, indent=6)
    return lines
