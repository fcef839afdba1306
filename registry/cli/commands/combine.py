"""The command combine: the weighted sum of revisions as a new revision."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from functools import partial
from typing import Annotated, Final

import typer

from registry.cli import completion
from registry.cli.options import Json, Url, number_meant
from registry.cli.render.fidelity import truncation_line
from registry.cli.session import session
from registry.errors import UsageError

_COLON: Final = re.compile(r"(.+?)[:*]([0-9.]+)")
_TIMES: Final = re.compile(r"([0-9.]+)[*x](.+)")


def combine(
    words: Annotated[
        list[str],
        typer.Argument(
            metavar="REF=WEIGHT... PATH",
            help="Revisions with their weights, then the path of the new revision.",
            autocompletion=completion.references,
        ),
    ],
    over: Annotated[
        str | None,
        typer.Option(
            "--over",
            metavar="REF",
            help="Take the deltas over this revision above the lowest common ancestor, or over the base model.",
            autocompletion=completion.references,
        ),
    ] = None,
    rank: Annotated[
        int | None, typer.Option("--rank", metavar="N", help="Truncate it to at most this rank in each module.")
    ] = None,
    max_error: Annotated[
        float | None,
        typer.Option(
            "--max-error",
            metavar="E",
            help="Truncate it to the smallest ranks within this relative error over all modules, such as 0.05.",
        ),
    ] = None,
    message: Annotated[
        str, typer.Option("-m", "--message", metavar="TEXT", help="A description of the new revision.")
    ] = "",
    tag: Annotated[
        list[str] | None, typer.Option("--tag", metavar="TAG", help="Point a tag at it; may be repeated.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only report what it would be.")] = False,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Publish the weighted sum of the deltas of revisions.

    The deltas are taken over the lowest revision that is above all of them, and PATH lies directly under that. The
    result is exactly the sum, as one ordinary adapter; with --rank or --max-error, the best one of lower ranks.

    It keeps what it was made of: if a source is retracted, so is it, and a source can't be deleted while it is there.
    A DoRA can't be combined, nor can sources that replace values and disagree about them.
    """
    from registry.cli.render.combined import agreement, combined_lines

    sources, path = parse_sources(words)
    with session(url, as_json) as run:
        combined = partial(run.registry.combine, rank=rank, max_error=max_error, progress=run.progress)
        if dry_run or not as_json:
            found = combined(sources, path, over=over, dry_run=True)
            if dry_run:
                run.answer(found, lambda width: combined_lines(found, width))
            else:
                run.say(agreement(found))
            if found.truncation is not None:
                run.say(truncation_line(found.truncation))
            if dry_run:
                run.notices(found.notices)
                run.say("Nothing was published: the same command without --dry-run publishes it.")
                return
            # what was reported, whatever is newer by now
            sources, over = [(one.reference, one.weight) for one in found.sources], found.over
        done = combined(sources, path, over=over, message=message, tags=tag or ())
        run.answer(done, lambda width: combined_lines(done, width))
        assert done.revision is not None, "only a dry run makes none"
        if not done.created:
            run.say(f"{done.revision.reference} was there already.")
        run.notices(dict.fromkeys((*done.notices, *done.revision.notices)))
        run.next(("registry", "show", done.revision.reference), "shows it, with what it is made of")


def parse_sources(words: Sequence[str]) -> tuple[list[tuple[str, float]], str]:
    """The sources with their weights, and the path.

    Raises:
        UsageError: a source has no weight, a weight is no number, or the path is missing.
    """
    *given, path = words
    if "=" in path:
        raise UsageError(
            f"{path!s} is a source, and the path of the new revision is expected last: REF=WEIGHT... PATH."
        )
    if not given:
        raise UsageError("Nothing to combine: give at least one REF=WEIGHT before the path.")
    return [_source(text, len(given)) for text in given], path


def _source(text: str, count: int) -> tuple[str, float]:
    ref, equals, number = text.rpartition("=")
    if not equals and (colon := _COLON.fullmatch(text)) is not None:
        raise UsageError(f"{text!s} has no weight: it follows '=', as in {colon[1]}={colon[2]}.")
    if not equals and (times := _TIMES.fullmatch(text)) is not None:
        raise UsageError(f"{text!s} has no weight: it follows '=', as in {times[2]}={times[1]}.")
    if not equals:
        if count == 1:
            raise UsageError(f"{text!s} has no weight, and none is assumed: {text}=1 takes its delta as it is.")
        raise UsageError(
            f"{text!s} has no weight, and neither is assumed: {text}=1 for each makes the sum, {text}={1 / count:.3g} "
            "for each the mean."
        )
    if "," in ref:
        raise UsageError(f"{text!s} is more than one source: a space stands between two, as in A=0.5 B=0.5.")
    try:
        weight = float(number)
    except ValueError:
        weight = math.nan
    if not math.isfinite(weight):
        meant = number_meant(number)
        such = "such as 0.5" if meant is None else f"so write {ref}={meant}"
        raise UsageError(f"The weight of {ref!s} is {number!s}: a finite number is expected, {such}.")
    return ref, weight
