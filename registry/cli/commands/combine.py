"""Commands that make a revision of revisions: combine is a sum, rebase is for another parent."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Sequence
from functools import partial
from typing import TYPE_CHECKING, Annotated, Final

import typer

from registry.cli import completion
from registry.cli.options import Json, Ref, Url, number_meant
from registry.cli.render.results import truncation_line
from registry.cli.session import session
from registry.errors import InvalidAdapterError, UsageError
from registry.figures import command

if TYPE_CHECKING:
    from registry.operations.registry import Registry


def rebase(
    ref: Ref,
    onto: Annotated[
        str,
        typer.Option(
            "--onto",
            metavar="REF",
            help="A revision of its parent; a PATH alone is the newest.",
            autocompletion=completion.references,
        ),
    ],
    message: Annotated[
        str, typer.Option("-m", "--message", metavar="TEXT", help="A description of the new revision.")
    ] = "",
    tag: Annotated[
        list[str] | None, typer.Option("--tag", metavar="TAG", help="Point a tag at it; may be repeated.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Publish it without asking first.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only report how far the path's weights move.")] = False,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Put a revision on another revision of its parent.

    It becomes a new revision with the same files, marked as rebased and not trained. How far the path's weights move
    is reported first; it is published after a question at the terminal, or with --yes. Evaluate it before you use it:
    nothing was trained. A DoRA, and an adapter that keeps copies of its parent's weights, can't be rebased.
    """
    from registry.cli.render.results import rebased

    with session(url, as_json) as run:
        found = None
        if dry_run or not yes:
            found = run.registry.rebase(ref, onto, message=message, tags=tag or (), dry_run=True, progress=run.progress)
            run.answer(found, rebased)
            if found.refused is not None:
                raise InvalidAdapterError(found.refused, code="not_rebasable")
            again = command("registry", "rebase", found.reference, "--onto", found.onto, "--yes")
            if dry_run:
                run.say(f"Nothing was published: {again} publishes it.")
                return
            if as_json or not run.confirm("Publish it as a new revision?"):
                raise UsageError(f"Nothing was published: {again} publishes it.")
        done = run.registry.rebase(
            ref if found is None else found.reference,
            onto if found is None else found.onto,
            message=message,
            tags=tag or (),
            progress=run.progress,
        )
        run.answer(done, lambda one: rebased(one, only_new=found is not None))
        assert done.revision is not None, "only a dry run makes none"
        if not done.created:
            run.say(f"{done.revision.reference} was there already.")
        run.notices(done.revision.notices)


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

    The deltas are taken over the lowest revision that is above all of them, and PATH lies directly under that. An
    adapter may be called by its last name if no other has it, and PATH by its own: style=0.8 char=0.6 mix.

    The result is exactly the sum, as one ordinary adapter; with --rank or --max-error, the best one of lower ranks.

    It keeps what it was made of: if a source is retracted, so is it, and a source can't be deleted while it is there.
    A DoRA can't be combined, nor can sources that replace values and disagree about them.
    """
    from registry.cli.render.results import agreement
    from registry.cli.render.results import combined as described

    sources, path = parse_sources(words)
    with session(url, as_json) as run:
        sources, path = whole_paths(run.registry, sources, path, over)
        combined = partial(run.registry.combine, rank=rank, max_error=max_error, progress=run.progress)
        if dry_run or not as_json:
            found = combined(sources, path, over=over, dry_run=True)
            if dry_run:
                run.answer(found, described)
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
        run.answer(done, described)
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


def whole_paths(
    registry: Registry, sources: Sequence[tuple[str, float]], path: str, over: str | None
) -> tuple[list[tuple[str, float]], str]:
    """Sources and path where names of one word are those of the only adapter that has it, and of a new one.

    Raises:
        UsageError: several adapters have the name.
        NotFoundError: a source does not exist.
    """
    words = [ref.partition("@")[0] for ref, _ in sources] + [path]
    if all("/" in word for word in words):
        return list(sources), path
    bases = {one.name for one in registry.bases()}
    found = [(_of_last_name(registry, ref, bases), weight) for ref, weight in sources]
    if "/" in path or path in bases:
        return found, path
    above = _above(registry, [ref for ref, _ in found]) if over is None else over.partition("@")[0]
    return found, f"{above}/{path}" if above else path


def _of_last_name(registry: Registry, ref: str, bases: Collection[str]) -> str:
    name, at, revision = ref.partition("@")
    if "/" in name or name in bases:
        return ref
    named = sorted({one.path for one in registry.search(name).revisions if one.path.endswith(f"/{name}")})
    if len(named) > 1:
        raise UsageError(
            f"{name} is the last name of {len(named)} adapters, {', '.join(named)}: write the path of one."
        )
    return f"{named[0]}{at}{revision}" if named else ref


def _above(registry: Registry, refs: Sequence[str]) -> str | None:
    """The path of the lowest revision that is above all of them; None: they have no base model in common."""
    lineages = [[entry.reference for entry in registry.resolve(ref).lineage][:-1] for ref in refs]
    shared = [each[0] for each in zip(*lineages, strict=False) if len(set(each)) == 1]
    return shared[-1].partition("@")[0] if shared else None


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
