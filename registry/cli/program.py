"""Assembles the commands of ``registry``, and runs one command line."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import PurePath
from typing import Annotated, Any

import typer
from typer.main import get_command

from registry.cli import completion
from registry.cli.commands import (
    access,
    browse,
    card,
    copy,
    database,
    delete,
    demo,
    env,
    events,
    fetch,
    materialise,
    publish,
    rename,
    retract,
    serve,
    store,
    tokens,
)
from registry.cli.elsewhere import Group
from registry.cli.exit_codes import INTERRUPTED, PIPE_CLOSED, report, wants_json
from registry.cli.options import JSON_HELP, URL_HELP
from registry.distribution import installed
from registry.version import __version__


class _Ordered(Group):
    """Lists ``base`` first in the help, because it is used first, and ``demo`` last; typer would put groups last."""

    def list_commands(self, ctx: Any) -> list[str]:
        return sorted(super().list_commands(ctx), key=lambda name: {"base": 0, "demo": 2}.get(name, 1))


def build_app() -> typer.Typer:
    """All commands, in the order of the help."""
    # On a terminal the help has panels; in a pipe it is plain text, which starts faster and can be searched.
    app = typer.Typer(
        cls=_Ordered,
        pretty_exceptions_enable=False,
        rich_markup_mode="rich" if sys.stdout.isatty() else None,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback(invoke_without_command=True)(_root)
    _add_group(
        app,
        "base",
        _base,
        add=publish.base_add,
        list=browse.base_list,
        retable=retract.retable,
        rename=rename.base_rename,
        delete=delete.base_delete,
        protect_tag=retract.protect_tag,
    )
    for command in (
        publish.publish,
        browse.tree,
        browse.log,
        browse.show,
        browse.diff,
        browse.resolve,
        browse.search,
        publish.tag,
        publish.untag,
        publish.annotate,
        rename.rename,
        card.card,
        fetch.fetch,
        fetch.verify,
        materialise.materialise,
        delete.delete,
        retract.retract,
        copy.copy,
        access.login,
        access.logout,
        access.whoami,
        env.env,
        events.events,
        *store.COMMANDS,
        serve.serve,
        demo.demo,
    ):
        app.command(help=_paragraphs(command))(command)
    _add_group(app, "token", _token, create=tokens.create, list=tokens.list_, revoke=tokens.revoke)
    _add_group(app, "db", _db, upgrade=database.upgrade)
    return app


def _add_group(app: typer.Typer, name: str, about: Callable[..., None], **commands: Callable[..., None]) -> None:
    """Add subcommands under one word, which alone shows its help."""
    group = typer.Typer(cls=Group, help=about.__doc__, rich_markup_mode=app.rich_markup_mode)
    group.callback(invoke_without_command=True)(about)
    for word, command in commands.items():
        group.command(word.replace("_", "-"), help=_paragraphs(command))(command)
    app.add_typer(group, name=name)


def _paragraphs(command: Callable[..., None]) -> str:
    """The help of a command, a line a paragraph: on a terminal, Typer breaks lines where the source does, too."""
    return "\n\n".join(" ".join(one.split()) for one in (command.__doc__ or "").split("\n\n"))


def _version(value: bool) -> None:
    if value:
        typer.echo(f"{installed()} {__version__}")
        raise typer.Exit


def _root(
    context: typer.Context,
    url: Annotated[str | None, typer.Option("--url", metavar="URL", help=URL_HELP)] = None,
    as_json: Annotated[bool, typer.Option("--json", help=JSON_HELP)] = False,
    version: Annotated[
        bool, typer.Option("-V", "--version", help="Print the version.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """Keep LoRA adapters as a tree, and compose or merge the weights along any path of it."""
    del url, as_json, version  # read from the context by the commands, see `registry.cli.options`
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


def _base(context: typer.Context) -> None:
    """Add, list, rename and delete base models."""
    _help_alone(context)


def _token(context: typer.Context) -> None:
    """Create, list and revoke tokens."""
    _help_alone(context)


def _db(context: typer.Context) -> None:
    """Maintain the database."""
    _help_alone(context)


def _help_alone(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


# Built once per process: it takes tens of milliseconds.
@cache
def _command() -> Any:
    command = get_command(build_app())
    _name_no_type_of_flags(command)
    return command


def _name_no_type_of_flags(command: Any) -> None:
    """Options that take no value say none: some versions of Typer write ``<bool>`` behind them."""
    for option in command.params:
        if getattr(option, "is_flag", False):
            option.metavar = ""
    for below in getattr(command, "commands", {}).values():
        _name_no_type_of_flags(below)


def run(args: Sequence[str]) -> int:
    """Run one command line and return its exit code; errors are reported on stderr."""
    try:
        # Not `command.main`: it handles interrupts and closed pipes itself.
        command = _command()
        with command.make_context(_name(args), list(args)) as context:
            command.invoke(context)
        sys.stdout.flush()
    except typer.Exit as end:
        return end.exit_code
    except SystemExit as end:  # of the options that install completion
        return end.code if isinstance(end.code, int) else 1
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        _drop_stdout()
        return PIPE_CLOSED
    except Exception as error:  # noqa: BLE001 - the last resort: a user sees a sentence, never a traceback
        return report(error, as_json=wants_json(args))
    return 0


def answer_shell() -> int:
    """Answer a shell that asks how a command line may go on; see `registry.cli.completion`."""
    return completion.complete(_command(), os.environ)


def _name(args: Sequence[str]) -> str:
    """How the command is called in its messages; a shell completes the name that it was called by."""
    installs = any(word.startswith(("--install-completion", "--show-completion")) for word in args)
    return "adapter-registry" if installs and PurePath(sys.argv[0]).name == "adapter-registry" else "registry"


def _drop_stdout() -> None:
    """Discard the interpreter's final flush, since the reader has closed the pipe."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
