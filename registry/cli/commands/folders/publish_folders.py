"""The output and exit code of ``publish -r``.

The output of ``publish --resume``.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

import typer

from registry import errors
from registry.cli.exit_codes import NONE, SOME, exit_code
from registry.cli.options import pairs
from registry.cli.render.screen import BEHIND, GONE, QUIET, REFERENCE, Line, Span, phrase, table, words
from registry.cli.render.text import amount, counted, ranked, size
from registry.errors import RegistryError
from registry.schemas.parents import level_of

if TYPE_CHECKING:
    from registry.cli.session import Session
    from registry.schemas import FolderOutcome, LeftOut, Published


def publish_rest(run: Session, folder: str, parent: str | None) -> None:
    """Publish what waits of a training run.

    Raises:
        RegistryError: of the first that is refused, after all were tried.
    """
    from registry.training.resuming import publish_waiting

    problems: list[RegistryError] = []

    def refused(place: Path, problem: RegistryError) -> None:
        problems.append(problem)
        run.say(f"not published: {place}: {problem}", GONE)

    revisions = publish_waiting(run.registry, Path(folder), parent=parent, refused=refused)
    run.answer(revisions, lambda _width: [(Span(one.reference, REFERENCE),) for one in revisions])
    if problems:
        raise problems[0]
    if not revisions:
        run.say(f"Nothing waits in {folder}.")


_BAD: Final = ("refused", "blocked")
_STATES: Final = {
    "planned": "would be published",
    "published": "published",
    "existing": "already published",
    "refused": "refused",
    "blocked": "not published because its parent was not",
    "skipped": "skipped",
}


def parse_renames(texts: Sequence[str] | None) -> dict[str, str]:
    """Parse ``OLD=NEW`` options.

    Raises:
        UsageError: one has no name or no ``=``, or a folder is given two names.
    """
    return pairs("--rename", "OLD=NEW", "support/French=french", texts)


def publish_folders(
    run: Session,
    folder: str,
    base: str,
    *,
    rename: dict[str, str],
    strict: bool | tuple[str, ...],
    keep_going: bool,
    dry_run: bool,
) -> None:
    """Publish a nested folder, or report what would be published.

    Raises:
        RegistryError: of the first folder that fails, without ``keep_going`` and ``dry_run``.
        typer.Exit: with ``keep_going``, not all were published; with ``dry_run``, publishing would end with this code.
    """
    each = keep_going or dry_run

    def told(outcome: FolderOutcome) -> None:
        if run.as_json and each:
            run.progress.pause()
            sys.stdout.write(json.dumps(outcome.model_dump(mode="json"), allow_nan=False) + "\n")
            sys.stdout.flush()
        elif not run.as_json and not dry_run:
            _tell(run, outcome)

    outcomes = run.registry.publish_folders(
        folder,
        base,
        rename=rename,
        strict=strict,
        keep_going=keep_going,
        dry_run=dry_run,
        told=told,
        progress=run.progress,
    )
    if run.as_json and not each:
        run.answer([outcome.published for outcome in outcomes if outcome.published is not None], lambda _width: ())
    elif not run.as_json and dry_run:
        run.show(outcome_lines(outcomes, run.out.width))
    if each:
        run.say(_summary(outcomes))
    if status := _status(outcomes, keep_going=keep_going):
        raise typer.Exit(status)


def _tell(run: Session, outcome: FolderOutcome) -> None:
    """Report one folder when it is done, so that an interrupted run has reported what it did."""
    answer = outcome.published
    if answer is None:
        code = f" ({outcome.code})" if outcome.code else ""
        style = GONE if outcome.state in _BAD else "dim"
        run.say(f"{_STATES[outcome.state]}: {outcome.folder}{code}: {outcome.message}", style)
        return
    run.progress.pause()
    run.out.show([(Span(answer.revision.reference, REFERENCE),)])
    state = "published" if answer.created else "was already published"
    run.say(f"{answer.revision.reference} {state}, parent {_parent(answer)}")
    for item in _left_out(answer.left_out):
        run.say(f"left out: {item.path} ({item.reason})")
    run.notices((*map(str, answer.notices), *outcome.notices))


def _left_out(items: Sequence[LeftOut]) -> Iterator[LeftOut]:
    """What was left out of a folder and has no outcome of its own."""
    from registry.folders.scan import ANOTHER_ADAPTER, ONLY_CHECKPOINTS

    return (item for item in items if item.reason not in (ANOTHER_ADAPTER, ONLY_CHECKPOINTS))


def outcome_lines(outcomes: Sequence[FolderOutcome], width: int | None) -> list[Line]:
    """One row per folder: where it goes, and what would happen to it."""
    rows = [
        (
            [phrase(outcome.folder), phrase(outcome.path or "-", REFERENCE), Span(outcome.state, _style(outcome))],
            _about(outcome),
        )
        for outcome in outcomes
    ]
    return table(rows, width, header=("FOLDER", "PATH", "STATE", "DETAILS"))


def _style(outcome: FolderOutcome) -> str:
    return GONE if outcome.state in _BAD else QUIET if outcome.state == "skipped" else ""


def _about(outcome: FolderOutcome) -> list[list[Span]]:
    preview = outcome.preview
    if preview is None:
        code = [Span(outcome.code, GONE)] if outcome.code else []
        return [[*code, *words(outcome.message or "")]]
    return [
        words(ranked(preview.rank)),
        [Span(size(preview.size))],
        words(f"{amount(preview.parameters)} parameters", QUIET),
        words(f"parent {preview.parent}, {level_of(preview.parent_known_by)} ({preview.parent_reason})"),
        words(f"as {preview.reference}" if preview.reference else "", QUIET),
        *(words(f"left out {item.path} ({item.reason})", QUIET) for item in _left_out(preview.left_out)),
        *(words(notice, BEHIND) for notice in (*preview.notices, *outcome.notices)),
    ]


def _summary(outcomes: Sequence[FolderOutcome]) -> str:
    counts = {state: sum(outcome.state == state for outcome in outcomes) for state in _STATES}
    parts = [f"{count} {_STATES[state]}" for state, count in counts.items() if count]
    return f"{counted(len(outcomes), 'folder')}: {', '.join(parts)}."


def _status(outcomes: Sequence[FolderOutcome], *, keep_going: bool) -> int:
    """The exit code; 0 if every publish folder was published, or would be."""
    bad = [outcome for outcome in outcomes if outcome.state in _BAD]
    if not bad:
        return 0
    if keep_going:
        return SOME if any(outcome.state in ("planned", "published", "existing") for outcome in outcomes) else NONE
    kind = next((getattr(errors, outcome.kind) for outcome in bad if outcome.kind), RegistryError)
    return exit_code(kind("a folder is refused"))


def _parent(answer: Published) -> str:
    return f"{answer.revision.parent}, {level_of(answer.revision.parent_known_by)} ({answer.parent_reason})"
