"""Commands that read: tree, log, diff between two revisions, stats of a path, and check by an engine.

Also what show, resolve and search say after their answer.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from registry.cli import completion
from registry.cli.options import (
    AdapterPath,
    Json,
    MaxLoraRank,
    OldNames,
    Ref,
    Since,
    Url,
    check_file,
    write_file,
)
from registry.cli.session import Session, session
from registry.errors import InvalidAdapterError, UsageError
from registry.schemas.form import BaseQuantization, Dtype, EngineName
from registry.schemas.labels import old_name_notices

if TYPE_CHECKING:
    from registry.plots.heat_map import HeatMap
    from registry.schemas import Resolved, SearchResult, Shown, Tree


def stats(
    ref: Ref,
    since: Annotated[
        str | None, typer.Option("--since", metavar="REF", help="Only the links after this ancestor.")
    ] = None,
    plot: Annotated[
        str | None,
        typer.Option("--plot", metavar="FILE", help="Write a heat map of the path by depth and module, as SVG."),
    ] = None,
    csv: Annotated[
        str | None, typer.Option("--csv", metavar="FILE", help="Write the figures of every module, as CSV.")
    ] = None,
    fidelity: Annotated[
        Dtype | None,
        typer.Option("--fidelity", help="Estimate what a merge in this dtype keeps, from some rows of the base."),
    ] = None,
    dense: Annotated[
        bool, typer.Option("--dense", help="Read the weights: whole changes, DoRA too, and intruders. Slow.")
    ] = False,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Show what each link changed and the rank it needs.

    The figures come from the factors alone: no weight of the base model is read, but for --fidelity. They are kept
    with the revision. With --dense they are those of the whole path's changes to the weights, whatever the links do to
    them.
    """
    from registry.schemas.comparisons import statistics
    from registry.schemas.frames import csv_of
    from registry.schemas.heat_maps import path_map
    from registry.schemas.statistics import COLUMNS

    for option, file in (("--plot", plot), ("--csv", csv)):
        if file is not None:
            check_file(option, file)
    if dense:
        if plot is not None:
            raise UsageError("--plot shows the figures of factors; leave out --dense.")
        if fidelity is not None:
            raise UsageError("--fidelity reads a sample of the weights and --dense all: give one of them.")
        _dense(ref, since, csv, url, as_json=as_json)
        return
    with session(url, as_json) as run:
        answer = run.registry.stats(ref, since=since, fidelity=fidelity, progress=run.progress)
        if plot is not None:
            write_file("--plot", plot, path_map(answer).svg())
        if csv is not None:
            write_file("--csv", csv, csv_of(answer.rows(), COLUMNS))
        run.answer(answer, statistics)
        if answer.path.modules and answer.path.relative_frobenius is None:
            run.say(_unmeasured(answer.reference, answer.since, asked=since is not None))


def _dense(ref: str, since: str | None, csv: str | None, url: str | None, *, as_json: bool) -> None:
    from registry.schemas.comparisons import dense_statistics
    from registry.schemas.frames import csv_of
    from registry.schemas.statistics import DENSE_COLUMNS

    with session(url, as_json) as run:
        answer = run.registry.dense_stats(ref, since=since, progress=run.progress)
        if csv is not None:
            write_file("--csv", csv, csv_of(answer.rows(), DENSE_COLUMNS))
        run.answer(answer, dense_statistics)
        if answer.matrices and answer.relative_frobenius is None:
            run.say(_unmeasured(answer.reference, answer.since, asked=since is not None))


def _unmeasured(reference: str, begins: str, *, asked: bool) -> str:
    """Why figures are not relative to the weights; ``begins``: after what they begin, which somebody ``asked`` for."""
    base = reference.partition("/")[0]
    if begins == base:
        return f"The norms of {base} are not known yet; `registry base measure {base}` reads its weights once."
    if not asked:
        return f"{begins} is an exact full fine-tune, whose norms are not kept: the figures are not relative to them."
    return (
        f"The figures are not relative to weights: the norms of {base} are not known (`registry base measure {base}` "
        "reads its weights once), or the path has an exact full fine-tune, whose norms are not kept."
    )


def check(
    ref: Ref,
    engine: Annotated[EngineName, typer.Option("--engine", help="The engine that is to load it.")],
    max_lora_rank: MaxLoraRank = None,
    since: Since = None,
    base_quantization: Annotated[
        BaseQuantization | None,
        typer.Option("--base-quantization", help="How the base model is quantised that the engine serves it on."),
    ] = None,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Tell whether an engine loads the adapter of a reference.

    Prints yes, or no with every reason and the command that writes what does load. Reads no weights. Exits with 4 if
    the answer is no.
    """
    from registry.cli.render.results import check as described

    with session(url, as_json) as run:
        answer = run.registry.check(
            ref,
            engine=engine,
            max_lora_rank=max_lora_rank,
            since=since,
            base_quantization=base_quantization,
        )
        run.answer(answer, described)
        if not answer.loads:
            raise InvalidAdapterError(
                f"{engine} {answer.version} can't load {answer.reference}; instead: `{answer.would_do}`.",
                code="engine_limits",
            )


def diff(
    a: Annotated[
        str | None,
        typer.Argument(
            metavar="A",
            help="A revision: PATH, PATH@3, PATH@tag or PATH@sha256:...",
            autocompletion=completion.references,
        ),
    ] = None,
    b: Annotated[
        str | None,
        typer.Argument(metavar="B", help="The revision to compare it with.", autocompletion=completion.references),
    ] = None,
    *,
    deltas: Annotated[bool, typer.Option("--deltas", help="Compare what they learned too, from the factors.")] = False,
    matrix: Annotated[
        str | None,
        typer.Option(
            "--matrix",
            metavar="PATH",
            help="Compare the deltas of all children of this path.",
            autocompletion=completion.paths,
        ),
    ] = None,
    plot: Annotated[
        str | None, typer.Option("--plot", metavar="FILE", help="Write a heat map of the cosines, as SVG.")
    ] = None,
    csv: Annotated[
        str | None,
        typer.Option("--csv", metavar="FILE", help="Write the figures of every module or pair, as CSV."),
    ] = None,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Show what differs between two revisions.

    Configuration, target modules, metrics, annotations, files and lineage; with --deltas, --plot or --csv also whether
    what they learned agrees.
    """
    from registry.schemas.comparisons import delta_matrix, difference
    from registry.schemas.difference import DELTA_COLUMNS, MATRIX_COLUMNS
    from registry.schemas.frames import csv_of
    from registry.schemas.heat_maps import children_map, modules_map
    from registry.schemas.views import nothing_compared, nothing_paired

    if a is not None and b is None and ".." in a:
        raise UsageError(
            f"Two revisions are compared as two words: registry diff {a.replace('...', '..').replace('..', ' ')}"
        )
    if (a is None or b is None) if matrix is None else (a is not None):
        raise UsageError(
            "Two revisions are compared, or all children of a path; give registry diff A B or registry diff --matrix "
            "PATH."
        )
    for option, file in (("--plot", plot), ("--csv", csv)):
        if file is not None:
            check_file(option, file)

    with session(url, as_json) as run:
        if matrix is not None:
            pairs = run.registry.diff_children(matrix, progress=run.progress)
            _write(plot, children_map(pairs), csv, csv_of(pairs.rows(), MATRIX_COLUMNS))
            run.answer(pairs, delta_matrix)
            for sentence in nothing_paired(pairs):
                run.say(sentence)
            return
        wanted = deltas or plot is not None or csv is not None
        answer = run.registry.diff(a or "", b or "", deltas=wanted, progress=run.progress)
        if answer.deltas is not None:
            _write(plot, modules_map(answer.deltas), csv, csv_of(answer.deltas.rows(), DELTA_COLUMNS))
        run.answer(answer, difference)
        for sentence in nothing_compared(answer.deltas) if answer.deltas is not None else ():
            run.say(sentence)
        if not wanted and not answer.bases:
            run.next(("registry", "diff", a, b, "--deltas"), "compares what they learned")


def _write(plot: str | None, heat_map: HeatMap, csv: str | None, text: str) -> None:
    if plot is not None:
        write_file("--plot", plot, heat_map.svg())
    if csv is not None:
        write_file("--csv", csv, text)


def tree(
    path: Annotated[
        str | None,
        typer.Argument(
            metavar="PATH", help="Show only this path and everything under it.", autocompletion=completion.paths
        ),
    ] = None,
    old_names: OldNames = False,
    depth: Annotated[
        int | None, typer.Option("--depth", min=0, metavar="N", help="Show only this many levels below it.")
    ] = None,
    limit: Annotated[
        int | None, typer.Option("--limit", min=1, metavar="N", help="Show at most this many adapters.")
    ] = None,
    after: Annotated[
        str | None, typer.Option("--after", metavar="PATH", help="Show only what comes after this adapter.")
    ] = None,
    behind: Annotated[
        bool, typer.Option("--behind", help="Show only what is on an old revision of its parent, and what is above it.")
    ] = False,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Show the tree, with the newest revision of each adapter."""
    from registry.cli.render.results import tree_lines

    with session(url, as_json) as run:
        answer = run.registry.tree(path, old_names=old_names, depth=depth, limit=limit, after=after, behind=behind)
        bases = {} if as_json else {base.name: base for base in run.registry.bases(old_names=old_names)}
        run.answer(answer, lambda one: tree_lines(one, bases, run.out.width, guides=run.out.on_terminal))
        if behind:
            run.say(_about_behind(answer))
        elif not answer.roots and after is None:
            run.say(f"No base models in {run.registry.url} yet; add one with `registry base add NAME DIR`.")
        if answer.next is not None:
            run.say(f"There are more adapters: go on with `--after {answer.next}`.")


def _about_behind(tree: Tree) -> str:
    first = next((one for one in tree.adapters() if one.revision is not None and one.revision.behind), None)
    if first is None or first.revision is None:
        return "Nothing is behind: every adapter is on the newest revision of its parent."
    above = first.path.rpartition("/")[0]
    return f"How far weights would move: `registry rebase {first.revision.reference} --onto {above} --dry-run`."


def log(
    path: AdapterPath,
    *,
    limit: Annotated[
        int | None, typer.Option("--limit", min=1, metavar="N", help="List at most this many revisions.")
    ] = None,
    deleted: Annotated[bool, typer.Option("--all", help="Also list the numbers of deleted revisions.")] = False,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """List the revisions of an adapter, newest first."""
    from registry.schemas.sheets import log as described

    with session(url, as_json) as run:
        answer = run.registry.log(path, limit=limit, deleted=deleted)
        run.answer(answer, lambda one: [described(one, run.out.width)])
        run.notices(old_name_notices(answer.path, next((one.renamed_to for one in answer.revisions), None)))


def after_showing(run: Session, answer: Shown, *_: object) -> None:
    """What is useful next: statistics, if none exist yet."""
    if answer.revision is not None and not answer.revision.statistics:
        run.next(("registry", "stats", answer.revision.reference), "computes what it changed")


def after_resolving(run: Session, answer: Resolved, *_: object) -> None:
    """That it was an old name."""
    run.notices(old_name_notices(answer.reference, answer.renamed_to))


def after_searching(run: Session, answer: SearchResult, given: Mapping[str, Any]) -> None:
    """That nothing matches, and what could not be found."""
    if not answer.revisions:
        run.say("No revisions match.")
        if (target := given["target"]) and "," in target:
            run.say(f"--target takes the name of one module, such as {target.split(',')[0]}, and none has a comma.")
    for sentence in answer.notices:
        run.say(sentence)
