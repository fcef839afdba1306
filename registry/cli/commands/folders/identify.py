"""The command identify: what a folder is made of."""

from __future__ import annotations

from typing import Annotated

import typer

from registry.cli.options import Json, Url
from registry.cli.session import session


def identify(
    folder: Annotated[
        str, typer.Argument(metavar="DIR", help="A merged model, or an adapter; a folder or its archive.")
    ],
    *,
    look_in: Annotated[
        list[str] | None,
        typer.Option(
            "--look-in",
            metavar="DIR",
            help="Of an adapter: where the folder it was trained on may be now; may be repeated.",
        ),
    ] = None,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Tell which base model and revisions a folder is made of.

    Every revision that you see is searched. Of a merged model it says which path it is, in which order the links were
    merged, or what is nearest and how much no revision explains. Of an adapter it says which base models it fits, and
    what the folder is that it was trained on.
    """
    from registry.cli.render.identified import identified_lines

    with session(url, as_json) as run:
        answer = run.registry.identify(folder, look_in=tuple(look_in or ()), progress=run.progress)
        run.answer(answer, lambda width: identified_lines(answer, width))
