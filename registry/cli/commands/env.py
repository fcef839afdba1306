"""The command env: the variables that make unmodified clients of the Hub use this registry."""

from __future__ import annotations

import shlex
from typing import Annotated

import typer

from registry.cli.options import Json, Url
from registry.cli.render.screen import stderr, stdout
from registry.cli.session import print_json
from registry.errors import UsageError


def env(
    *,
    lora: Annotated[bool, typer.Option("--lora", help="Serve each path as one composed adapter for PEFT.")] = False,
    published: Annotated[bool, typer.Option("--published", help="Serve each adapter as it was published.")] = False,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Print the environment variables that point Hub clients here.

    eval "$(registry env)" sets them in a shell: transformers, PEFT, vLLM and the command hf then load the merged model
    of every path by its repo id. The token is not shown on a terminal.
    """
    from registry.app import hub_settings

    if lora and published:
        raise UsageError("--lora and --published choose different views; give one of them.")
    answer = hub_settings(url, "lora" if lora else "published" if published else "merged")
    if as_json:
        print_json(answer)
        return
    out = stdout()
    hidden = {"HF_TOKEN"} & answer.keys() if out.on_terminal else set()
    for name, value in answer.items():
        if name not in hidden:
            # not wrapped to the terminal: a shell reads it
            out.stream.write(f"export {name}={shlex.quote(value)}\n")
    out.stream.flush()
    if hidden:
        stderr().say('HF_TOKEN is not shown on a terminal; eval "$(registry env)" sets it too.', "dim")
