"""The command check: whether an engine loads the adapter of a path."""

from __future__ import annotations

from typing import Annotated

import typer

from registry.cli.options import EngineChoice, Json, MaxLoraRank, Ref, Since, Url
from registry.cli.session import session
from registry.errors import InvalidAdapterError


def check(
    ref: Ref,
    engine: Annotated[EngineChoice, typer.Option("--engine", help="The engine that is to load it.")],
    max_lora_rank: MaxLoraRank = None,
    since: Since = None,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Tell whether an engine loads the adapter of a reference.

    Prints yes, or no with every reason and the command that writes what does load. Reads no weights. Exits with 4 if
    the answer is no.
    """
    from registry.cli.render.engines import check_lines

    with session(url, as_json) as run:
        answer = run.registry.check(ref, engine=engine.value, max_lora_rank=max_lora_rank, since=since)
        run.answer(answer, lambda width: check_lines(answer, width))
        if not answer.loads:
            raise InvalidAdapterError(
                f"{engine.value} {answer.version} can't load {answer.reference}; instead: `{answer.would_do}`.",
                code="engine_limits",
            )
