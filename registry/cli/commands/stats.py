"""The command stats: what the links of a path changed."""

from __future__ import annotations

from typing import Annotated

import typer

from registry.cli.options import Json, Ref, Url
from registry.cli.session import session
from registry.cli.written import check_file, write_file


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
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Show what each link changed and the rank it needs.

    The figures come from the factors alone: no weight of the base model is read. They are kept with the revision.
    """
    from registry.cli.render.statistics import csv_text, statistics_lines
    from registry.schemas.notebooks import path_map

    for option, file in (("--plot", plot), ("--csv", csv)):
        if file is not None:
            check_file(option, file)
    with session(url, as_json) as run:
        answer = run.registry.stats(ref, since=since, progress=run.progress)
        if plot is not None:
            write_file("--plot", plot, path_map(answer).svg())
        if csv is not None:
            write_file("--csv", csv, csv_text(answer))
        run.answer(answer, lambda width: statistics_lines(answer, width))
        if answer.path.modules and answer.path.relative_frobenius is None:
            base = answer.reference.partition("/")[0]
            run.say(f"The norms of {base} are not known yet; `registry base measure {base}` reads its weights once.")
