"""The command diff: what differs between two revisions, and how the deltas of revisions agree."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from registry.cli import completion
from registry.cli.options import Json, Url
from registry.cli.session import session
from registry.cli.written import check_file, write_file
from registry.errors import UsageError

if TYPE_CHECKING:
    from registry.plots.heat_map import HeatMap


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
    from registry.cli.render.deltas import matrix_csv, matrix_lines, modules_csv
    from registry.cli.render.difference import difference_lines
    from registry.schemas.notebooks import children_map, modules_map
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
            _write(plot, children_map(pairs), csv, matrix_csv(pairs))
            run.answer(pairs, lambda width: matrix_lines(pairs, width))
            for sentence in nothing_paired(pairs):
                run.say(sentence)
            return
        wanted = deltas or plot is not None or csv is not None
        answer = run.registry.diff(a or "", b or "", deltas=wanted, progress=run.progress)
        if answer.deltas is not None:
            _write(plot, modules_map(answer.deltas), csv, modules_csv(answer.deltas))
        run.answer(answer, lambda width: difference_lines(answer, width))
        for sentence in nothing_compared(answer.deltas) if answer.deltas is not None else ():
            run.say(sentence)
        if not wanted and not answer.bases:
            run.next(("registry", "diff", a, b, "--deltas"), "compares what they learned")


def _write(plot: str | None, heat_map: HeatMap, csv: str | None, text: str) -> None:
    if plot is not None:
        write_file("--plot", plot, heat_map.svg())
    if csv is not None:
        write_file("--csv", csv, text)
